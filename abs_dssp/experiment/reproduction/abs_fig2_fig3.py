"""ABS's Figures 2 and 3: ABS against AdaSync, SA-AdaSync and Local SGD."""

import dataclasses

from abs_dssp.experiment.reproduction import abs_setting, study
from abs_dssp.experiment.reproduction.abs_setting import MAIN
from abs_dssp.experiment.reproduction.study import Context, Outcomes
from abs_dssp.experiment.run import Run
from abs_dssp.experiment.statistics import time_text
from abs_dssp.report.document import Claim, Part, Section

_CRITERIA = (
    ("seconds", "sooner", "s"),
    ("version", "in fewer rounds", "rounds"),
    ("messages", "with fewer messages", "messages"),
)
RIVALS = ("AdaSync", "SA-AdaSync", "Local SGD")
_LATENCY = 2.0  # of a push, in mean local steps, where times or methods vary


@dataclasses.dataclass(frozen=True)
class _Setting:
    """What methods are compared in."""

    workers: int
    timing: str
    latency: float
    more: bool  # whether variants take part

    @property
    def title(self) -> str:
        """In words, for tables and claims."""
        push = (
            f"a push takes {self.latency:g} steps" if self.latency else "no push time"
        )
        return push if self.timing == MAIN else f"{self.timing}, {push}"


def _settings(context: Context, number: int, workers: int) -> list[_Setting]:
    scale = context.scale
    main = [
        _Setting(
            workers,
            MAIN,
            latency,
            scale.abs_ablations and number == 2 and latency == _LATENCY,
        )
        for latency in scale.abs_latencies
    ]
    if number != 2:
        return main
    return main + [
        _Setting(workers, timing, _LATENCY, False) for timing in scale.abs_timings
    ]


def _methods(context: Context, setting: _Setting) -> dict[str, Run]:
    """ABS, its three rivals in the paper's order, and variants of all of them."""
    scale, workers = context.scale, setting.workers
    steps = scale.abs_local_steps

    def made(text, local_steps=steps, aggregate="mean"):
        run = abs_setting.run(
            context, workers, text, local_steps, setting.timing, setting.latency
        )
        # Pushes between two estimates of the loss, for those who read it: after as
        # many gradients, whatever U.
        every = 2 * workers * steps // local_steps
        return dataclasses.replace(run, loss_every=every, aggregate=aggregate)

    k0 = max(1, workers // 4)  # 5 of 20 as in Figure 4
    interval = f"k0=1,interval={scale.abs_interval!r}"
    # Weights divided by their sum would cancel where one push makes a commit.
    adaptive = {"AdaSync": ("adasync", "mean"), "SA-AdaSync": ("sa_adasync", "count")}
    methods = {"ABS": made(f'abs(k0={k0},a=0.5,growth="loss")')} | {
        name: made(f"{rule}({interval})", 1, aggregate)
        for name, (rule, aggregate) in adaptive.items()
    }
    methods["Local SGD"] = made("local_sgd()")
    if not setting.more:
        return methods
    return (
        methods
        | {
            f"{name}, U = {steps}": made(f"{rule}({interval})", steps, aggregate)
            for name, (rule, aggregate) in adaptive.items()
        }
        | {
            "ABS, power 1": made(f'abs(k0={k0},a=1.0,growth="loss")'),
            "ABS, by rounds": made(f"abs(k0={k0},a={scale.abs_a})"),
            "ABS, K0 = 1": made('abs(k0=1,a=0.5,growth="loss")'),
            "ABS, no restarts": made(
                f'abs(k0={k0},a=0.5,growth="loss",tau_max=1000000)'
            ),
            "ABS, K fixed": made(f"abs(k0={k0})"),
        }
    )


def build(context: Context, number: int, workers: int) -> Section:
    """All runs, pictures, tables and claims of a figure.

    Args:
      context: scale, and where runs are made.
      number: of the figure, 2 or 3.
      workers: N.
    """
    folder, scale = context.folder(f"abs_fig{number}"), context.scale
    problem, target = scale.problems["abs"], abs_setting.targets(context)[-1]
    parts: list[Part] = [
        f"{abs_setting.NOTE} N = {workers}; ABS (K0 = N / 4, K = K0 (F_0 / F)^(1/2), "
        f"tau_max = ceil(N / K)) and Local SGD make U = {scale.abs_local_steps} local "
        "steps per push, AdaSync and SA-AdaSync one unless their name says another. "
        "Every method runs for the same time, at the best step size of its own in "
        "every setting. Communication is counted in rounds (commits) and in messages "
        "(uploads and downloads)."
    ]
    claims: list[Claim] = []
    shown: dict[str, Outcomes] = {}
    for setting in _settings(context, number, workers):
        label = f"ABS Figure {number}, {setting.title}"
        runs = _methods(context, setting)
        rates, tuning = context.tune(runs, problem, label)
        made = context.over_seeds(
            study.at_rates(runs, rates), label, scale.seeds_of_abs
        )
        parts += [abs_setting.results(context, made, setting.title), tuning]
        claims += _claims(made, target, setting)
        if setting.timing == MAIN:
            shown[setting.title] = {name: made[name] for name in ("ABS", *RIVALS)}
    caption = (
        f"ABS, Figure {number}: N = {workers}, against time, rounds (commits) and "
        "messages. Bands: one deviation over seeds."
    )
    path = folder / f"figure{number}.png"
    parts.append(abs_setting.picture(context, shown, path, caption))
    return Section(f"ABS, Figure {number}: N = {workers}", parts, claims)


def _claims(made: Outcomes, target: float, setting: _Setting) -> list[Claim]:
    """Against each rival: sooner, in fewer rounds, with fewer messages."""
    mine = made["ABS"]
    claims = []
    for column, what, unit in _CRITERIA:
        for name, rival in made.items():
            if not name.startswith(RIVALS):
                continue
            shown = (
                time_text(study.times_to(each, target, column))
                for each in (mine, rival)
            )
            ours = "{} against {} ({unit})".format(*shown, unit=unit)
            claims.append(
                study.compared(
                    f"ABS reaches {target:.0%} {what} than {name} (N = "
                    f"{setting.workers}, {setting.title})",
                    "yes (no number in the text)",
                    ours,
                    (mine, rival),
                    study.sooner(mine, rival, target, column),
                    _why(made, name, column),
                )
            )
    return claims


def _why(made: Outcomes, rival: str, column: str) -> str:
    mine, theirs = (made[name][0].measures for name in ("ABS", rival))
    if column == "version":
        return (
            f"{rival} combines {theirs['pushes'] / max(theirs['commits'], 1):.1f} "
            f"pushes in a round, ABS {mine['pushes'] / max(mine['commits'], 1):.1f}"
        )
    return (
        f"ABS: {mine['commits']} commits, {mine['waiting_share']:.0%} waiting, "
        f"{mine['cancelled_share']:.0%} cancelled; {rival}: {theirs['commits']}, "
        f"{theirs['waiting_share']:.0%}, {theirs['cancelled_share']:.0%}"
    )
