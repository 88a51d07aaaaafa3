"""All successors of many states at once, checked and reduced: one compiled program."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from abs_dssp import policies
from abs_dssp.history import transition
from abs_dssp.policies import Clocks, Policy, Properties
from abs_dssp.verify import abstraction, invariants
from abs_dssp.verify.abstraction import Abstraction

CHUNK = 1024  # states per call, so that one size is compiled
THOROUGH = CHUNK // abstraction.NEAR
SECONDS = (1.0, 3.0)  # between events, for rules that read times
LOSSES = (1.0, 0.25)  # estimates, for rules that read the loss


class Action(NamedTuple):
    """One event of a schedule."""

    kind: str  # "push", "leave" or "join"
    worker: int
    seconds: float  # since the event before
    loss: float  # estimate that the rule is shown; NaN if it reads none


class State(NamedTuple):
    """One state of the search."""

    state: Any  # of the policy
    clocks: Clocks
    now: Float[Array, ""]  # seconds; of the latest event
    deaths: Int[Array, ""]  # still allowed
    joins: Int[Array, ""]  # still allowed


class Successors(NamedTuple):
    """What every action makes of every state; NumPy arrays."""

    rows: np.ndarray  # int32 (S, E, W), packed
    broken: np.ndarray  # int32 (S, E), bits in the order of `invariants.KINDS`
    valid: np.ndarray  # bool (S, E)
    released: np.ndarray  # bool (S, E, N); answered, and by a push
    unequal: np.ndarray  # bool (S, E); an abstraction changes what happens


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
        _fits(policy, num_workers)
        read = policies.fields_read(policy, num_workers)
        self.timed = bool(read & {"latest", "previous", "now"})
        self.policy, self.num_workers = policy, num_workers
        times = SECONDS if self.timed else SECONDS[:1]
        losses = LOSSES if "loss" in read else (math.nan,)
        self.moves = [
            Action(kind, worker, dt, loss)
            for kind in ("push", "leave", "join")
            for worker in range(num_workers)
            for dt in times
            for loss in (losses if kind != "join" else losses[:1])
            if kind == "push" or (deaths if kind == "leave" else deaths and joins)
        ]
        self.pushes = sum(move.kind == "push" for move in self.moves)
        self.start = State(
            jax.tree.map(jnp.asarray, policy.init()),
            policies.initial_clocks(num_workers),
            jnp.float32(0),
            jnp.int32(deaths),
            jnp.int32(joins),
        )
        self.layout = Layout(self.start)
        self.reduction = abstraction.Reduction(self.start, read, properties)
        self.properties = properties
        # Compiling takes longer than most searches: half of it is saved.
        quick = {"xla_backend_optimization_level": 0}
        self._step = jax.jit(
            jax.vmap(self._successors, in_axes=(0, None, None, 0)),
            compiler_options=quick if jax.default_backend() == "cpu" else None,
        )

    def first(self, chosen: Abstraction) -> np.ndarray:
        """The initial state, packed and reduced."""
        carry = self.reduction.canonical(self.start, chosen)
        return np.asarray(self.layout.pack(carry))

    def __call__(
        self,
        rows: np.ndarray,
        chosen: Abstraction,
        probed: Abstraction,
    ) -> Successors:
        """Successors of at most CHUNK states.

        Each is compared with itself shifted by one small number, and by all of them
        where there are at most THOROUGH.

        Args:
          rows: packed states.
          chosen: reductions applied to the successors.
          probed: reductions whose exactness is tried on these states.
        """
        count = len(rows)
        if count <= THOROUGH:
            filled = np.concatenate([rows, np.repeat(rows[:1], THOROUGH - count, 0)])
            padded = np.concatenate([filled] * abstraction.NEAR)
            near = np.repeat(np.arange(abstraction.NEAR, dtype=np.int32), THOROUGH)
        else:
            padded = np.concatenate([rows, np.repeat(rows[:1], CHUNK - count, axis=0)])
            near = np.arange(CHUNK, dtype=np.int32) % abstraction.NEAR
        parts = jax.device_get(self._step(padded, chosen, probed, near + 1))
        out = Successors(*(part[:count] for part in parts))
        if count <= THOROUGH:
            every = parts.unequal.reshape(abstraction.NEAR, THOROUGH, -1)
            out = out._replace(unequal=every.any(axis=0)[:count])
        return out

    def _successors(self, row, chosen, probed, near):
        carry = self.layout.unpack(row)
        variants = self.reduction.variants(carry, probed, near)
        rows, broken, valid, released = jax.vmap(lambda c: self._all(c, chosen))(
            variants
        )
        same = jnp.all(rows == rows[:1], axis=-1) & (broken == broken[:1])
        same = same & jnp.all(released == released[:1], axis=-1)
        unequal = valid[0] & ~jnp.all(same, axis=0)
        return Successors(rows[0], broken[0], valid[0], released[0], unequal)

    def _all(self, carry, chosen):
        """Every action from one state."""
        parts = []
        for kind, apply in (
            ("push", self._push),
            ("leave", self._leave),
            ("join", self._join),
        ):
            moves = [move for move in self.moves if move.kind == kind]
            if not moves:
                continue
            worker = np.array([move.worker for move in moves], np.int32)
            seconds = np.array([move.seconds for move in moves], np.float32)
            loss = np.array([move.loss for move in moves], np.float32)

            def one(worker, seconds, loss, apply=apply):
                after, broken, valid, released = apply(
                    carry._replace(clocks=carry.clocks._replace(loss=loss)),
                    worker,
                    carry.now + seconds,
                )
                row = self.layout.pack(self.reduction.canonical(after, chosen))
                return row, broken, valid, released

            parts.append(jax.vmap(one)(worker, seconds, loss))
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)

    def _push(self, carry, worker, now):
        clocks = carry.clocks
        pusher = policies.only(worker, self.num_workers)
        after, broken, done = self._decided(
            "push", carry, worker, now, clocks.waiting | pusher
        )
        valid = clocks.alive[worker] & ~clocks.waiting[worker]
        return after, broken, valid, done.release

    def _leave(self, carry, worker, now):
        clocks = carry.clocks
        gone = policies.only(worker, self.num_workers)
        after, broken, _ = self._decided(
            "leave", carry, worker, now, clocks.waiting & ~gone
        )
        valid = clocks.alive[worker] & (carry.deaths > 0)
        nobody = policies.base.nobody(self.num_workers)
        return after._replace(deaths=carry.deaths - 1), broken, valid, nobody

    def _join(self, carry, worker, now):
        server, _ = transition.join(server_of(carry.state, carry.clocks), worker, now)
        valid = ~carry.clocks.alive[worker] & (carry.joins > 0)
        after = carry._replace(clocks=server.clocks, now=now, joins=carry.joins - 1)
        nobody = policies.base.nobody(self.num_workers)
        broken = invariants.between_events(self.properties, server.clocks)
        return after, broken, valid, nobody

    def _decided(self, kind: str, carry, worker, now, arrived):
        """The state after a push or a departure, what it breaks, and what was done.

        `arrived` are those who have no computation running while the rule decides.
        """
        before = server_of(carry.state, carry.clocks)
        ask = transition.push if kind == "push" else transition.leave
        server, done = ask(self.policy, before, worker, now)
        broken = invariants.decision(
            self.properties,
            (carry.state, server.policy),
            carry.clocks,
            server.clocks,
            done,
            arrived,
            kind == "push",
        )
        after = carry._replace(state=server.policy, clocks=server.clocks, now=now)
        return after, broken, done


def server_of(state: Any, clocks: Clocks) -> transition.State:
    """A server's state; what no decision depends on is zero."""
    count = jnp.zeros_like(clocks.clock)
    return transition.State(state, clocks, count, jnp.zeros_like(clocks.latest), count)


def _fits(policy: Policy, num_workers: int) -> None:
    """Refuses a rule that cannot be asked, in one sentence."""
    text = policies.describe(policy)
    clocks = policies.initial_clocks(num_workers)
    try:
        start = jax.eval_shape(policy.init)
        ends = [
            jax.eval_shape(ask, start, clocks, jnp.int32(0), jnp.float32(0))
            for ask in (policy.on_push, policy.on_leave)
        ]
    except Exception as error:  # whatever a rule of one's own may raise
        first = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"verify: {text} fails with {type(error).__name__}: {first}"
        ) from error
    masks = (num_workers,), jnp.bool_
    for name, end in zip(("on_push", "on_leave"), ends, strict=True):
        where = f"verify: {text}: {name}"
        if not (isinstance(end, tuple) and len(end) == 2):
            raise ValueError(f"{where} must return (state, Decision).")
        state, decision = end
        if repr(state) != repr(start):  # of ShapeDtypeStructs
            raise ValueError(
                f"{where} must give its state back with the structure, shapes and "
                "dtypes it came with."
            )
        if not isinstance(decision, policies.Decision) or [
            (mask.shape, mask.dtype) for mask in (decision.release, decision.restart)
        ] != [masks, masks]:
            raise ValueError(
                f"{where} must return a Decision whose release and restart are bool "
                f"of shape ({num_workers},)."
            )


class Layout:
    """A pytree of small arrays as one row of int32, and back."""

    def __init__(self, example: Any):
        leaves, self._structure = jax.tree.flatten(example)
        self._shapes = [(leaf.shape, leaf.dtype) for leaf in leaves]
        for shape, dtype in self._shapes:
            if dtype not in (jnp.bool_, jnp.int32, jnp.uint32, jnp.float32):
                raise ValueError(
                    f"verify: the rule's state holds {dtype} of shape {shape}; it may "
                    "hold bool, int32, uint32 and float32."
                )
        sizes = [math.prod(shape) for shape, _ in self._shapes]
        self._ends = np.cumsum(sizes)
        self.width = int(self._ends[-1])
        paths = jax.tree_util.tree_leaves_with_path(example)
        self._places = {
            jax.tree_util.keystr(path): slice(int(end) - size, int(end))
            for (path, _), end, size in zip(paths, self._ends, sizes, strict=True)
        }

    def column(self, rows: np.ndarray, path: str) -> np.ndarray:
        """The columns of an integer leaf, such as `".clocks.alive"`."""
        return rows[..., self._places[path]]

    def on_host(self, row: np.ndarray) -> Any:
        """The pytree of a row, in NumPy."""
        return jax.device_get(self.unpack(jnp.asarray(row)))

    def pack(self, tree: Any) -> Int[Array, " W"]:
        """One row; NaNs and zeros in one form each."""

        def bits(leaf, dtype):
            if dtype == jnp.float32:
                leaf = jnp.where(jnp.isnan(leaf), jnp.nan, leaf + 0.0)
                return jax.lax.bitcast_convert_type(leaf, jnp.int32)
            return leaf.astype(jnp.int32)

        leaves = jax.tree.leaves(tree)
        flat = [
            bits(jnp.asarray(leaf), dtype).ravel()
            for leaf, (_, dtype) in zip(leaves, self._shapes, strict=True)
        ]
        return jnp.concatenate(flat)

    def unpack(self, row: Int[Array, " W"]) -> Any:
        """The pytree of a row."""
        leaves = []
        for part, (shape, dtype) in zip(
            jnp.split(row, self._ends[:-1]), self._shapes, strict=True
        ):
            if dtype == jnp.float32:
                part = jax.lax.bitcast_convert_type(part, jnp.float32)
            leaves.append(part.reshape(shape).astype(dtype))
        return jax.tree.unflatten(self._structure, leaves)
