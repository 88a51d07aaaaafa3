"""All successors of many states at once, checked and reduced: one compiled program."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from abs_dssp import policies
from abs_dssp.history import transition
from abs_dssp.history.events import NOBODY
from abs_dssp.policies import Clocks, Policy, Properties
from abs_dssp.verify import abstraction, invariants
from abs_dssp.verify.abstraction import Abstraction
from abs_dssp.verify.layout import Layout

CHUNK = 256  # states per call, so that one size is compiled


class Alphabet(NamedTuple):
    """What an adversary chooses from at every event: of each, two."""

    gaps: Any  # seconds since the event before; (2,), or (S, 2) for S states
    losses: Any  # estimates; NaN is none yet; the same shapes


# Exact in binary, so that shifts of times round nothing.
PLAIN = Alphabet((1.0, 3.0), (1.0, 0.25))
ODD = Alphabet((0.40625, 7.3125), (math.nan, 0.0))


class Action(NamedTuple):
    """One event of a schedule."""

    kind: str  # "push", "timer", "leave" or "join"
    worker: int  # NOBODY at a timer
    seconds: float  # since the event before
    loss: float  # estimate that the rule is shown; NaN if it reads none


class Move(NamedTuple):
    """An action, but for the numbers: those are an alphabet's."""

    kind: str
    worker: int  # N at a timer
    gap: int
    loss: int


class State(NamedTuple):
    """One state of the search."""

    state: Any  # of the policy
    clocks: Clocks
    now: Float[Array, ""]  # seconds; of the latest event
    deaths: Int[Array, ""]  # still allowed
    joins: Int[Array, ""]  # still allowed
    # Whether there is a deadline; None for a rule without `on_time`.
    wake: Bool[Array, ""] | None = None


class Successors(NamedTuple):
    """What every move makes of every state; NumPy arrays."""

    rows: np.ndarray  # int32 (S, E, W), packed
    broken: np.ndarray  # int32 (S, E), bits in the order of `invariants.KINDS`
    valid: np.ndarray  # bool (S, E)
    # int32 (S, E), bits as `Goals` numbers them; 0 but for pushes and timers.
    reached: np.ndarray
    unequal: np.ndarray  # bool (S, E); an abstraction changes what happens


class Goals:
    """What a push or a timer may bring about, as bits.

    Bit 0: a commit; then, of each worker: an accepted push, a release, a restart. The
    last one: a push at which the rule sets a deadline in place of one to come.
    """

    def __init__(self, num_workers: int):
        each = np.arange(num_workers)
        self.commit = 0
        self.accepted = 1 + each
        self.released = 1 + num_workers + each
        self.restarted = 1 + 2 * num_workers + each
        self.reset = 1 + 3 * num_workers

    def bits(self, worker, done: transition.Transition) -> Int[Array, ""]:
        """Of a push of `worker`, or a timer, after which `done` was carried out."""
        accepted = jnp.asarray(self.accepted, jnp.int32)[worker]
        masks = [
            done.release.astype(jnp.int32) << self.released.astype(np.int32),
            done.restart.astype(jnp.int32) << self.restarted.astype(np.int32),
        ]
        return (
            done.commit.astype(jnp.int32)
            + ((done.weight > 0).astype(jnp.int32) << accepted)
            + jnp.sum(jnp.concatenate(masks))
        )


class Steps:
    """The transition relation of a policy."""

    def __init__(
        self,
        policy: Policy,
        num_workers: int,
        properties: Properties,
        deaths: int,
        joins: int,
    ):
        policies.require_fit("verify", policy, num_workers)
        read = policies.fields_read(policy, num_workers)
        self.timed = bool(read & {"latest", "previous", "now"})
        self.loss = "loss" in read
        self.policy, self.num_workers = policy, num_workers
        self.goals = Goals(num_workers)
        self.wakes = policy.on_time is not None
        everybody = [
            *(("push", worker) for worker in range(num_workers)),
            *([("timer", num_workers)] if self.wakes else []),
            *(("leave", worker) for worker in range(num_workers) if deaths),
            *(("join", worker) for worker in range(num_workers) if deaths and joins),
        ]
        self.moves = [
            Move(kind, worker, gap, loss)
            for kind, worker in everybody
            for gap in range(2 if self.timed else 1)
            for loss in range(2 if self.loss and kind != "join" else 1)
        ]
        # Pushes and timers, with which nobody dies or joins.
        self.pushes = sum(move.kind in ("push", "timer") for move in self.moves)
        self.start = State(
            jax.tree.map(jnp.asarray, policy.init()),
            policies.initial_clocks(num_workers),
            jnp.float32(0),
            jnp.int32(deaths),
            jnp.int32(joins),
            jnp.bool_(True) if self.wakes else None,
        )
        self.layout = Layout(self.start)
        self.reduction = abstraction.Reduction(self.start, read, properties)
        self.properties = properties
        # Compiling takes longer than most searches: half of it is saved.
        quick = {"xla_backend_optimization_level": 0}
        self._step = jax.jit(
            jax.vmap(self._successors, in_axes=(0, None, None, 0, 0, 0)),
            compiler_options=quick if jax.default_backend() == "cpu" else None,
        )

    def first(self, chosen: Abstraction) -> np.ndarray:
        """The initial state, packed and reduced."""
        carry = self.reduction.canonical(self.start, chosen)
        return np.asarray(self.layout.pack(carry))

    def action(self, move: int, alphabet: Alphabet) -> Action:
        """A move with an alphabet's numbers."""
        kind, worker, gap, loss = self.moves[move]
        shown = alphabet.losses[loss] if self.loss else math.nan
        worker = NOBODY if kind == "timer" else worker
        return Action(kind, worker, float(alphabet.gaps[gap]), float(shown))

    def __call__(
        self,
        rows: np.ndarray,
        chosen: Abstraction,
        probed: Abstraction,
        alphabets: Alphabet = PLAIN,
        offset: int = 0,
    ) -> Successors:
        """Successors of at most CHUNK states.

        Each is compared with itself far away and shifted by small numbers: by one, or
        by as many as there is room for.

        Args:
          rows: int32 (S, W), packed states.
          chosen: reductions applied to the successors.
          probed: reductions whose exactness is tried on these states.
          alphabets: for all states, or arrays of shape (S, 2).
          offset: which small shift comes first.
        """
        count = len(rows)
        slot = np.arange(CHUNK)
        at, turn = slot % count, slot // count
        near = 1 + (offset + at + turn) % abstraction.NEAR
        gaps, losses = (
            np.broadcast_to(np.asarray(each, np.float32), (count, 2))[at]
            for each in alphabets
        )
        parts = jax.device_get(
            self._step(rows[at], chosen, probed, near.astype(np.int32), gaps, losses)
        )
        out = Successors(*(part[:count] for part in parts))
        unequal = out.unequal.copy()
        np.logical_or.at(unequal, at, parts.unequal)
        return out._replace(unequal=unequal)

    def _successors(self, row, chosen, probed, near, gaps, losses):
        carry = self.layout.unpack(row)
        variants = self.reduction.variants(carry, probed, near)
        rows, broken, valid, reached = jax.vmap(
            lambda c: self._all(c, chosen, gaps, losses)
        )(variants)
        same = jnp.all(rows == rows[:1], axis=-1) & (broken == broken[:1])
        same = same & (reached == reached[:1])
        unequal = valid[0] & ~jnp.all(same, axis=0)
        return Successors(rows[0], broken[0], valid[0], reached[0], unequal)

    def _all(self, carry, chosen, gaps, losses):
        """Every move from one state."""
        parts = []
        for kind, apply in (
            ("push", self._push),
            ("timer", self._timer),
            ("leave", self._leave),
            ("join", self._join),
        ):
            moves = [move for move in self.moves if move.kind == kind]
            if not moves:
                continue
            worker = np.array([move.worker for move in moves], np.int32)
            seconds = gaps[np.array([move.gap for move in moves], np.int32)]
            loss = losses[np.array([move.loss for move in moves], np.int32)]
            if not self.loss:
                loss = jnp.full_like(loss, math.nan)

            def one(worker, seconds, loss, apply=apply):
                after, broken, valid, reached = apply(
                    carry._replace(clocks=carry.clocks._replace(loss=loss)),
                    worker,
                    carry.now + seconds,
                )
                row = self.layout.pack(self.reduction.canonical(after, chosen))
                return row, broken, valid, reached

            parts.append(jax.vmap(one)(worker, seconds, loss))
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)

    def _push(self, carry, worker, now):
        clocks = carry.clocks
        pusher = policies.only(worker, self.num_workers)
        after, broken, done = self._decided(
            "push", carry, worker, now, clocks.waiting | pusher
        )
        valid = clocks.alive[worker] & ~clocks.waiting[worker]
        reached = self.goals.bits(worker, done)
        if self.wakes and done.decision.wake is not None:
            reset = carry.wake & jnp.isfinite(done.decision.wake)
            reached = reached + (reset.astype(jnp.int32) << self.goals.reset)
        return after, broken, valid, reached

    def _timer(self, carry, worker, now):
        waiting = carry.clocks.waiting
        after, broken, done = self._decided("timer", carry, worker, now, waiting)
        return after, broken, carry.wake, self.goals.bits(worker, done)

    def _leave(self, carry, worker, now):
        clocks = carry.clocks
        gone = policies.only(worker, self.num_workers)
        after, broken, _ = self._decided(
            "leave", carry, worker, now, clocks.waiting & ~gone
        )
        valid = clocks.alive[worker] & (carry.deaths > 0)
        return after._replace(deaths=carry.deaths - 1), broken, valid, jnp.int32(0)

    def _join(self, carry, worker, now):
        server, _ = transition.join(server_of(carry, now), worker, now)
        valid = ~carry.clocks.alive[worker] & (carry.joins > 0)
        after = carry._replace(clocks=server.clocks, now=now, joins=carry.joins - 1)
        broken = invariants.between_events(self.properties, server.clocks, carry.wake)
        return after, broken, valid, jnp.int32(0)

    def _decided(self, kind: str, carry, worker, now, arrived):
        """The state after a push or a departure, what it breaks, and what was done.

        `arrived` are those who have no computation running while the rule decides.
        """
        before = server_of(carry, now)
        if kind == "timer":
            server, done = transition.timer(self.policy, before, now)
        else:
            ask = transition.push if kind == "push" else transition.leave
            server, done = ask(self.policy, before, worker, now)
        wake = None if server.wake is None else jnp.isfinite(server.wake)
        broken = invariants.decision(
            self.properties,
            (carry.state, server.policy),
            carry.clocks,
            server.clocks,
            done,
            arrived,
            kind == "push",
            wake,
        )
        after = carry._replace(
            state=server.policy, clocks=server.clocks, now=now, wake=wake
        )
        return after, broken, done


def server_of(carry: State, now) -> transition.State:
    """A server's state; what no decision depends on is zero.

    Of a deadline it is only known whether there is one: it is not yet past.
    """
    clocks = carry.clocks
    count, zero = jnp.zeros_like(clocks.clock), jnp.zeros_like(clocks.latest)
    wake = None if carry.wake is None else jnp.where(carry.wake, now, jnp.inf)
    return transition.State(carry.state, clocks, count, zero, count, wake)
