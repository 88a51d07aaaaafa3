"""The flags of the papers' figures, and what every such script does with them.

Importing this module defines the flags.
"""

import dataclasses
import os
import time
from collections.abc import Mapping
from pathlib import Path

import jax
from absl import flags

from abs_dssp import extras
from abs_dssp.experiment import entry, outputs, verdicts
from abs_dssp.experiment.reproduction import scales
from abs_dssp.experiment.reproduction.figures import FIGURES
from abs_dssp.experiment.reproduction.runs import Runner
from abs_dssp.experiment.reproduction.study import Context
from abs_dssp.report.document import Section, Table

_SCALE = flags.DEFINE_enum(
    "scale", "smoke", sorted(scales.SCALES), "How large: seconds, hours or days."
)
_OUT = flags.DEFINE_string("out", "out/reproduction", "Output folder.")
_PROCESSES = flags.DEFINE_integer(
    "processes",
    None,
    "Runs at a time; as many as there are cores by default, 1 on a GPU.",
    lower_bound=1,
)
_SEEDS = flags.DEFINE_integer("seeds", None, "Instead of the scale's.", lower_bound=1)
_DATA = flags.DEFINE_string("data_dir", None, "Folder of prepared TFDS data.")
_RATIO = flags.DEFINE_float(
    "ratio",
    2.6,
    "Figure 4: how many times as long the slow worker takes.",
    lower_bound=1.0,
)


def context() -> Context:
    """What the flags ask for.

    Raises:
      ValueError: for a folder that cannot be written, or missing data.
      MissingExtraError: if matplotlib is not installed.
    """
    extras.require("matplotlib", "a report with pictures")
    scale = scales.SCALES[_SCALE.value]
    if _SEEDS.value is not None:
        scale = dataclasses.replace(scale, seeds=_SEEDS.value, abs_seeds=None)
    on_cpu = jax.default_backend() == "cpu"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    processes = _PROCESSES.value or (cores if on_cpu else 1)
    data_dir = None if _DATA.value is None else str(Path(_DATA.value).resolve())
    out = outputs.folder(str(outputs.folder(_OUT.value) / scale.name))
    return Context(scale, out, Runner(out, processes, data_dir), _RATIO.value)


def setting(
    context: Context, took: float, each: Mapping[str, float] | None = None
) -> Section:
    """Where and with what a report was made, and how long it and each figure took."""
    scale = context.scale
    return Section(
        "Setting",
        [
            f"Scale `{scale.name}`: {scale.note} ABS: U = {scale.abs_local_steps}, "
            f"{scale.abs_seconds:g} mean local steps of virtual time, more where a "
            "push takes time.",
            Table(
                "What is trained in place of the papers' networks.",
                ["for", "model and data", "step sizes tried first", "targets"],
                [
                    [name, p.describe(), str(p.rates)[1:-1], str(p.targets)[1:-1]]
                    for name, p in scale.problems.items()
                ],
            ),
            f"Made on {outputs.today()}, {outputs.machine(jax.devices()[0])}. Seeds 0 "
            f"to {scale.seeds - 1}, of ABS's runs 0 to "
            f"{scale.seeds_of_abs - 1}. This call took {took:.0f} s; "
            "runs kept from before are not made again."
            + "".join(f" {name}: {s:.0f} s." for name, s in (each or {}).items()),
        ],
    )


def main(name: str) -> None:
    """Runs the script of one figure, which `figures.FIGURES` knows by name."""

    def run(argv):
        del argv
        begun = time.monotonic()
        here = context()
        with here.runner:
            section = FIGURES[name](here)
        folder = here.folder(name)
        (section,) = verdicts.judged([section], here.scale.level)
        sections = [section, setting(here, time.monotonic() - begun)]
        notice = scales.notice(here.scale)
        outputs.save_report(section.title, sections, folder, notice=notice)
        print(f"\nWritten to {folder}: report.md, report.html and PNGs")

    entry.run(run)
