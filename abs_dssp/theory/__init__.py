"""The convergence analysis as functions: bounds, step sizes, round times, lower bounds.

Every function names its theorem and assumptions; docs/theory.md says which test checks
which. Numbers may be Python, NumPy or JAX scalars. Functions of numbers can be jitted
and broadcast over arrays unless their signature says otherwise; those that read a trace
or a policy run on the host. Nothing else in the package imports this one.
"""

from abs_dssp.theory import (
    convergence,
    delay_adaptive,
    discovery,
    effective,
    lemma_1,
    lower_bound,
    measured,
    regret,
    runtime,
    target,
)
from abs_dssp.theory.convergence import *  # noqa: F403
from abs_dssp.theory.delay_adaptive import *  # noqa: F403
from abs_dssp.theory.discovery import *  # noqa: F403
from abs_dssp.theory.effective import *  # noqa: F403
from abs_dssp.theory.lemma_1 import *  # noqa: F403
from abs_dssp.theory.lower_bound import *  # noqa: F403
from abs_dssp.theory.measured import *  # noqa: F403
from abs_dssp.theory.regret import *  # noqa: F403
from abs_dssp.theory.runtime import *  # noqa: F403
from abs_dssp.theory.target import *  # noqa: F403

__all__ = [*convergence.__all__, *delay_adaptive.__all__, *discovery.__all__]
__all__ += [*effective.__all__, *lemma_1.__all__, *lower_bound.__all__]
__all__ += [*measured.__all__, *regret.__all__, *runtime.__all__, *target.__all__]
