"""Runs seeds, in this process or in one of a pool."""

import os
from collections.abc import Sequence
from typing import Any

from abs_dssp import extras
from abs_dssp.cluster.simulate import faults

KINDS = ("whole", "fragments", "divided")
_DEVICES = "--xla_force_host_platform_device_count"


def scenario(kind: str) -> Any:
    """The runs of a kind: `(seed, faults, only, say)`, see `operated.Operated`."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    flags = os.environ.get("XLA_FLAGS", "")
    if _DEVICES not in flags:  # those of a divided worker
        os.environ["XLA_FLAGS"] = f"{flags} {_DEVICES}=2"
    with extras.needed("the simulated cluster"):
        from abs_dssp.cluster.simulate import fragments, scenario

    known = (scenario.Scenario, fragments.FragmentsScenario, scenario.Divided)
    return dict(zip(KINDS, known, strict=True))[kind]


def run(seeds: Sequence[int], text: str, kind: str = KINDS[0]) -> list[Any]:
    """The outcomes of some seeds of a kind, until one breaks."""
    outcomes = []
    for seed in seeds:
        outcomes.append(scenario(kind)(seed, faults.parse(text)).run())
        if outcomes[-1].violation:
            break
    return outcomes
