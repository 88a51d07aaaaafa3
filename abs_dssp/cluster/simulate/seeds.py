"""Runs seeds, in this process or in one of a pool."""

import os
import sys
from collections.abc import Sequence
from typing import Any

from abs_dssp.cluster.simulate import faults


def run(seeds: Sequence[int], text: str) -> list[Any]:
    """The outcomes of some seeds, until one breaks."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    try:
        from abs_dssp.cluster.simulate.scenario import Scenario
    except ModuleNotFoundError as error:
        if error.name != "greenlet":
            raise
        sys.exit("error: simulated threads need greenlet: pip install 'abs_dssp[test]'")

    outcomes = []
    for seed in seeds:
        outcomes.append(Scenario(seed, faults.parse(text)).run())
        if outcomes[-1].violation:
            break
    return outcomes
