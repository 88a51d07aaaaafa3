"""DSSP's Figure 3: four equal workers, networks with and without much to send.

BSP, ASP, DSSP(3, 15) and SSP with s = 3...15, each and averaged. Times come from
`timing`, with the paper's networks at every scale; what is trained is the scale's.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from abs_dssp import delays, policies, simulate
from abs_dssp.experiment import verdicts
from abs_dssp.experiment.reproduction import dssp_fig3_claims as claims
from abs_dssp.experiment.reproduction import panels, papers, study, timing
from abs_dssp.experiment.reproduction.dssp_fig3_claims import Trained, ssp_names
from abs_dssp.experiment.reproduction.panels import Curve, Panel, look
from abs_dssp.experiment.reproduction.scales import TITLES
from abs_dssp.experiment.reproduction.study import Context, finals
from abs_dssp.experiment.run import Run
from abs_dssp.experiment.statistics import spread
from abs_dssp.report.document import (
    BY_CONSTRUCTION,
    Claim,
    Part,
    Picture,
    Section,
    Table,
)
from abs_dssp.traces import Trace

JITTER = 0.05  # sigma of the lognormal computation times
ROUGH = 0.6  # the same where thresholds begin to act even here
FIRST = {"BSP": "bsp()", "ASP": "asp()", "DSSP": papers.DSSP}
MAIN = ("BSP", "ASP", "DSSP", "SSP s = 3")


def ssp(thresholds: Sequence[int]) -> dict[str, str]:
    """SSP with each threshold, by name."""
    return {f"SSP s = {s}": f"ssp(s={s})" for s in thresholds}


ALL = FIRST | ssp(papers.SSP_RANGE)


def build(context: Context) -> Section:
    """All runs, pictures, tables and claims of the figure."""
    cluster = timing.calibrate()
    folder = context.folder("dssp_fig3")
    ends, end_claims = _ends(cluster, context.scale.length)
    problems = context.scale.problems
    titles = {network: problems[network].title(network) for network in TITLES}
    trained = Trained(titles=titles)
    tables: list[Part] = []
    for network, title in TITLES.items():
        tuning = _train(context, cluster, network, trained)
        tables += [
            f"{title}, for which {context.scale.problems[network].describe()} is "
            "trained:",
            tuning,
            _accuracies(trained, network, context.scale.trained_out),
        ]
    parts: list[Part] = [
        "Four equal workers. Computation, the server's link and the server's updates "
        "take the times of `reproduction/timing.py`, of which five constants are "
        "calibrated on five of the six ends that the paper's plots show. A server "
        "updates array by array: ResNets with hundreds of small arrays are bound by "
        "updates, which BSP makes once per round and the others once per push; AlexNet "
        "is bound by its bytes. Both of the paper's orders follow.",
        ends,
        "In this model the server is the bottleneck of every stale paradigm, so it "
        "serves equal workers in turn: nobody gets ahead, no threshold ever acts, and "
        "ASP, SSP and DSSP make the same schedule, push by push. Runs with equal "
        "traces have equal parameters, and are trained once.",
        _schedules(cluster, context.scale.length),
        "Drops of the ResNets' step size count updates at the server, and pushes are "
        "averaged in a round, as MXNet's Module does both; docs/mxnet.md shows it.",
        *tables,
        _picture(trained, context.scale.ssp, folder),
        _variants_picture(trained, folder),
    ]
    targets = {name: p.targets[0] for name, p in context.scale.problems.items()}
    title = "DSSP, Figure 3: a homogeneous cluster"
    return Section(title, parts, [*end_claims, *claims.check(trained, targets)])


def _train(
    context: Context, cluster: timing.Cluster, network: str, trained: Trained
) -> Table:
    """Makes all runs of a network, and gives the table of their tuned step sizes."""
    label, scale = f"Figure 3, {trained.titles[network]}", context.scale
    runs, table = study.tuned_by_kind(
        context, _runs(context, cluster, network), scale.problems[network], label
    )
    trained.made[network] = context.over_seeds(runs, label)
    variants = _variants(context, runs, network)
    trained.variants[network] = context.over_seeds(variants, f"{label}, other settings")
    trained.longer[network] = study.trained_out(context, runs["BSP"], label)
    return table


def _runs(context: Context, cluster: timing.Cluster, network: str) -> dict[str, Run]:
    scale, problem = context.scale, context.scale.problems[network]
    falls = network != "alexnet"  # the ResNets' step size falls
    size, link = timing.footprint(network), timing.link(cluster, network)
    assert problem.epochs is not None
    rounds = problem.epochs * problem.samples / problem.batch_size / timing.WORKERS
    shortest = min(timing.round_seconds(cluster, network)) * rounds
    # MXNet's schedule counts updates at the server; an epoch of a worker's share is
    # samples / batch / N of them.
    drops = [at / papers.EPOCHS * rounds for at in papers.DROPS]
    run = problem.run(
        workers=timing.WORKERS,
        delays=_delays(cluster, network, JITTER),
        communication=f"link(bandwidth={cluster.bandwidth!r},shared=True,"
        f"num_bytes={2 * size.num_bytes},update={link.update!r})",
        eval_seconds=shortest / scale.evaluations,
        clock="server_updates",
        drops=tuple(round(at) for at in drops) if falls else (),
    )
    return study.under(run, FIRST | ssp(scale.ssp))


def _delays(cluster: timing.Cluster, network: str, jitter: float) -> str:
    return f"lognormal(median={cluster.compute[network]!r},sigma={jitter})"


def _variants(context: Context, runs: dict[str, Run], network: str) -> dict[str, Run]:
    """Other readings of what MXNet did."""
    varied = {}
    if network == "resnet50":
        summed = dataclasses.replace(runs["BSP"], aggregate="sum")
        varied["BSP, pushes summed"] = summed
        drops = study.epoch_drops(context.scale.problems[network])
        for name in ("BSP", "ASP"):
            run = dataclasses.replace(runs[name], clock="epoch", drops=drops)
            varied[f"{name}, drops by epoch"] = run
    return varied


def _ends(cluster: timing.Cluster, length: float) -> tuple[Table, list[Claim]]:
    rows, claims = [], []
    for network, paper in papers.FIGURE_3.items():
        ends = {
            name: _trace(cluster, network, ALL[name], JITTER, length).seconds / length
            for name in MAIN
        }
        formula = [s * timing.ROUNDS for s in timing.round_seconds(cluster, network)]
        seconds = [paper.bsp_end, paper.dssp_end, *formula, *ends.values()]
        rows.append([TITLES[network], *(f"{value:.0f}" for value in seconds)])
        ours, theirs = ends["BSP"] / ends["DSSP"], paper.bsp_end / paper.dssp_end
        order = "slowest to end with" if theirs > 1 else "fastest to end without"
        why = "the ends follow from bytes, number of arrays and two shared constants"
        claim = f"BSP is the {order} much fully connected ({TITLES[network]})"
        row = (claim, f"BSP / DSSP {theirs:.2f}", f"{ours:.2f}")
        if network == "resnet110":
            why += "; DSSP's end is predicted, not calibrated"
            holds = verdicts.exactly((ours > 1) == (theirs > 1), ours)
            claims.append(verdicts.claim(*row, holds, why))
        else:
            claims.append(Claim(*row, BY_CONSTRUCTION, why))
    table = Table(
        "Seconds to the end of 300 epochs: the paper's plots, our two formulas, and "
        "full-length schedules. All but ResNet-110's DSSP were used to calibrate.",
        ["network", "paper BSP", "paper DSSP", "formula BSP", "formula stale", *MAIN],
        rows,
    )
    return table, claims


def _trace(
    cluster: timing.Cluster, network: str, text: str, jitter: float, length: float
) -> Trace:
    """A schedule as long as the paper's runs, or a part of it."""
    workers, link = timing.WORKERS, timing.link(cluster, network)
    speed = delays.lognormal([cluster.compute[network]] * workers, jitter)
    pushes = round(timing.ROUNDS * workers * length)
    policy = policies.parse(text, workers)
    return simulate.schedule(policy, speed, pushes, communication=link)


def _schedules(cluster: timing.Cluster, length: float) -> Table:
    """How different the stale schedules are, by jitter."""
    stale = [text for name, text in ALL.items() if name != "BSP"]
    rows = []
    for network, title in TITLES.items():
        for jitter in (JITTER, 0.3, ROUGH):
            traces = [_trace(cluster, network, t, jitter, length) for t in stale]
            distinct = {(t.time.tobytes(), t.worker.tobytes()) for t in traces}
            gaps = [int(t.gaps.max()) for t in traces]
            ends = [t.seconds for t in traces]
            row = [f"{title}, jitter {jitter:.0%}", f"{len(distinct)} of {len(traces)}"]
            rows.append([*row, f"{gaps[0]}", f"{max(ends) / min(ends):.3f}"])
    return Table(
        "Fifteen stale paradigms (ASP, DSSP, SSP s = 3...15) over 300 epochs: how many "
        "schedules differ, how far ASP's workers drift apart, and the latest end over "
        "the earliest. Jitter is sigma of the logarithm of a computation time.",
        ["", "distinct schedules", "ASP's largest lead", "ends, max / min"],
        rows,
    )


def _accuracies(trained: Trained, network: str, longer: float) -> Table:
    made = trained.made[network] | trained.variants[network]
    made[f"BSP, {longer:g} times as many epochs"] = trained.longer[network]
    rows = [
        [name, f"{outcomes[0].measures['seconds']:.1f}", spread(finals(outcomes))]
        for name, outcomes in made.items()
    ]
    caption = "Accuracy at the end (mean of five evaluations; spread over seeds)."
    return Table(caption, ["method", "end (s)", "accuracy"], rows)


def _picture(trained: Trained, thresholds: Sequence[int], folder: Path) -> Picture:
    top, bottom = [], []
    dashed, dotted = look(2, linestyle=(0, (5, 1.5))), look(1, linestyle=(0, (1, 1)))
    for network, title in trained.titles.items():
        outcomes = trained.made[network]
        names = ssp_names(outcomes)
        first = {name: outcomes[name] for name in ("BSP", "ASP", "DSSP")}
        lines = panels.curves(first, [look(0), look(3), dotted])
        groups = [[one.history for one in outcomes[name]] for name in names]
        lines.append(Curve("average SSP", panels.average(groups), dashed))
        top.append(Panel(title, lines))
        each = {name.replace("SSP ", ""): outcomes[name] for name in names}
        shades = panels.curves(each, panels.shades(len(names)))
        # Thirteen bands would hide each other.
        narrow = [dataclasses.replace(line, band=False) for line in shades]
        bottom.append(Panel(title, [*narrow, lines[2]]))
    path = panels.save([*top, *bottom], folder / "figure3.png", columns=3)
    shown = ", ".join(map(str, thresholds))
    return Picture(
        path,
        f"Figure 3. Top: BSP, ASP, SSP averaged over s = {shown}, DSSP(3, 15). Bottom: "
        "every s beside DSSP. Learning-rate drops of the ResNets count updates at the "
        "server. Bands: one deviation over seeds, below of DSSP alone. Where the stale "
        "paradigms' schedules are equal, one line stands for them.",
    )


def _variants_picture(trained: Trained, folder: Path) -> Picture:
    both = trained.made["resnet50"] | trained.variants["resnet50"]
    shown = {f"{name}, drops by server updates": both[name] for name in ("BSP", "ASP")}
    shown |= {name: both[name] for name in both if name.endswith("drops by epoch")}
    lines = panels.curves(shown)
    path = panels.save(panels.time_and_epochs(lines), folder / "clocks.png")
    return Picture(
        path,
        f"{trained.titles['resnet50']}: the clock that the learning-rate schedule "
        "follows. At the server four workers count four times as fast under ASP as "
        "under BSP.",
    )
