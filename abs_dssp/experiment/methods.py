"""Every method with the parameters that its source recommends."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from abs_dssp import policies, theory
from abs_dssp.experiment import policy_text
from abs_dssp.traces import Trace

# What a method's step rests on. Where it is a trace, a run of more pushes or of another
# seed is near enough, by comparison, but not covered.
ANY_SCHEDULE = "Theorem D, for every schedule of the method"
ITS_TRACE = "Theorem A, for the trace that its constants are read from"
OWN_WEIGHTS = "the method's own weights"
GUESS = "a guess by comparison"


class Step(NamedTuple):
    """A recommended step size."""

    learning_rate: float  # what the optimizer is given
    effective: float  # step of a commit: learning rate times the commit's weights
    schedule: theory.Schedule  # the constants that it follows from


@dataclasses.dataclass(frozen=True)
class Method:
    """A policy with what its commits need."""

    label: str
    text: str  # for policies.parse
    aggregate: str = "mean"
    # The constants of a trace that Theorem A is given, by the trace and `aggregate`.
    schedule_of: Callable[[Trace, str], theory.Schedule] = theory.schedule_of
    # The constants of every trace, for steps that fall with the delay.
    any_delays: theory.Schedule | None = None
    weights_are_steps: bool = False  # in units of 1 / L
    basis: str = ITS_TRACE  # of the step, if all workers have the same data

    @property
    def setting(self) -> str:
        """The policy with its aggregate, as `--policy` takes it."""
        return policy_text.with_aggregate(self.text, self.aggregate)

    def weight(self, trace: Trace) -> float:
        """The mean step of a commit, in units of the learning rate."""
        if self.aggregate != "sum":
            return 1.0
        return float(trace.weight.sum()) / max(trace.commits, 1)

    def step(
        self, trace: Trace, smoothness: float, variance: float, target: float
    ) -> Step:
        """The step that Theorem A or D recommends for a schedule of this method.

        Args:
          trace: the schedule; only its policy's decisions count, and nothing of it
            where `any_delays` is given.
          smoothness: L.
          variance: sigma^2 of a gradient of one batch.
          target: eps, of the squared gradient norm.
        """
        if self.any_delays is not None:
            schedule = self.any_delays
            step = float(theory.target_step(smoothness, variance, target, schedule))
            return Step(step / schedule.mean_step, step, schedule)
        schedule = self.schedule_of(trace, self.aggregate)
        weight = self.weight(trace)
        if self.weights_are_steps:
            return Step(1 / smoothness, weight / smoothness, schedule)
        step = float(theory.target_step(smoothness, variance, target, schedule))
        return Step(step / weight, step, schedule)


def recommended(n: int, ratio: float, growths: Sequence[float] = ()) -> list[Method]:
    """All methods.

    Args:
      n: workers.
      ratio: R = sigma^2 / eps.
      growths: of `abs_dssp`'s rounds, to be compared beside the usual one.
    """
    batch = int(theory.rennala_batch(ratio, 1.0))
    large = max(n, batch)
    half = n // 2
    mishchenko = f"weighted(asp(),mishchenko(concurrency={n}))"
    limit = _limit(n, ratio)
    koloskova = f"weighted(asp(),koloskova(concurrency={n},limit={limit}))"
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
        "ABS, K0 = 1, a = 20": "abs(k0=1,a=20)",
        f"ABS, K0 = {half}": f"abs(k0={half})",
        f"Rennala, S = {batch}": f"rennala(batch_size={batch})",
        f"Ringmaster, R = {batch}": f"ringmaster(threshold={batch})",
        f"Ringmaster, R = {batch}, stops": f"ringmaster(threshold={batch},stop=True)",
    }
    malenia = f"malenia(batch_size={large})"
    return [
        *(Method(label, text) for label, text in mean.items()),
        # Reads the loss, so its schedule is not known before the training.
        Method("AdaSync, K0 = 1", "adasync(k0=1,interval=5)", basis=GUESS),
        Method(f"Malenia, S = {large}", malenia, "workers", _of_workers),
        Method("Ringleader", "ringleader()", "table", _table, basis=GUESS),
        Method("Rescaled", "rescaled()", "sum"),
        Method("FedBuff, K = 10", "fedbuff(k=10)", "sum"),
        Method("FedAsync", "fedasync()", "sum"),
        _for_any_delays("ASP, Mishchenko", mishchenko, theory.any_delays(n, n)),
        _for_any_delays("ASP, Koloskova", koloskova, theory.any_delays(n, n, limit)),
        Method("ZipLine, R = 8", "zipline(lookahead=8)"),
        Method("Sync-Switch at 20", "sync_switch(at=20)"),
        *_growing(n, batch),
        _own("abs_dssp", f"abs_dssp(noise={ratio:g})"),
        _own("abs_dssp, R fixed", f"abs_dssp(noise={ratio:g},growth=1.0)"),
        *(
            _own(f"abs_dssp, growth {g:g}", f"abs_dssp(noise={ratio:g},growth={g:g})")
            for g in growths
        ),
    ]


def for_deaths(n: int) -> list[Method]:
    """Rules with deadlines or backup workers, which do without the slow and the dead.

    Args:
      n: workers.
    """
    backups = n - n // 8
    return [
        Method(f"K-sync, K = {backups}", f"k_sync(k={backups})"),
        Method(f"Quorum, K = {3 * n // 4}", f"quorum(k={3 * n // 4})"),
        Method("Deadline", "deadline()"),
        Method("MindFlayer", "mindflayer(trials=1,seconds=2.0)"),
    ]


def given(text: str, n: int) -> Method:
    """A method of the user's.

    Args:
      text: `POLICY`, or `POLICY; aggregate=sum`; without one its commits are combined
        by the aggregator that the policy states it is meant for.
      n: workers.

    Raises:
      ValueError: if the policy or the setting cannot be read.
    """
    policy, settings = policy_text.settings_of(text, {})
    stated = policies.parse(policy, n).properties.aggregate
    aggregate = settings.get("aggregate", stated)
    name = aggregate.partition("(")[0]
    label = policy_text.with_aggregate(policy, aggregate)
    schedule_of = _SCHEDULES.get(name, theory.schedule_of)
    basis = ITS_TRACE if name in ("mean", "sum", "workers") else GUESS
    return Method(label, policy, aggregate, schedule_of, basis=basis)


def _own(label: str, text: str) -> Method:
    return Method(label, text, "sum", weights_are_steps=True, basis=OWN_WEIGHTS)


def _growing(n: int, batch: int) -> list[Method]:
    """Batch rules that begin with the rounds that `abs_dssp` begins with, as large in
    proportion to their own; none if that is all of their rounds."""
    if 2 * batch <= n:
        return []
    half, two = n // 2, 2 * batch
    grown = {
        f"K-batch-sync, K = {n} to {two}": (f"k_batch_sync(k={two})", n),
        f"Rennala, S = {half} to {batch}": (f"rennala(batch_size={batch})", half),
        f"K-batch-async, K = {half} to {batch}": (f"k_batch_async(k={batch})", half),
    }
    return [
        Method(label, f"growing({text}, first={first})")
        for label, (text, first) in grown.items()
    ]


def _for_any_delays(label: str, text: str, constants: theory.Schedule) -> Method:
    return Method(label, text, "sum", any_delays=constants, basis=ANY_SCHEDULE)


def _limit(n: int, ratio: float) -> float:
    """l = 1 / (4 L eta) of Koloskova et al., at the eta that Theorem D recommends.

    A limit above n lengthens M to itself. Theorem D then still allows this eta: it is
    below 1 / (4 L n), and the condition comes to L eta (1 + (n - 1) / 2) <= 1.
    """
    constants = theory.any_delays(n, n)
    step = float(theory.target_step(1.0, ratio, 1.0, constants))
    return float(f"{constants.mean_step / (4 * step):.4g}")


def _of_workers(trace: Trace, aggregate: str) -> theory.Schedule:
    """Commits that average over workers the means of each worker's B_i pushes.

    Pushes have a share of 1 / (N B_i) each and are never stale: Theorem A where steps
    vary, with kappa = sum 1 / B_i over N^2. While every worker is there, as here, it
    holds for data that differ too: a commit is unbiased for the mean over workers, with
    V the variance of a worker's gradient about the gradient of its own data.
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
    """Constants by comparison: Ringleader's N commits of a round share the noise of N
    gradients, which were computed from versions up to 2 N - 2 older.

    No theorem of the package covers them. A gradient stays in the table for several
    commits, so the noise of a commit is not orthogonal to that of the ones before it,
    which the proofs of A and D need.
    """
    del aggregate
    return theory.Schedule(1.0, 2.0 * trace.num_workers - 2, float(trace.num_workers))


# Of aggregators with constants of their own.
_SCHEDULES = {"workers": _of_workers, "table": _table}
