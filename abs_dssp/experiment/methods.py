"""Every method with the parameters that its source recommends."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from abs_dssp import theory
from abs_dssp.traces import Trace


class Step(NamedTuple):
    """A recommended step size."""

    learning_rate: float  # what the optimizer is given
    effective: float  # step of a commit: learning rate times the commit's weights
    schedule: theory.Schedule  # the constants of the trace that it follows from


@dataclasses.dataclass(frozen=True)
class Method:
    """A policy with what its commits need."""

    label: str
    text: str  # for policies.parse
    aggregate: str = "mean"
    # The constants of a trace that Theorem A is given, by the trace and `aggregate`.
    schedule_of: Callable[[Trace, str], theory.Schedule] = theory.schedule_of
    weights_are_steps: bool = False  # in units of 1 / L

    def step(
        self, trace: Trace, smoothness: float, variance: float, target: float
    ) -> Step:
        """The step that Theorem A recommends for a schedule of this method.

        Args:
          trace: the schedule; only its policy's decisions count.
          smoothness: L.
          variance: sigma^2 of a gradient of one batch.
          target: eps, of the squared gradient norm.
        """
        schedule = self.schedule_of(trace, self.aggregate)
        weight = float(trace.weight.sum()) / max(trace.commits, 1)  # of a commit
        if self.weights_are_steps:
            return Step(1 / smoothness, weight / smoothness, schedule)
        step = float(theory.target_step(smoothness, variance, target, schedule))
        rate = step / weight if self.aggregate == "sum" else step
        return Step(rate, step, schedule)


def recommended(n: int, ratio: float) -> list[Method]:
    """All methods.

    Args:
      n: workers.
      ratio: R = sigma^2 / eps.
    """
    batch = int(theory.rennala_batch(ratio, 1.0))
    large = max(n, batch)
    half = n // 2
    koloskova = f"weighted(asp(),koloskova(concurrency={n},limit={n}))"
    mishchenko = f"weighted(asp(),mishchenko(concurrency={n}))"
    mean = {
        "BSP": "bsp()",
        "ASP": "asp()",
        "SSP, s = 3": "ssp(s=3)",
        "DSSP printed, 3 to 15": "dssp()",
        "DSSP bounded, 3 to 15": 'dssp(variant="bounded")',
        f"m-sync, m = {half}": f"m_sync(m={half})",
        f"K-async, K = {half}": f"k_async(k={half})",
        f"K-batch-async, K = {batch}": f"k_batch_async(k={batch})",
        f"K-batch-sync, K = {2 * batch}": f"k_batch_sync(k={2 * batch})",
        "AdaSync, K0 = 1": "adasync(k0=1,interval=5)",
        "ABS, K0 = 1, a = 20": "abs(k0=1,a=20)",
        f"ABS, K0 = {half}": f"abs(k0={half})",
        f"Rennala, S = {batch}": f"rennala(batch_size={batch})",
        f"Ringmaster, R = {batch}": f"ringmaster(threshold={batch})",
        f"Ringmaster, R = {batch}, stops": f"ringmaster(threshold={batch},stop=True)",
    }
    malenia = f"malenia(batch_size={large})"
    own = f"abs_dssp(noise={ratio:g})"
    return [
        *(Method(label, text) for label, text in mean.items()),
        Method(f"Malenia, S = {large}", malenia, "workers", _of_workers),
        Method("Ringleader", "ringleader()", "table", _table),
        Method("Rescaled", "rescaled()", "sum"),
        Method("FedBuff, K = 10", "fedbuff(k=10)", "sum"),
        Method("FedAsync", "fedasync()", "sum", _by_concurrency),
        Method("ASP, Mishchenko", mishchenko, "sum", _by_concurrency),
        Method("ASP, Koloskova", koloskova, "sum", _by_concurrency),
        Method("ZipLine, R = 8", "zipline(lookahead=8)"),
        Method("Sync-Switch at 20", "sync_switch(at=20)"),
        Method("abs_dssp", own, "sum", weights_are_steps=True),
    ]


def _of_workers(trace: Trace, aggregate: str) -> theory.Schedule:
    """Commits that average over workers the means of each worker's B_i pushes.

    The noise of such a commit is that of one gradient times sum 1 / B_i over N^2.
    """
    del aggregate
    rounds = np.cumsum(trace.committed) - trace.committed
    used = trace.accepted & (rounds < trace.commits)
    count = np.zeros((trace.commits, trace.num_workers))
    np.add.at(count, (rounds[used], trace.worker[used]), 1)
    share = np.where(count > 0, 1 / np.maximum(count, 1), 0).sum(axis=1)
    kappa = float(np.mean(share / np.maximum((count > 0).sum(axis=1), 1) ** 2))
    return theory.Schedule(kappa, 0.0, 0.0, 1 / kappa)


def _table(trace: Trace, aggregate: str) -> theory.Schedule:
    """Ringleader's N commits of a round share the noise of N gradients, which were
    computed from versions up to 2 N - 2 older."""
    del aggregate
    return theory.Schedule(1.0, 2.0 * trace.num_workers - 2, float(trace.num_workers))


def _by_concurrency(trace: Trace, aggregate: str) -> theory.Schedule:
    """Steps that fall with the delay, as if no delay exceeded the concurrency."""
    del aggregate
    own, n = theory.schedule_of(trace), float(trace.num_workers)
    return own._replace(tau_max=min(own.tau_max, n), tau_bar=n - 1)
