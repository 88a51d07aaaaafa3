"""Pushes and commits over one contiguous buffer, each a compiled function of its own.

A cluster's workers and server call these, and so does the replay of a cluster's run:
the same executables on the same numbers give the same bits. Parameters and BatchNorm
statistics lie in one float32 vector, in the order of the pytree's leaves; a push lies
in a vector of the same length, gradients in the place of parameters.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from abs_dssp.tasks.base import Task, Variables
from abs_dssp.training import aggregators, update

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


class Wire(NamedTuple):
    """Number formats of what travels; static."""

    push: str = "float32"
    pull: str = "float32"


def wire(push: str = "float32", pull: str = "float32") -> Wire:
    """Checks the formats of pushes and pulls: `"float32"` or `"bfloat16"`.

    Raises:
      ValueError: for another format.
    """
    for name, value in (("push", push), ("pull", pull)):
        if value not in DTYPES:
            known = ", ".join(DTYPES)
            raise ValueError(f"{name} format must be one of {known}, got {value!r}.")
    return Wire(push, pull)


class Layout(NamedTuple):
    """Where each leaf of the variables lies; static."""

    structure: Any  # treedef of Variables
    shapes: tuple[tuple[int, ...], ...]
    size: int  # values in all
    num_parameters: int  # values before the statistics

    def unflatten(self, vector: Float[Array, " D"]) -> Variables:
        """The pytree of a vector."""
        leaves, at = [], 0
        for shape in self.shapes:
            size = math.prod(shape)
            leaves.append(vector[at : at + size].reshape(shape))
            at += size
        return jax.tree.unflatten(self.structure, leaves)


def flatten(variables: Variables) -> Float[Array, " D"]:
    """The vector of a pytree."""
    leaves = [jnp.ravel(leaf) for leaf in jax.tree.leaves(variables)]
    return leaves[0] if len(leaves) == 1 else jnp.concatenate(leaves)


def layout(task: Task) -> Layout:
    """The layout of a task's variables.

    Raises:
      ValueError: if a leaf is not float32.
    """
    variables = jax.eval_shape(task.init, jax.random.key(0))
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        if leaf.dtype != jnp.float32:
            raise ValueError(
                f"{task.name}: {jax.tree_util.keystr(path)} is {leaf.dtype}; "
                "parameters and statistics must be float32 to travel in one buffer."
            )
    leaves, structure = jax.tree.flatten(variables)
    sizes = [math.prod(leaf.shape) for leaf in leaves]
    count = len(jax.tree.leaves(variables.params))
    return Layout(
        structure,
        tuple(leaf.shape for leaf in leaves),
        sum(sizes),
        sum(sizes[:count]),
    )


class Functions:
    """The compiled functions of a task and a rule. Stateless; shared by threads."""

    def __init__(self, task: Task, rule: update.Rule, formats: Wire = Wire()):  # noqa: B008
        functions = task._replace(data=None, constants=None)
        rule = rule._replace(unroll=False)
        self.task, self.rule, self.wire = functions, rule, formats
        self.layout = layout(task)
        self.whole = elementwise(rule.optimizer)
        static = (functions, rule, self.layout, formats.push)
        self.initial = functools.partial(_initial, functions)
        self.push = functools.partial(_push, *static)
        self.begin = functools.partial(_begin, rule, self.layout)
        self.step = functools.partial(_step, functions, rule)
        self.finish = functools.partial(_finish, formats.push)
        place = (rule, self.layout, self.whole)
        self.start_optimizer = functools.partial(_start_optimizer, *place)
        self.apply = functools.partial(_apply, *place)
        self.commit = functools.partial(_commit, *place)
        self.pulled = functools.partial(_pulled, formats.pull)
        self.hold = functools.partial(_hold, rule, self.layout, task.num_workers)
        self.take = functools.partial(_take, rule, self.layout)
        self.combine = functools.partial(_combine, *place)
        self.copy = _copy
        self.evaluate = functools.partial(_evaluate, functions, self.layout)
        self.objective = functools.partial(_objective, functions, self.layout)

    def compute(self, vector, data, key, worker, clock, version, epoch, pause=None):
        """One push from a pulled version: `(vector, loss)`.

        Args:
          vector: the pulled version, as it travelled.
          data: the task's arrays, on the device that computes.
          key: of the run's seed.
          worker: 0..N-1.
          clock: 1-based, this push included.
          version: the pulled version's number.
          epoch: samples processed when it was made, in epochs.
          pause: called after every local step but the last; true cancels.

        Returns:
          Push vector and mean loss, both on the device; None if cancelled.
        """
        numbers: Any = (
            np.int32(worker), np.int32(clock), np.int32(version), np.float32(epoch)
        )  # fmt: skip
        origin = update.Origin(*numbers)
        if self.rule.local_steps == 1:
            return self.push(vector, data, key, origin)
        work = self.begin(vector)
        for number in range(self.rule.local_steps):
            work = self.step(data, key, work, origin, np.int32(number))
            if pause is not None and number + 1 < self.rule.local_steps:
                jax.block_until_ready(work.losses)
                if pause():
                    return None
        return self.finish(work)


class _Present:
    """The present version and the optimiser's state, on one device."""

    def __init__(self, functions: Functions, vector):
        self.functions = functions
        # On one device from the start: jit compiles anew for arrays that are not.
        self._device = jax.local_devices()[0]
        self.vector = jax.device_put(vector, self._device)
        self.optimizer = jax.device_put(
            functions.start_optimizer(self.vector), self._device
        )

    def _placed(self, array: Any) -> Any:
        """A copy on the device: what is given may change, and is donated."""
        return jnp.copy(jax.device_put(array, self._device))


class Parameters(_Present):
    """The server's parameters: receives pushes, makes versions. Not thread-safe.

    `vector` is donated at every commit: whoever keeps a version keeps a copy. The only
    push of a commit is applied as it is if pushes are averaged, whatever its weight.
    """

    def __init__(self, functions: Functions, vector):
        super().__init__(functions, vector)
        self.count = 0  # pushes with a weight since the last commit
        self.weight = np.float32(0)  # the sum of their weights
        self.held: Any = None  # that push itself if there is one, else the weighted sum

    def receive(self, push, weight: float, worker: int, committed: bool, pulled):
        """Adds a push to the next commit; one of weight 0 adds nothing.

        Its buffer must not change until `commit` or `keep` was called.

        Args:
          push: vector.
          weight: the policy's.
          worker: who pushed.
          committed: whether it causes a commit.
          pulled: the version it was computed from, as it travelled.
        """
        del worker, committed, pulled  # a mean or sum needs none of them
        if not weight > 0:
            return
        added = np.float32(weight)
        if self.count == 0:
            self.held = push
        else:
            if self.count == 1:
                self.held = _scaled(self.held, self.weight)
            self.held = _add(self.held, push, added)
        self.weight = np.float32(self.weight + added)
        self.count += 1

    def keep(self) -> None:
        """Makes sure that no pushed buffer is read after this."""
        if self.count == 1:
            self.held = _copy(self.held)
        if self.count:
            jax.block_until_ready(self.held)

    def commit(self, epoch: float, version: int) -> None:
        """Makes the next version.

        Args:
          epoch: samples processed when the present version was made, in epochs.
          version: the present version's number.
        """
        functions = self.functions
        numbers = (np.float32(epoch), np.int32(version))
        if self.count == 1:
            mean = functions.rule.aggregate == "mean"
            weight = np.float32(1) if mean else self.weight
            self.vector, self.optimizer = functions.apply(
                self.vector, self.optimizer, self.held, weight, *numbers
            )
        else:
            sums = self.held if self.count else _zeros(self.vector)
            self.vector, self.optimizer = functions.commit(
                self.vector, self.optimizer, sums, self.weight, *numbers
            )
        self.count, self.weight, self.held = 0, np.float32(0), None

    def leaves(self) -> list[Any]:
        """State for a checkpoint, which `restore` takes. Arrays are not copied."""
        held = self.held if self.count else _zeros(self.vector)
        numbers = [np.int32(self.count), self.weight]
        return [self.vector, held, *numbers, *jax.tree.leaves(self.optimizer)]

    def restore(self, leaves: Sequence[Any]) -> None:
        """Takes up what `leaves` gave."""
        vector, held, count, weight, *rest = leaves
        old, structure = jax.tree.flatten(self.optimizer)
        self.vector = self._placed(vector)
        self.optimizer = jax.tree.unflatten(
            structure,
            [
                self._placed(new).astype(leaf.dtype)
                for new, leaf in zip(rest, old, strict=True)
            ],
        )
        self.count, self.weight = int(count), np.float32(np.asarray(weight))
        self.held = self._placed(held) if self.count else None


class Aggregated(_Present):
    """The same where `aggregates` combine the pushes. Not thread-safe."""

    def __init__(self, functions: Functions, vector):
        super().__init__(functions, vector)
        self.held = jax.device_put(functions.hold(self.vector), self._device)

    def receive(self, push, weight: float, worker: int, committed: bool, pulled):
        """See `Parameters.receive`."""
        self.held = self.functions.take(
            self.held, push, np.float32(weight), np.int32(worker), np.bool_(committed),
            self.vector, pulled,
        )  # fmt: skip

    def keep(self) -> None:
        """See `Parameters.keep`."""
        jax.block_until_ready(self.held)

    def commit(self, epoch: float, version: int) -> None:
        """See `Parameters.commit`."""
        self.vector, self.optimizer, self.held = self.functions.combine(
            self.vector, self.optimizer, self.held, np.float32(epoch), np.int32(version)
        )

    def leaves(self) -> list[Any]:
        """See `Parameters.leaves`. Empty leaves are left out: Orbax refuses them."""
        leaves = jax.tree.leaves((self.held, self.optimizer))
        return [self.vector, *(leaf for leaf in leaves if leaf.size)]

    def restore(self, leaves: Sequence[Any]) -> None:
        """See `Parameters.restore`."""
        old, structure = jax.tree.flatten((self.held, self.optimizer))
        self.vector = self._placed(leaves[0])
        saved = iter(leaves[1:])
        rest = [
            self._placed(next(saved)).astype(leaf.dtype) if leaf.size else leaf
            for leaf in old
        ]
        self.held, self.optimizer = jax.tree.unflatten(structure, rest)


def parameters(functions: Functions, vector) -> Parameters | Aggregated:
    """The server's parameters, as the rule's `aggregate` needs them."""
    if aggregators.parse(functions.rule.aggregate) is None:
        return Parameters(functions, vector)
    return Aggregated(functions, vector)


def elementwise(optimizer: optax.GradientTransformation) -> bool:
    """Whether an optimiser treats a vector as it treats the leaves it consists of.

    Then one step over one buffer does. Tried on small leaves of several shapes, since
    a transformation does not tell.
    """
    random = np.random.default_rng(0)
    shapes = [(3,), (4, 5), (2, 3, 2)]

    def some():
        return [random.normal(size=shape).astype(np.float32) for shape in shapes]

    update_fn = optax.with_extra_args_support(optimizer).update
    extra = {"epoch": np.float32(0), "server_updates": np.int32(0)}

    def joined(leaves):
        return np.concatenate([np.ravel(leaf) for leaf in leaves])

    try:
        with jax.numpy_dtype_promotion("standard"):
            leaves: Any = some()
            vector: Any = joined(leaves)
            one, many = optimizer.init(vector), optimizer.init(leaves)
            for _ in range(3):
                gradient: Any = some()
                change, one = update_fn(joined(gradient), one, vector, **extra)
                changes, many = update_fn(gradient, many, leaves, **extra)
                # Rounding may depend on where a value lies in a vector.
                if not np.allclose(change, joined(changes), rtol=1e-4, atol=1e-7):
                    return False
                vector = np.asarray(vector + change)
                leaves = [
                    a + np.asarray(b) for a, b in zip(leaves, changes, strict=True)
                ]
    except Exception:  # it insists on a structure of its own
        return False
    return True


@functools.partial(jax.jit, static_argnums=(0,))
def _initial(functions, key):
    return flatten(functions.init(key))


def _variables(layout: Layout, vector) -> Variables:
    return layout.unflatten(vector.astype(jnp.float32))


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _push(functions, rule, layout, dtype, vector, data, key, origin):
    variables = _variables(layout, vector)
    push = update.single(rule, functions, data, key, variables, origin)
    return _packed(push, dtype)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _begin(rule, layout, vector):
    return update.begin(rule, _variables(layout, vector))


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=(4,))
def _step(functions, rule, data, key, work, origin, number):
    return update.local_step(rule, functions, data, key, work, origin, number)


@functools.partial(jax.jit, static_argnums=(0,))
def _finish(dtype, work):
    return _packed(update.finish(work), dtype)


def _packed(push: update.Push, dtype):
    vector = flatten(Variables(push.gradient, push.stats))
    return vector.astype(DTYPES[dtype]), push.loss.astype(jnp.float32)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _start_optimizer(rule, layout, whole, vector):
    if whole:
        return rule.optimizer.init(vector[: layout.num_parameters])
    return rule.optimizer.init(layout.unflatten(vector).params)


def _moved(rule, layout, whole, vector, state, gradient, stats, epoch, version):
    """One optimiser step; `gradient` and `stats` as parts of a vector."""
    cut = layout.num_parameters
    if whole:
        present = Variables(vector[:cut], vector[cut:])
        new, state = update.apply(rule, present, state, gradient, stats, epoch, version)
        if cut == layout.size:
            return new.params, state
        return jnp.concatenate([new.params, new.stats]), state
    present = layout.unflatten(vector)
    slopes = layout.unflatten(jnp.concatenate([gradient, stats]))
    new, state = update.apply(
        rule, present, state, slopes.params, slopes.stats, epoch, version
    )
    return flatten(new), state


@functools.partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=(3, 4))
def _apply(rule, layout, whole, vector, state, push, weight, epoch, version):
    cut = layout.num_parameters
    push = push.astype(jnp.float32)
    gradient = push[:cut]
    if rule.aggregate == "sum":
        gradient = weight * gradient
    return _moved(
        rule, layout, whole, vector, state, gradient, push[cut:], epoch, version
    )


@functools.partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=(3, 4))
def _commit(rule, layout, whole, vector, state, sums, weight, epoch, version):
    cut = layout.num_parameters
    positive = weight > 0
    scale = jnp.where(positive, 1 / jnp.where(positive, weight, 1), 0)
    gradient = sums[:cut] * scale if rule.aggregate == "mean" else sums[:cut]
    stats = jnp.where(positive, sums[cut:] * scale, vector[cut:])
    return _moved(rule, layout, whole, vector, state, gradient, stats, epoch, version)


def _aggregate(rule: update.Rule) -> aggregators.Aggregate:
    found = aggregators.parse(rule.aggregate)
    assert found is not None  # `Parameters` does means and sums
    return found


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _hold(rule, layout, num_workers, vector):
    cut = layout.num_parameters
    return _aggregate(rule).init(vector[:cut], vector[cut:], num_workers)


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=(2,))
def _take(rule, layout, held, push, weight, worker, committed, vector, pulled):
    cut = layout.num_parameters
    push, pulled = push.astype(jnp.float32), pulled.astype(jnp.float32)
    arrival = aggregators.Arrival(
        push[:cut], push[cut:], weight, worker, committed, vector[:cut], pulled[:cut]
    )
    return _aggregate(rule).receive(held, arrival)


@functools.partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=(3, 4, 5))
def _combine(rule, layout, whole, vector, state, held, epoch, version):
    stats = vector[layout.num_parameters :]
    gradient, stats, held = _aggregate(rule).commit(held, stats)
    vector, state = _moved(
        rule, layout, whole, vector, state, gradient, stats, epoch, version
    )
    return vector, state, held


@jax.jit
def _scaled(push, weight):
    return weight * push.astype(jnp.float32)


@functools.partial(jax.jit, donate_argnums=(0,))
def _add(sums, push, weight):
    return sums + weight * push.astype(jnp.float32)


@jax.jit
def _copy(push):
    return jnp.copy(push)


@jax.jit
def _zeros(vector):
    return jnp.zeros_like(vector)


@functools.partial(jax.jit, static_argnums=(0,))
def _pulled(dtype, vector):
    """A copy of a version as workers receive it."""
    return jnp.copy(vector).astype(DTYPES[dtype])


@functools.partial(jax.jit, static_argnums=(0, 1))
def _evaluate(functions, layout, data, vector):
    return functions.evaluate(data, layout.unflatten(vector.astype(jnp.float32)))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _objective(functions, layout, data, vector):
    return functions.objective(data, layout.unflatten(vector.astype(jnp.float32)))
