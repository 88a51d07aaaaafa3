"""What of a state may be forgotten: reductions that are tried before they are used.

Two kinds. What neither the rule nor a property reads (found by tracing the rule) is
left out. Everything else is a hypothesis about the rule, for instance that it looks at
versions only by their differences; a hypothesis is tried at every state that the search
visits, by asking the rule again about states that it should not tell apart. Where the
rule does tell two of them apart, the search begins anew without that hypothesis.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from abs_dssp.policies import Properties

# The hypotheses, in the order of `Abstraction.hypotheses`.
CLOCK = 0  # clocks matter by their differences among the living
VERSION = 1  # versions by their differences, beyond `Abstraction.floor`
TIME = 2  # times by their differences
IDLE = 3  # clock, version and times of the dead, and the version of who waits, do not
FAR_CLOCK = 4  # leads from FAR on are alike
FAR_VERSION = 5  # staleness from FAR on is alike
FAR_TIME = 6  # seconds ago from FAR_SECONDS on are alike
FAR_PENDING = 7  # pending pushes from FAR on are alike
COUNTER = 8  # a number in the rule's state that never falls changes no decision
HYPOTHESES = 9
NAMES = (
    "clocks",
    "versions",
    "times",
    "what is idle",
    "large leads",
    "large staleness",
    "long ages",
    "many pending pushes",
    "its own counters",
)  # in the order above, for readers
BESIDE = {FAR_CLOCK: CLOCK, FAR_TIME: TIME}  # what is made with another one only
FLOORS = (0, 8, 32)  # versions tried, before the hypothesis is given up

FAR = 16  # clocks, versions or pushes, beyond every stated bound
FAR_SECONDS = 32.0
# What a state is compared with: itself far away, and shifted by small numbers, of which
# there are NEAR. Each quantity runs through 1..NEAR in an order of its own: this shows
# rules that look at remainders modulo 2 to 64, or at the difference of two quantities.
NEAR = 66
_PRIME = NEAR + 1


class _Shifts(NamedTuple):
    """By how much a state is shifted; int32 but for `seconds`, which is float32."""

    clock: Any
    version: Any
    seconds: Any
    counter: Any
    beyond: Any  # times 1..N, what is far already goes farther
    idle: Any  # what of the dead, and of who waits, does not matter


_FAR_AWAY = _Shifts(2_097_169, 1_048_583, 4099.0, 3_145_739, 1009, 1)


def _nearby(number: Int[Array, ""]) -> _Shifts:
    """The small shifts with a number in 1..NEAR."""
    clock, version, seconds, counter, beyond, idle = (
        factor * number % _PRIME for factor in (1, 5, 11, 23, 31, 43)
    )
    seconds = seconds.astype(jnp.float32)
    return _Shifts(clock, version, seconds, counter, beyond, -idle)


class Abstraction(NamedTuple):
    """The hypotheses made; values and not structure, so that one program serves."""

    hypotheses: Bool[np.ndarray, " G"]
    floor: Any  # int32; versions up to it are kept as they are
    time_leaves: Bool[np.ndarray, " L"]  # leaves of the rule's state that are times
    left_out: Any  # bool; whether what nobody reads is left out


class Reduction:
    """Reductions for one policy."""

    def __init__(self, start: Any, read: frozenset[str], properties: Properties):
        bounds = (
            properties.max_staleness,
            properties.max_computing,
            properties.max_gap,
            properties.min_commit,
            properties.max_commit,
        )
        self.far = max([FAR, *(int(b) + 4 for b in bounds if b is not None)])
        versions = properties.max_staleness, properties.max_computing
        # What nobody reads. Of `pending` all is kept, or whether there are any.
        sizes = properties.min_commit, properties.max_commit
        sized = sizes != (None, None) or properties.commit_field
        self._no_pending = "pending" not in read and not sized
        self._no_clock = "clock" not in read and properties.max_gap is None
        self._no_pulled = "pulled" not in read and versions == (None, None)
        self._no_version = "version" not in read and self._no_pulled
        self._no_latest = "latest" not in read
        self._no_previous = "previous" not in read
        self._no_time = not read & {"latest", "previous", "now"}
        state = jax.tree.leaves(start.state)
        self._float = [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in state]
        counters = set(properties.never_falls) - {properties.commit_field}
        self._counter = [
            leaf if path and getattr(path[0], "name", "") in counters else None
            for path, leaf in jax.tree_util.tree_leaves_with_path(start.state)
        ]  # their values at the start

    def none(self) -> Abstraction:
        """No reduction at all."""
        leaves = np.zeros(len(self._float), bool)
        return Abstraction(
            np.zeros(HYPOTHESES, bool), np.int32(0), leaves, np.bool_(False)
        )

    def all(self) -> Abstraction:
        """Every reduction."""
        everything = np.ones(HYPOTHESES, bool)
        return self.none()._replace(hypotheses=everything, left_out=np.bool_(True))

    def only(self, chosen: Abstraction, hypothesis: int) -> Abstraction:
        """The same with one hypothesis, and the one that it is about, if any."""
        hypotheses = np.zeros(HYPOTHESES, bool)
        for each in {hypothesis, BESIDE.get(hypothesis, hypothesis)}:
            hypotheses[each] = chosen.hypotheses[each]
        return chosen._replace(hypotheses=hypotheses)

    def without(self, chosen: Abstraction, hypothesis: int) -> Abstraction:
        """What to try when a hypothesis was wrong: a weaker one, or none."""
        if hypothesis == VERSION and chosen.floor < FLOORS[-1]:
            floor = FLOORS[FLOORS.index(int(chosen.floor)) + 1]
            return chosen._replace(floor=np.int32(floor))
        if hypothesis == TIME:  # perhaps the rule keeps a time in its state
            numbers = np.flatnonzero(self._float)
            tried = np.flatnonzero(chosen.time_leaves)
            later = numbers[numbers > tried[0]] if len(tried) else numbers
            if len(later):
                leaves = np.arange(len(self._float)) == later[0]
                return chosen._replace(time_leaves=leaves)
        hypotheses = chosen.hypotheses.copy()
        hypotheses[hypothesis] = False
        return chosen._replace(hypotheses=hypotheses)

    def canonical(self, carry: Any, chosen: Abstraction) -> Any:
        """The state that stands for all that are like it."""
        use, drop = chosen.hypotheses, chosen.left_out
        clocks = carry.clocks
        alive = clocks.alive
        idle = use[IDLE] & ~alive
        largest = jnp.iinfo(jnp.int32).max
        slowest = jnp.min(jnp.where(alive, clocks.clock, largest))
        slowest = jnp.where(jnp.any(alive), slowest, jnp.min(clocks.clock))
        clock = jnp.where(idle, slowest, clocks.clock)
        clock = clock - jnp.where(use[CLOCK], slowest, 0)
        reach = jnp.clip(clock, -self.far, self.far)
        clock = jnp.where(use[CLOCK] & use[FAR_CLOCK], reach, clock)

        version, pulled = clocks.version, clocks.pulled
        pulled = jnp.where(use[IDLE] & (clocks.waiting | ~alive), version, pulled)
        if self._no_pulled:
            pulled = jnp.where(drop, version, pulled)
        near = jnp.maximum(pulled, version - self.far)
        pulled = jnp.where(use[FAR_VERSION], near, pulled)
        down = jnp.where(use[VERSION], jnp.maximum(version - chosen.floor, 0), 0)
        if self._no_version:
            down = jnp.where(drop, version, down)
        version, pulled = version - down, pulled - down

        now, latest, previous = carry.now, clocks.latest, clocks.previous
        latest = jnp.where(idle, now, latest)
        previous = jnp.where(idle, now, previous)
        start = jnp.where(use[TIME], now, 0.0)
        far = jnp.where(use[FAR_TIME] & use[TIME], FAR_SECONDS, jnp.inf)
        now, latest, previous = now - start, latest - start, previous - start
        latest = jnp.maximum(latest, -far)
        previous = jnp.maximum(previous, latest - far)
        if self._no_latest:
            latest = jnp.where(drop, 0.0, latest)
        if self._no_previous:
            previous = jnp.where(drop, 0.0, previous)
        if self._no_time:
            now = jnp.where(drop, 0.0, now)
        state = carry.state
        state = self._times(state, chosen, lambda leaf: jnp.maximum(leaf - start, -far))
        state = self._counters(state, chosen, lambda leaf, start: start)
        pending = jnp.minimum(clocks.pending, self.far)
        pending = jnp.where(use[FAR_PENDING], pending, clocks.pending)
        if self._no_pending:
            pending = jnp.where(drop, jnp.minimum(pending, 1), pending)
        return carry._replace(
            state=state,
            now=now,
            clocks=clocks._replace(
                clock=jnp.where(drop & self._no_clock, 0, clock),
                pulled=pulled,
                version=version,
                latest=latest,
                previous=previous,
                pending=pending,
                loss=jnp.float32(jnp.nan),
            ),
        )

    def variants(self, carry: Any, chosen: Abstraction, near: Int[Array, ""]) -> Any:
        """A canonical state, and states that the rule should not tell from it.

        Stacked along a new leading axis, `carry` itself first, then one that is shifted
        far away and one by the small numbers of `near`, 1..NEAR.
        """
        shifts = jax.tree.map(
            lambda far, small: jnp.stack([jnp.asarray(far, small.dtype), small]),
            _FAR_AWAY,
            _nearby(near),
        )
        others = jax.vmap(lambda by: self._perturbed(carry, chosen, by))(shifts)
        return jax.tree.map(
            lambda one, more: jnp.concatenate([one[None], more]), carry, others
        )

    def _perturbed(self, carry, chosen, by):
        use = chosen.hypotheses
        clocks = carry.clocks
        count = clocks.clock.shape[0]
        each = np.arange(1, count + 1, dtype=np.int32)
        dead = use[IDLE] & ~clocks.alive
        beyond = by.beyond * each

        clock = clocks.clock + jnp.where(dead, by.idle * (2 + each), 0)
        apart = use[CLOCK] & use[FAR_CLOCK] & clocks.alive & (clock >= self.far)
        clock = clock + jnp.where(apart, beyond, 0)
        clock = clock + jnp.where(use[CLOCK], by.clock, 0)

        version, pulled = clocks.version, clocks.pulled
        unused = use[IDLE] & (clocks.waiting | ~clocks.alive)
        old = use[FAR_VERSION] & (version - pulled >= self.far) & ~unused
        pulled = pulled - jnp.where(old, beyond, 0)
        pulled = pulled + jnp.where(unused, by.idle * (1 + each), 0)
        up = jnp.where(use[VERSION] & (version >= chosen.floor), by.version, 0)

        now, latest, previous = carry.now, clocks.latest, clocks.previous
        ago = beyond.astype(jnp.float32)
        clip = use[TIME] & use[FAR_TIME]
        seldom = clip & (latest - previous >= FAR_SECONDS) & ~dead
        long_ago = clip & (latest <= now - FAR_SECONDS) & ~dead
        latest = latest - jnp.where(long_ago, ago, 0.0)
        previous = previous - jnp.where(long_ago, ago, 0.0)
        previous = previous - jnp.where(seldom, ago, 0.0)
        shift = (by.idle * (5 + each)).astype(jnp.float32)
        latest = latest + jnp.where(dead, shift, 0.0)
        later = jnp.where(use[TIME], by.seconds, 0.0)

        def moved(leaf):
            long = clip & (leaf <= now - FAR_SECONDS)
            return leaf - jnp.where(long, by.beyond.astype(jnp.float32), 0.0) + later

        pending = clocks.pending
        many = use[FAR_PENDING] & (pending >= self.far)
        state = self._times(carry.state, chosen, moved)
        return carry._replace(
            state=self._counters(state, chosen, lambda leaf, start: leaf + by.counter),
            now=now + later,
            clocks=clocks._replace(
                clock=clock,
                pulled=pulled + up,
                version=version + up,
                latest=latest + later,
                previous=previous + later,
                pending=pending + jnp.where(many, by.beyond, 0),
            ),
        )

    def _times(self, state, chosen, change):
        """The rule's state with the leaves changed that are times."""
        leaves, structure = jax.tree.flatten(state)
        leaves = [
            jnp.where(chosen.time_leaves[i], change(leaf).astype(leaf.dtype), leaf)
            if is_float
            else leaf
            for i, (leaf, is_float) in enumerate(zip(leaves, self._float, strict=True))
        ]
        return jax.tree.unflatten(structure, leaves)

    def _counters(self, state, chosen, change):
        """The rule's state with the leaves changed that only count."""
        leaves, structure = jax.tree.flatten(state)
        use = chosen.hypotheses[COUNTER]
        leaves = [
            leaf if start is None else jnp.where(use, change(leaf, start), leaf)
            for leaf, start in zip(leaves, self._counter, strict=True)
        ]
        return jax.tree.unflatten(structure, leaves)
