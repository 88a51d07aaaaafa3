"""Builders and the table of policies that the contract suite runs over."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
import reference
import reference_newer as newer

from abs_dssp import policies, traces


def clocks(
    clock, *, waiting=(), gone=(), pulled=None, version=0, pending=0, times=None
):
    """Clocks with these counts; `waiting` and `gone` list workers."""
    clock = jnp.asarray(clock, jnp.int32)
    workers = np.arange(len(clock))
    latest, previous = times or (np.zeros(len(clock)), np.zeros(len(clock)))
    return policies.Clocks(
        clock=clock,
        pulled=jnp.zeros_like(clock) if pulled is None else jnp.asarray(pulled),
        version=jnp.int32(version),
        pending=jnp.int32(pending),
        latest=jnp.asarray(latest, jnp.float32),
        previous=jnp.asarray(previous, jnp.float32),
        waiting=jnp.asarray(np.isin(workers, waiting)),
        alive=jnp.asarray(~np.isin(workers, gone)),
        loss=jnp.float32(jnp.nan),
    )


class Case(NamedTuple):
    """A policy and the oracle's version of it."""

    text: str  # for policies.parse
    oracle: Callable[[int], Any]  # N -> rule of `reference`
    least: int = 1  # workers that its arguments need
    often_with: int = 3  # workers with which the event loop is compared by default
    often: bool = False  # not slow where few of the cases are run by default
    often_by_order: bool = False  # the same, where rules that read times are left out

    def properties(self, num_workers: int) -> policies.Properties:
        """What the policy states of itself."""
        return policies.parse(self.text, num_workers).properties


def _adasync(**arguments):
    return lambda n: reference.AdaSync(**arguments)


CASES = [
    Case("bsp()", lambda n: reference.Bsp(), often=True, often_by_order=True),
    Case("local_sgd()", lambda n: reference.LocalSgd(), often_with=1),
    Case("asp()", lambda n: reference.Asp(), often_with=12),
    Case("ssp(s=0)", lambda n: reference.Ssp(0), often=True, often_by_order=True),
    Case("ssp(s=3)", lambda n: reference.Ssp(3), often_with=2),
    Case("dssp(s_lower=1,s_upper=4)", lambda n: reference.Dssp(1, 4)),
    Case("dssp()", lambda n: reference.Dssp(3, 15), often=True, often_with=8),
    Case(
        'dssp(s_lower=1,s_upper=4,variant="bounded")',
        lambda n: reference.Dssp(1, 4, "bounded"),
    ),
    Case(
        'dssp(s_lower=0,s_upper=7,variant="bounded")',
        lambda n: reference.Dssp(0, 7, "bounded"),
    ),
    Case("k_sync(k=2)", lambda n: reference.k_sync(2), least=2, often=True),
    Case("k_batch_sync(k=3)", lambda n: reference.k_batch_sync(3), often_by_order=True),
    Case("k_async(k=2)", lambda n: reference.k_async(2), least=2, often_with=12),
    Case("k_batch_async(k=3)", lambda n: reference.k_batch_async(3), often=True),
    Case("adasync(k0=2)", _adasync(k0=2), least=2),
    Case(
        'adasync(k0=1,base="k_batch_sync",interval=1.0)',
        _adasync(k0=1, base="k_batch_sync", interval=1.0),
    ),
    Case(
        "sa_adasync(k0=1)",
        lambda n: reference.Weighted(reference.AdaSync(k0=1), lambda s: 1 / max(1, s)),
        often=True,
    ),
    Case(
        "abs(k0=1,a=3,tau_max=2)",
        lambda n: reference.Abs(1, a=3, tau_max=2),
        often_by_order=True,
    ),
    Case("abs(k0=2,a=5)", lambda n: reference.Abs(2, a=5), least=2, often_with=8),
    Case(
        'abs(k0=1,a=0.5,growth="loss")',
        lambda n: reference.Abs(1, a=0.5, growth="loss"),
        often=True,
    ),
    Case("abs_dssp()", lambda n: newer.AbsDssp(n)),
    Case(
        "abs_dssp(noise=7.0,growth=1.25,memory=0.5)",
        lambda n: newer.AbsDssp(n, 7.0, 1.25, 0.5),
        often_with=8,
    ),
    Case(
        "m_sync(m=2)",
        lambda n: newer.m_sync(2),
        least=2,
        often=True,
        often_by_order=True,
    ),
    Case("rennala(batch_size=5)", lambda n: reference.Rennala(5), often_with=2),
    Case(
        "growing(k_batch_sync(k=7), first=2, growth=1.25)",
        lambda n: newer.Growing(reference.k_batch_sync(7), 2, 1.25),
        often_by_order=True,
    ),
    Case(
        "growing(k_async(k=3), first=1)",
        lambda n: newer.Growing(reference.k_async(3), 1),
        least=3,
        often_with=12,
    ),
    Case("ringmaster(threshold=3)", lambda n: reference.Ringmaster(3), often_with=8),
    Case(
        "ringmaster(threshold=2,stop=True)",
        lambda n: reference.Ringmaster(2, stop=True),
        often=True,
        often_by_order=True,
    ),
    Case("malenia(batch_size=7)", lambda n: newer.Malenia(7)),
    Case("ringleader()", lambda n: newer.Ringleader(), often_with=12),
    Case(
        "mindflayer(trials=2,seconds=4.0)",
        lambda n: newer.MindFlayer([2] * n, [4.0] * n),
        often=True,
    ),
    # Products with powers of two, which nothing rounds.
    Case("quorum(k=2)", lambda n: newer.Quorum(2), least=2, often=True),
    Case("quorum(k=1,grace=2.0)", lambda n: newer.Quorum(1, 2.0), often_with=8),
    Case(
        "deadline(k=2.0,floor=0.0625)",
        lambda n: newer.Deadline(2.0, 0.0625),
        often=True,
        often_with=5,
    ),
    Case("rescaled()", lambda n: newer.Rescaled()),
    Case("fedbuff(k=3)", lambda n: newer.fedbuff(3), often_by_order=True),
    Case("fedasync()", lambda n: newer.fedasync(), often=True),
    Case(
        "weighted(asp(), koloskova(concurrency=2,limit=1.5))",
        lambda n: reference.Weighted(reference.Asp(), newer.koloskova(2, 1.5)),
    ),
    Case(
        "weighted(asp(), mishchenko(concurrency=2))",
        lambda n: reference.Weighted(reference.Asp(), newer.mishchenko(2)),
        often_by_order=True,
    ),
    Case("zipline(lookahead=3)", lambda n: newer.Zipline(3), often=True),
    Case(
        "sync_switch(at=5)", lambda n: newer.Switch(reference.Bsp(), reference.Asp(), 5)
    ),
    Case(
        "weighted(k_async(k=2), polynomial(a=0.5))",
        lambda n: reference.Weighted(
            reference.k_async(2), lambda s: float(np.float32(1 + s) ** np.float32(-0.5))
        ),
        least=2,
    ),
]


def sparse(cases, field="often"):
    """Cases as parameters, those without `field` marked slow."""
    return [
        pytest.param(
            case, id=case.text, marks=[] if getattr(case, field) else pytest.mark.slow
        )
        for case in cases
    ]


def trace_of(rows, num_workers, events=(), **settings):
    """The oracle's rows and other events as a `Trace`."""
    columns = {
        name: np.array([getattr(row, name) for row in rows], dtype)
        for name, dtype in traces.COLUMNS.items()
    }
    events = tuple(traces.Event(*each) for each in events)
    return traces.Trace(**columns, num_workers=num_workers, events=events, **settings)
