"""Runs seeds, in this process or in one of a pool."""

import os
from collections.abc import Sequence
from typing import Any

from abs_dssp import extras
from abs_dssp.cluster.simulate import faults

KINDS = ("whole", "fragments")


def scenario(kind: str) -> Any:
    """The runs of a kind: `(seed, faults, only, say)`, see `operated.Operated`."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    with extras.needed("the simulated cluster"):
        from abs_dssp.cluster.simulate.fragments import FragmentsScenario
        from abs_dssp.cluster.simulate.scenario import Scenario

    return dict(zip(KINDS, (Scenario, FragmentsScenario), strict=True))[kind]


def run(seeds: Sequence[int], text: str, kind: str = KINDS[0]) -> list[Any]:
    """The outcomes of some seeds of a kind, until one breaks."""
    outcomes = []
    for seed in seeds:
        outcomes.append(scenario(kind)(seed, faults.parse(text)).run())
        if outcomes[-1].violation:
            break
    return outcomes
