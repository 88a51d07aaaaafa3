"""Parameter-server SGD in which the server decides, push by push, who may run ahead.

One pure policy drives virtual time (`simulate`), the deterministic replay of a trace
(`replay`) and the tests of the theory. `abs_dssp.simulate` and the other public modules
are imported when they are first asked for.

Example:
  >>> import abs_dssp
  >>> abs_dssp.policies.ssp(4, s=3).properties.max_gap
  3
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # so that type checkers see what `__getattr__` gives
    from abs_dssp import absences as absences
    from abs_dssp import communication as communication
    from abs_dssp import delays as delays
    from abs_dssp import optimizers as optimizers
    from abs_dssp import plot as plot
    from abs_dssp import policies as policies
    from abs_dssp import record as record
    from abs_dssp import replay as replay
    from abs_dssp import simulate as simulate
    from abs_dssp import tasks as tasks
    from abs_dssp import theory as theory
    from abs_dssp import traces as traces
    from abs_dssp import verify as verify
    from abs_dssp import whatif as whatif

__version__ = "0.1.0"

_MODULES = (
    *(
        "absences",
        "communication",
        "delays",
        "optimizers",
        "plot",
        "policies",
        "record",
    ),
    *("replay", "simulate", "tasks", "theory", "traces", "verify", "whatif"),
)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({"__version__", *_MODULES})
