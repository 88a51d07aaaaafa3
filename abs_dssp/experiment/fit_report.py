"""The page on fitted worker times: model and data side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from abs_dssp import delays, policies, simulate
from abs_dssp.delays import Delays
from abs_dssp.experiment import fit_times
from abs_dssp.report import style
from abs_dssp.report.document import Picture, Section, Table
from abs_dssp.simulation import delay_files, fitted_times, public_times
from abs_dssp.simulation.fitted_times import Fitted

TITLE = "Worker times of real clusters, and models of them"
POLICIES = ("asp()", "ssp(s=3)", "dssp(s_lower=3,s_upper=15)", "k_sync(k={half})")
_RUNS = 40  # samples of the model, as long as the data
_SEEDS = 10  # schedules of the model
_SHOWN = 10  # workers in a picture
_LAGS = (1, 10, 50)


class Fit(NamedTuple):
    """A job's times and their model."""

    name: str
    times: Sequence[np.ndarray]  # (M_i,) of every worker, in seconds
    job: Fitted
    samples: np.ndarray  # (N, R, M) of the model, as long as the shortest of the times

    @property
    def lines(self) -> int:
        """M, of the worker with the fewest."""
        return self.samples.shape[2]


def load(name: str, folder: str, job: Fitted) -> Fit:
    """A job's times in the seconds of its fit.

    Args:
      name: of the job.
      folder: as for `public_times.read`.
      job: its fit.
    """
    times = public_times.read(name, folder)
    scale = job.mean.sum() / sum(float(mine.mean()) for mine in times)
    count = min(map(len, times))
    drawn = delays.table(fitted_times.like(job), _RUNS * count)
    samples = drawn.reshape(len(times), _RUNS, count)
    return Fit(name, [scale * mine for mine in times], job, samples)


def sections(fits: Sequence[Fit], out: Path) -> list[Section]:
    """The page; writes its pictures.

    Args:
      fits: of all jobs.
      out: folder of the pictures.
    """
    made = [schedule for fit in fits for schedule in _schedules(fit)]
    schedules = [schedule.row() for schedule in made]
    moments = [_moments(fit) for fit in fits]
    pictures = [_picture(fit, out / f"{fit.name}.png") for fit in fits]
    header = ["job", "policy", "throughput, data", "model", "staleness, data", "model"]
    columns = ["job", "workers", "lines each", "slowest / fastest mean", "two states"]
    columns += ["cv", "cv, model"]
    columns += [f"autocorrelation at {lag}, model's miss" for lag in _LAGS]
    columns += ["correlation of workers", "longest / mean", "model"]
    caption = (
        "Coefficient of variation (cv) and autocorrelation: of a worker, mean over the "
        "workers; the model's in samples as long as the data. The miss is the root "
        "mean square over workers. The correlation of two workers' times is a mean "
        "over pairs, and 0 in the model. Longest time of the job over its mean."
    )
    scheduled = (
        "Throughput, pushes that a worker makes in the mean time of the job's "
        "computations, and mean staleness, over as many pushes as the job has lines; "
        f"model: mean of {_SEEDS} seeds and one deviation. Under k_sync no push "
        "is stale."
    )
    return [
        Section("What is modelled", [_WHAT, _sources(fits)]),
        Section(
            "What it does to staleness",
            [Table(scheduled, header, schedules), _largest(made)],
        ),
        Section("Moments", [Table(caption, columns, moments)]),
        Section("Where the model misses", [_MISSES]),
        Section("Workers one by one", pictures),
    ]


_WHAT = """\
`delays.measured("alibaba-job4")`, as text too:
`--delays='measured("alibaba-job4",mean=0.2)'`. A worker's time is log-normal; a
part of its logarithm persists from one computation to the next (first-order
autoregression), the rest is white noise. Where a worker's times fall into two
groups it changes between two states with chances of their own. Mean and coefficient
of variation are those of the data for every worker, the autocorrelation is fitted,
and seven numbers a worker are all that ships
(`abs_dssp/simulation/fitted_times.toml`). Whoever has the files replays them
instead: `abs_dssp.simulation.public_times.replayed`.

A computation is a line of the published file. Alibaba recorded every tenth
iteration or so: a spell of slowness lasts a tenth as many computations here as it
did there. Of ByteDance's jobs a computation is what a data-parallel rank computes
in a sampled step; the steps are not consecutive."""
_MISSES = """\
- **Workers that turn slow together.** Workers are independent here. In job 3 four
  of ten turn slow at the same time, in job 4 two, and in AR and ST nearly all that
  varies is common: see the correlation of workers. Rules that wait suffer less from
  slowness that all share than the model says.
- **Events.** A worker of job 4 turned slow once, and stayed so. A chain with one
  change in 2,183 lines may turn early, late or never, so one seed differs much from
  the next, and from the data: take many seeds, or the data. A run that ends before the
  worker turns shows it: over half as many pushes the data had a throughput of 0.61
  under ssp(s=3) and 0.66 under dssp, the model 0.43 and 0.44 (on 2026-11-29).
- **More than two levels.** The same workers of job 4 were at three or four levels;
  the model has two, and the mean and variation of all.
- **Spikes.** Single lines that last three times as long as others (job 4, workers 1
  and 2) become a wider log-normal: times a little longer or shorter than any that
  was measured come often, spikes never.
- **Memory.** In samples as long as the data a worker's times are less correlated than
  the data are where it changed state once, since many samples show no change at all.
  Job 3 also fluctuates with a period of about ten lines, which the model does not.
- **Short spells.** Slowness of fewer than about nine lines counts as noise.
- **Few data.** ByteDance's jobs have 32 to 44 steps: their means and variation are
  worth something, their memory is a guess."""


def _sources(fits: Sequence[Fit]) -> Table:
    rows = []
    for fit in fits:
        source = public_times.find(fit.name).source
        rows.append([fit.name, source.title, source.where, source.licence])
    return Table("", ["job", "published as", "at", "licence"], rows)


class _Schedule(NamedTuple):
    """A policy on a job's times, and on those of its model."""

    name: str
    policy: str
    rate: float
    rates: np.ndarray  # of the model, by seed
    stale: float
    stales: np.ndarray

    def row(self) -> list[str]:
        numbers = (self.rate, self.rates, self.stale, self.stales)
        return [self.name, self.policy, *(_text(each) for each in numbers)]


def _schedules(fit: Fit) -> list[_Schedule]:
    """Every policy on the data, and on the model under many seeds."""
    n = len(fit.times)
    pushes, unit = n * fit.lines, float(fit.job.mean.mean()) / n
    data = delay_files.of_workers(fit.times, None, None, fit.name)
    model = fitted_times.like(fit.job)
    made = []
    for template in POLICIES:
        text = template.format(half=(n + 1) // 2)
        rate, stale = _measured(text, data, pushes, 1)
        rates, stales = _measured(text, model, pushes, _SEEDS)
        seen = unit * float(rate[0]), unit * rates, float(stale[0]), stales
        made.append(_Schedule(fit.name, text, *seen))
    return made


def _measured(
    text: str, model: Delays, pushes: int, seeds: int
) -> tuple[np.ndarray, np.ndarray]:
    """Accepted pushes a second, and mean staleness, for every seed."""
    policy = policies.parse(text, model.num_workers)
    made = [simulate.schedule(policy, model, pushes, seed) for seed in range(seeds)]
    rates = [float(trace.accepted.sum()) / trace.seconds for trace in made]
    return np.array(rates), np.array([float(t.staleness.mean()) for t in made])


def _largest(made: Sequence[_Schedule]) -> str:
    """Where the model's mean is farthest from the data."""
    rates = [float(one.rates.mean()) / one.rate - 1 for one in made]
    stales = [float(one.stales.mean()) / one.stale - 1 if one.stale else 0.0
              for one in made]  # fmt: skip
    parts = []
    for what, misses in (("throughput", rates), ("staleness", stales)):
        worst = int(np.abs(misses).argmax())
        job, policy = made[worst].name, made[worst].policy
        within = np.mean(np.abs(misses) <= 0.05)
        parts.append(
            f"The model's mean {what} is within 5% of the data's in {within:.0%} of "
            f"the rows; farthest off, by {misses[worst]:+.0%}, for {job} under "
            f"{policy}."
        )
    return " ".join(parts)


def _text(values: float | np.ndarray) -> str:
    if isinstance(values, float):
        return f"{values:.3f}"
    return f"{values.mean():.3f} ±{values.std(ddof=1):.3f}"


def _moments(fit: Fit) -> list[str]:
    samples, means = fit.samples, fit.job.mean
    lags = [lag for lag in _LAGS if lag <= fit.lines // 8]
    found = np.array([fit_times.autocorrelation(mine, lags) for mine in fit.times])
    drawn = _autocorrelations(samples, lags).mean(axis=1)
    misses = np.sqrt(((found - drawn) ** 2).mean(axis=0))
    texts = [
        f"{found[:, i].mean():.2f}, {misses[i]:.2f}" if i < len(lags) else "-"
        for i in range(len(_LAGS))
    ]
    varies = (samples.std(axis=2) / samples.mean(axis=2)).mean()
    together = np.corrcoef([mine[: fit.lines] for mine in fit.times])
    pairs = together[np.triu_indices(len(together), 1)]
    longest = max(float(mine.max()) for mine in fit.times) / means.mean()
    drawn_longest = samples.max(axis=(0, 2)).mean() / means.mean()
    return [
        *(fit.name, f"{len(fit.times)}", f"{fit.lines:,}"),
        *(f"{means.max() / means.min():.2f}", f"{(fit.job.slow > 1).sum()}"),
        *(f"{fit.job.cv.mean():.3f}", f"{varies:.3f}", *texts),
        *(f"{pairs.mean():.2f}", f"{longest:.1f}", f"{drawn_longest:.1f}"),
    ]


def _autocorrelations(
    samples: Float[np.ndarray, "N R M"], lags: Sequence[int]
) -> Float[np.ndarray, "N R L"]:
    found = [[fit_times.autocorrelation(x, lags) for x in mine] for mine in samples]
    return np.array(found)


def _picture(fit: Fit, path: Path) -> Picture:
    """Of every worker the distribution and, below it, the autocorrelation."""
    shown = min(len(fit.times), _SHOWN)
    columns = min(shown, 5)
    lines = -(-shown // columns)
    most = max(min(50, fit.lines // 8), 2)
    lags = np.unique(np.geomspace(1, most, 12).round().astype(int)).tolist()
    samples = fit.samples
    drawn = _autocorrelations(samples, lags)
    with style.figure() as plt:
        size = (1.28 * columns + 0.4, 2.3 * lines + 0.3)
        figure, panels = plt.subplots(2 * lines, columns, squeeze=False, figsize=size)
        for worker in range(shown):
            row, column = 2 * (worker // columns), worker % columns
            above, below = panels[row, column], panels[row + 1, column]
            above.set_title(f"worker {worker}", pad=2)
            _distribution(above, fit, worker, samples[worker])
            found = fit_times.autocorrelation(fit.times[worker], lags)
            low, middle, high = np.quantile(drawn[worker], [0.05, 0.5, 0.95], axis=0)
            model = style.line(1)["color"]
            below.fill_between(lags, low, high, color=model, alpha=0.25, linewidth=0)
            below.plot(lags, middle, color=model)
            below.plot(lags, found, color=style.line(0)["color"])
            below.set(xscale="log", ylim=(-0.5, 1.05), xlim=(1, most))
            below.set_xticks([1, 10, 50] if most == 50 else [1, most])
            below.minorticks_off()
            below.set_xticklabels([f"{tick:g}" for tick in below.get_xticks()])
            if column:
                above.set_yticklabels([])
                below.set_yticklabels([])
            else:
                above.set_ylabel("share")
                below.set_ylabel("correlation")
            if column == columns // 2:  # one label for the row
                above.set_xlabel("time / mean of the job", labelpad=1)
                below.set_xlabel("lag in lines", labelpad=1)
        for empty in panels.flat[2 * columns * lines :]:
            empty.set_axis_off()
        handles = panels[0, 0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=2)
        style.save(figure, path)
    rest = "" if shown == len(fit.times) else f" The first {shown} of {len(fit.times)}."
    return Picture(
        path,
        f"{fit.name}: of each worker the share of times below a multiple of the job's "
        f"mean, and below it the autocorrelation by lag in lines.{rest} The band holds "
        f"nine tenths of {_RUNS} samples of the model that are as long as the data.",
    )


def _distribution(axes, fit: Fit, worker: int, samples: np.ndarray) -> None:
    """Quantiles of a worker's times, in units of the job's mean."""
    shares = np.linspace(0.002, 0.998, 200)
    unit = fit.job.mean.mean()
    for number, (label, times) in enumerate(
        (("data", fit.times[worker]), ("model", samples.ravel()))
    ):
        color = style.line(number)["color"]
        axes.plot(np.quantile(times / unit, shares), shares, color=color, label=label)
    axes.set(ylim=(0, 1))
    axes.margins(x=0.04)
    axes.locator_params(axis="x", nbins=3)
