"""Lemma 1 for one trace: what its pushes come to in every single round.

A push of round t that is tau versions stale covers the rounds t - tau, ..., t - 1: it
was in flight when they ended. The proof of Theorem A adds, for every round s, over the
pushes that cover s, so its constants are largest sums over s. A mean over rounds is no
substitute: a run that is stale for a tenth of its rounds diverges in these, whatever
the rest is like.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from abs_dssp.history import traces
from abs_dssp.history.traces import Trace

__all__ = ["Columns", "columns", "measured_scale"]


class Columns(NamedTuple):
    """Sums by round s = 0..T-1.

    p is a push's share of the weights of its commit, tau its staleness in versions, t
    its round, and rho_t the step of round t over the largest one: 1 for all under
    `aggregate="mean"`, and 0 for a commit without an accepted push.
    """

    step: Float64[np.ndarray, " T"]  # rho_s
    kappa: Float64[np.ndarray, " T"]  # of the pushes of s: sum p^2, 1 / K_s if equal
    covering: Float64[np.ndarray, " T"]  # of those that cover s: sum p
    delayed: Float64[np.ndarray, " T"]  # of those that cover s: sum rho_t p tau
    # Of the pushes of s: rho_s sum p (sum of rho^2 kappa over the rounds covered).
    noise: Float64[np.ndarray, " T"]


def columns(trace: Trace, aggregate: str = "mean") -> Columns:
    """The column sums of Lemma 1.

    Args:
      trace: of a run from its first version on, whose weights are no more than
        weights (`ringleader` numbers rounds in them).
      aggregate: "mean", for equal steps, or "sum", for steps in proportion to the
        weight of a commit.

    Returns:
      `Columns` over the T commits of the trace.

    Raises:
      ValueError: for another aggregate, or where no commit has an accepted push.

    Example:
      >>> from abs_dssp import delays, policies, simulate, theory
      >>> trace = simulate.schedule(policies.asp(3), delays.constant([1.0] * 3), 6)
      >>> theory.columns(trace).delayed.tolist()  # staleness 0, 1, 2, 2, 2, 2
      [3.0, 4.0, 4.0, 4.0, 2.0, 0.0]
    """
    traces.require_one_history("theory", trace)
    if aggregate not in ("mean", "sum"):
        raise ValueError(f"columns: unknown aggregate {aggregate!r}; known: mean, sum.")
    rounds = np.cumsum(trace.committed) - trace.committed
    used = trace.accepted & (rounds < trace.commits)
    if not used.any():
        raise ValueError("columns: no commit of the trace has an accepted push.")
    t, count = rounds[used].astype(int), trace.commits
    weight, tau = trace.weight[used].astype(float), trace.staleness[used].astype(float)
    first = np.maximum(t - trace.staleness[used], 0)
    total = np.bincount(t, weight, count)
    share = weight / total[t]
    step = total / total.max() if aggregate == "sum" else (total > 0).astype(float)
    kappa = np.bincount(t, share**2, count)

    def over_covered(values):
        begun, ended = (np.bincount(rows, values, count) for rows in (first, t))
        return np.maximum(np.cumsum(begun - ended), 0.0)  # 0 but for rounding

    before = np.concatenate([[0.0], np.cumsum(step**2 * kappa)])
    noise = step * np.bincount(t, share * (before[t] - before[first]), count)
    delayed = over_covered(step[t] * share * tau)
    return Columns(step, kappa, over_covered(share), delayed, noise)


def measured_scale(trace: Trace) -> float:
    """S of a trace with equal steps: S^2 is the largest column sum of tau / K.

    With it, `largest_step_a` is a step for which Theorem A holds on this trace. It is
    at most sqrt(tau_max tau_bar) for the tau_bar of Lemma 1, and far below where one
    push is much staler than the others.

    Args:
      trace: as for `columns`.

    Returns:
      S, in rounds.

    Example:
      >>> from abs_dssp import delays, policies, simulate, theory
      >>> trace = simulate.schedule(policies.asp(3), delays.constant([1.0] * 3), 30)
      >>> theory.measured_scale(trace)  # two others, each 2 versions stale: S^2 = 4
      2.0
    """
    return float(np.sqrt(columns(trace).delayed.max()))
