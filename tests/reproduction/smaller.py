"""Runs reproduce.py at a scale still smaller than `smoke`: fewer programs to compile.

smaller.py ARGUMENTS...
"""

import dataclasses
import runpy
import sys
from pathlib import Path

from abs_dssp.experiment.reproduction import scales

ROOT = Path(__file__).parents[2]


def main():
    network = "mlp(hidden=[32])"
    scales.SCALES["smoke"] = dataclasses.replace(
        scales.SMOKE,
        problems={
            name: dataclasses.replace(problem, model=network, epochs=3.0)
            for name, problem in scales.SMOKE.problems.items()
        },
        evaluations=8,
        ssp=(3,),
        abs_seconds=30,
        abs_taus=(0, 2, 16),
        abs_as=(2,),
    )
    runpy.run_path(str(ROOT / "experiments" / "reproduce.py"), run_name="__main__")


if __name__ == "__main__":
    sys.argv[0] = "reproduce.py"
    main()
