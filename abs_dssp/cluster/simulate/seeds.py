"""Runs seeds, in this process or in one of a pool."""

import os
from collections.abc import Sequence
from typing import Any

from abs_dssp import extras
from abs_dssp.cluster.simulate import faults


def run(seeds: Sequence[int], text: str) -> list[Any]:
    """The outcomes of some seeds, until one breaks."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    with extras.needed("the simulated cluster"):
        from abs_dssp.cluster.simulate.scenario import Scenario

    outcomes = []
    for seed in seeds:
        outcomes.append(Scenario(seed, faults.parse(text)).run())
        if outcomes[-1].violation:
            break
    return outcomes
