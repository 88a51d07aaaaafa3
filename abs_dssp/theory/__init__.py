"""The convergence analysis as functions: bounds, step sizes, round times, lower bounds.

Every function names its theorem and assumptions; docs/theory.md says which test checks
which. Numbers may be Python, NumPy or JAX scalars. Functions of numbers can be jitted
and broadcast over arrays unless their signature says otherwise; those that read a trace
or a policy run on the host. Nothing else in the package imports this one.
"""

from abs_dssp.theory.convergence import (
    corollary,
    corollary_step,
    corollary_threshold,
    delay_stability_limit,
    largest_step_a,
    largest_step_b,
    spread,
    staleness_scale,
    tau_bar,
    theorem_a,
    theorem_b,
    theorem_b_simple,
)
from abs_dssp.theory.lower_bound import (
    collection_bound,
    collection_time,
    rennala_batch,
    rennala_rounds,
    rennala_time,
    ringmaster_step,
    ringmaster_threshold,
    ringmaster_time,
    ringmaster_updates,
    tyurin_richtarik,
)
from abs_dssp.theory.measured import (
    Promise,
    effective_tau,
    kappa_1,
    measured_tau_bar,
    promise,
    step_size,
)
from abs_dssp.theory.regret import (
    dssp_regret,
    missing_updates,
    regret_step,
    ssp_regret,
    theorem_c,
    theorem_c_general,
)
from abs_dssp.theory.runtime import (
    erlang_order_statistic,
    geometric_staleness,
    harmonic,
    kth_exponential,
    mean_staleness,
    restart_law,
    round_time,
    ssp_counts,
    throughput,
)
from abs_dssp.theory.target import (
    Schedule,
    schedule_of,
    target_commits,
    target_step,
)

__all__ = [
    "Promise",
    "Schedule",
    "collection_bound",
    "collection_time",
    "corollary",
    "corollary_step",
    "corollary_threshold",
    "delay_stability_limit",
    "dssp_regret",
    "effective_tau",
    "erlang_order_statistic",
    "geometric_staleness",
    "harmonic",
    "kappa_1",
    "kth_exponential",
    "largest_step_a",
    "largest_step_b",
    "mean_staleness",
    "measured_tau_bar",
    "missing_updates",
    "promise",
    "regret_step",
    "rennala_batch",
    "rennala_rounds",
    "rennala_time",
    "restart_law",
    "ringmaster_step",
    "ringmaster_threshold",
    "ringmaster_time",
    "ringmaster_updates",
    "round_time",
    "schedule_of",
    "spread",
    "ssp_counts",
    "ssp_regret",
    "staleness_scale",
    "step_size",
    "target_commits",
    "target_step",
    "tau_bar",
    "theorem_a",
    "theorem_b",
    "theorem_b_simple",
    "theorem_c",
    "theorem_c_general",
    "throughput",
    "tyurin_richtarik",
]
