"""Ringleader's rule and its table together, while workers leave and come back."""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from abs_dssp import policies
from abs_dssp.history.events import Event
from abs_dssp.history.machine import Machine
from abs_dssp.training import aggregators

N, MOST = 3, 40

# What may happen next: a kind and a worker.
happenings = st.lists(
    st.tuples(st.sampled_from(["push"] * 5 + ["leave", "join"]), st.integers(0, N - 1)),
    max_size=MOST,
)


@functools.cache
def functions():
    found = aggregators.parse("table()")
    return jax.jit(found.accumulate), jax.jit(found.finalize), found.init


@hypothesis.given(happenings)
@hypothesis.settings(max_examples=60)
def test_a_commit_averages_the_present_gradients_of_the_living(steps):
    """The gradient of push i is the i-th unit vector: a commit shows what it is of."""
    machine = Machine(policies.ringleader(N), N)
    accumulate, finalize, init = functions()
    held = init(jnp.zeros(MOST), jnp.zeros(0), N)
    alive = [True] * N
    pushes: list[tuple[int, int, float]] = []  # worker, life, round
    life = [0] * N
    for time, (kind, worker) in enumerate(steps):
        if (kind == "join") == alive[worker]:
            continue
        alive[worker] = kind != "leave"
        life[worker] += kind == "join"
        done = machine.apply(Event(kind, worker, float(time)))
        if kind != "push":
            assert not done.commit  # no gradient of its own to apply
            continue
        number = len(pushes)
        pushes.append((worker, life[worker], done.weight))
        arrival = aggregators.Arrival(
            gradient=jnp.zeros(MOST).at[number].set(1),
            stats=jnp.zeros(0),
            weight=jnp.float32(done.weight),
            worker=jnp.int32(worker),
            committed=jnp.bool_(done.commit),
            present=jnp.zeros(MOST),
            pulled=jnp.zeros(MOST),
        )
        held = accumulate(held, arrival)
        if not done.commit:
            continue
        applied, _, held = finalize(held, jnp.zeros(0))
        share = np.asarray(applied)
        np.testing.assert_allclose(share.sum(), 1, rtol=1e-5)
        used = [pushes[i] for i in np.flatnonzero(share)]
        assert pushes[-1] in used
        assert {round_ for *_, round_ in used} == {done.weight}, "old gradients"
        for owner, owner_life, _ in used:
            assert alive[owner] and owner_life == life[owner], (
                "a lost worker's gradient"
            )
        # Every worker that has pushed in this round counts alike.
        owners = np.array([owner for owner, *_ in pushes])
        parts = [share[: len(pushes)][owners == owner].sum() for owner, *_ in used]
        members = len({owner for owner, *_ in used})
        np.testing.assert_allclose(parts, 1 / members, rtol=1e-5)
