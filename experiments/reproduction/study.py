"""What every figure's script does around its own work: flags, runs, report."""

import dataclasses
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import entry
import numpy as np
import outputs
from absl import flags

from abs_dssp.report import document
from reproduction import scales
from reproduction.runs import Outcome, Run, Runner
from reproduction.scales import Scale

_SCALE = flags.DEFINE_enum(
    "scale", "smoke", sorted(scales.SCALES), "How large: seconds, hours or days."
)
_OUT = flags.DEFINE_string("out", "out/reproduction", "Output folder.")
_PROCESSES = flags.DEFINE_integer(
    "processes", None, "Runs at a time; as many as there are cores by default, 1 on a "
    "GPU.", lower_bound=1,
)  # fmt: skip
_SEEDS = flags.DEFINE_integer("seeds", None, "Instead of the scale's.", lower_bound=1)
_DATA = flags.DEFINE_string("data_dir", None, "Folder of prepared TFDS data.")


@dataclasses.dataclass(frozen=True)
class Context:
    """The scale, and where and how runs are made."""

    scale: Scale
    out: Path
    runner: Runner

    @property
    def seeds(self) -> range:
        return range(self.scale.seeds)

    def execute(self, wanted: Iterable[Run], label: str) -> dict[Run, Outcome]:
        """See `Runner.execute`."""
        return self.runner.execute(wanted, label)

    def over_seeds(
        self, named: Mapping[str, Run], label: str
    ) -> dict[str, list[Outcome]]:
        """Every run with every seed, by name."""
        wanted = {
            name: [dataclasses.replace(run, seed=seed) for seed in self.seeds]
            for name, run in named.items()
        }
        made = self.execute((r for rs in wanted.values() for r in rs), label)
        return {name: [made[run] for run in rs] for name, rs in wanted.items()}

    def tune(
        self, named: Mapping[str, Run], grid: Sequence[float], label: str
    ) -> tuple[dict[str, float], document.Table]:
        """The best step size of every method, each from the same grid.

        One seed of its own, training data without the validation split, the whole
        length of the run. The best is that with the highest accuracy averaged over the
        evaluations, which favours neither a fast start nor a high end alone.
        """
        seed = 1000  # no seed of a final run
        wanted = {
            (name, rate): dataclasses.replace(
                run, learning_rate=rate, seed=seed,
                validation=self.scale.validation, limit_test=None,
            )
            for name, run in named.items()
            for rate in grid
        }  # fmt: skip
        made = self.execute(wanted.values(), f"{label}, tuning")
        scores = {place: mean_accuracy(made[run]) for place, run in wanted.items()}
        chosen = {
            name: max(grid, key=lambda rate: scores[name, rate]) for name in named
        }
        table = document.Table(
            f"Step sizes tuned alike: accuracy on {self.scale.validation} validation "
            "samples, averaged over the run, one seed; the best of each row was taken.",
            ["method", *(f"{rate:g}" for rate in grid), "taken"],
            [
                [
                    name,
                    *(f"{scores[name, rate]:.3f}" for rate in grid),
                    f"{chosen[name]:g}",
                ]
                for name in named
            ],
        )
        return chosen, table


def mean_accuracy(outcome: Outcome) -> float:
    """Accuracy averaged over the evaluations; 0 for a run that diverged."""
    if outcome.stopped != "end":
        return 0.0
    return float(outcome.history.column("accuracy").mean())


def at_rates(named: Mapping[str, Run], rates: Mapping[str, float]) -> dict[str, Run]:
    """The same runs with step sizes of their own."""
    return {
        name: dataclasses.replace(run, learning_rate=rates[name])
        for name, run in named.items()
    }


def finals(outcomes: Sequence[Outcome]) -> np.ndarray:
    """The final accuracy of every seed."""
    return np.array([outcome.final for outcome in outcomes])


def spread(values: Sequence[float] | np.ndarray, form: str = "{:.3f}") -> str:
    """Mean and sample standard deviation."""
    values = np.asarray(values, float)
    text = form.format(values.mean())
    return f"{text} ± {form.format(values.std(ddof=1))}" if len(values) > 1 else text


def times_to(
    outcomes: Sequence[Outcome], target: float, column: str = "seconds"
) -> list[float | None]:
    """Where each seed reaches the target."""
    return [outcome.reaching(target, column) for outcome in outcomes]


def mean_time(times: Sequence[float | None]) -> float | None:
    """The mean over seeds; None unless all of them got there."""
    known = [t for t in times if t is not None]
    return float(np.mean(known)) if known and len(known) == len(times) else None


def time_text(times: Sequence[float | None], form: str = "{:.0f}") -> str:
    """Mean and spread of times, and how many seeds got there at all."""
    known = [t for t in times if t is not None]
    if not known:
        return "never"
    text = spread(known, form)
    return text if len(known) == len(times) else f"{text} ({len(known)}/{len(times)})"


def separate(a: np.ndarray, b: np.ndarray, margin: float = 0.0) -> bool:
    """Whether a's mean exceeds b's by `margin` and two standard errors."""
    if len(a) < 2 or len(b) < 2:
        return bool(a.mean() - b.mean() > margin)
    error = np.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b))
    return bool(a.mean() - b.mean() > margin + 2 * error)


def verdict(agrees: bool) -> str:
    return document.AGREES if agrees else document.DIFFERS


def context() -> Context:
    """What the flags ask for.

    Raises:
      ValueError: for a folder that cannot be written, or missing data.
    """
    import jax

    scale = scales.SCALES[_SCALE.value]
    if _SEEDS.value is not None:
        scale = dataclasses.replace(scale, seeds=_SEEDS.value)
    on_cpu = jax.default_backend() == "cpu"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    processes = _PROCESSES.value or (cores if on_cpu else 1)
    data_dir = None if _DATA.value is None else str(Path(_DATA.value).resolve())
    out = outputs.folder(str(outputs.folder(_OUT.value) / scale.name))
    return Context(scale, out, Runner(out, processes, data_dir))


def setting(
    context: Context, took: float, each: Mapping[str, float] | None = None
) -> document.Section:
    """Where and with what a report was made, and how long it and each figure took."""
    import jax

    device = jax.devices()[0]
    return document.Section(
        "Setting",
        [
            f"Scale `{context.scale.name}`: {context.scale.describe()}",
            f"Made on {outputs.today()}, {outputs.machine(device)}. Seeds 0 to "
            f"{context.scale.seeds - 1}. This call took {took:.0f} s; runs kept from "
            f"before are not made again."
            + "".join(f" {name}: {s:.0f} s." for name, s in (each or {}).items()),
        ],
    )


def save(title: str, sections: Sequence[document.Section], place: Path) -> None:
    """report.md and report.html."""
    document.save_markdown(title, sections, place / "report.md")
    document.save_html(title, sections, place / "report.html")


def main(build: Callable[[Context], document.Section], name: str) -> None:
    """Runs one figure's script."""

    def run(argv):
        del argv
        begun = time.monotonic()
        here = context()
        with here.runner:
            section = build(here)
        place = folder(here, name)
        sections = [section, setting(here, time.monotonic() - begun)]
        save(section.title, sections, place)
        print(f"\nWritten to {place}: report.md, report.html and PNGs")

    entry.run(run)


def folder(context: Context, name: str) -> Path:
    """Where a figure's pictures and report go."""
    place = context.out / name
    place.mkdir(parents=True, exist_ok=True)
    return place
