"""Pushes and commits over one contiguous buffer, each a compiled function of its own.

A cluster's workers and server call these, and so does the replay of a cluster's run:
the same executables on the same numbers give the same bits. Parameters and BatchNorm
statistics lie in one float32 vector of length D, in the order of the pytree's leaves;
a push lies in a vector of the same length, gradients where the parameters are. The
formulas are those of `update` and `aggregators`; this module cuts vectors for them.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from abs_dssp.tasks.base import Task, Variables
from abs_dssp.training import update
from abs_dssp.training.aggregators import Arrival
from abs_dssp.training.config import DTYPES, UpdateConfig, Wire
from abs_dssp.training.config import wire as wire
from abs_dssp.training.elementwise import is_elementwise


class Layout(NamedTuple):
    """Where each leaf of the variables lies; static."""

    structure: Any  # treedef of Variables
    shapes: tuple[tuple[int, ...], ...]
    size: int  # values in all
    num_parameters: int  # values before the statistics

    def unflatten(self, vector: Float[Array, " D"]) -> Variables:
        """The pytree of a vector; the inverse of `flatten`."""
        leaves, start = [], 0
        for shape in self.shapes:
            stop = start + math.prod(shape)
            leaves.append(vector[start:stop].reshape(shape))
            start = stop
        return jax.tree.unflatten(self.structure, leaves)


def flatten(variables: Variables) -> Float[Array, " D"]:
    """The vector of a pytree, leaf after leaf; float32 if the leaves are.

    Example:
      >>> flatten(Variables({"a": jnp.ones((2, 2))}, {"mean": jnp.zeros(1)})).tolist()
      [1.0, 1.0, 1.0, 1.0, 0.0]
    """
    leaves = [jnp.ravel(leaf) for leaf in jax.tree.leaves(variables)]
    return leaves[0] if len(leaves) == 1 else jnp.concatenate(leaves)


def layout(task: Task) -> Layout:
    """The layout of a task's variables, parameters first.

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
    shapes = tuple(leaf.shape for leaf in leaves)
    return Layout(structure, shapes, sum(sizes), sum(sizes[:count]))


class Plan(NamedTuple):
    """What a commit depends on besides its arrays. Static."""

    config: UpdateConfig
    layout: Layout
    elementwise: bool  # whether the optimiser may run over the vector as it is
    num_workers: int


class Functions:
    """The compiled functions of a task. Stateless; shared by threads.

    Every vector has length D, `layout.size`. A donated argument is used up.

    Attributes:
      initial: `(key) -> vector`, version 0.
      push: `(vector, data, key, context) -> (push, loss)`, for one local step.
      begin, step, finish: the same for several, as in `update`.
      pulled: `(vector) -> vector`, a copy of a version in the format of pulls.
      copy: `(vector) -> vector`.
      start_optimizer: `(vector) -> state`.
      init: `(vector) -> accumulator`, see `aggregators.Aggregator`.
      accumulate: `(accumulator, arrival) -> accumulator`, donating the first. The
        arrival's `gradient`, `present` and `pulled` are whole vectors, its `stats` ().
      commit: `(vector, state, accumulator, epoch, version)`, donating the first three,
        gives the next three.
      commit_single: `(vector, state, push, weight, epoch, version)`, donating the first
        two, gives the next two: the commit of a single push.
      evaluate, objective: `(data, vector)`, as in the task.
    """

    def __init__(self, task: Task, config: UpdateConfig, formats: Wire = Wire()):  # noqa: B008
        functions = task._replace(data=None, constants=None)  # hashable
        self.task, self.config, self.wire = functions, config, formats
        self.layout = layout(task)
        whole = is_elementwise(config.optimizer)
        plan = Plan(config, self.layout, whole, task.num_workers)
        self.initial = functools.partial(_initial, functions)
        self.push = functools.partial(_push, functions, self.layout, formats.push)
        self.begin = functools.partial(_begin, config, self.layout)
        self.step = functools.partial(_step, functions, config)
        self.finish = functools.partial(_finish, formats.push)
        self.pulled = functools.partial(_pulled, formats.pull)
        self.copy = _copy
        self.start_optimizer = functools.partial(_start_optimizer, plan)
        self.init = functools.partial(_init, plan)
        self.accumulate = functools.partial(_accumulate, plan)
        self.commit = functools.partial(_commit, plan)
        self.commit_single = functools.partial(_commit_single, plan)
        self.evaluate = functools.partial(_evaluate, functions, self.layout)
        self.objective = functools.partial(_objective, functions, self.layout)

    def compute(self, vector, data, key, worker, clock, version, epoch, pause=None):
        """One push from a pulled version.

        Args:
          vector: the pulled version as it travelled, (D,) in the format of pulls.
          data: the task's arrays, on the device that computes.
          key: of the run's seed.
          worker: 0..N-1.
          clock: 1-based, this push included.
          version: the pulled version's number.
          epoch: samples processed when it was made, in epochs.
          pause: called after every local step but the last; true cancels.

        Returns:
          Push, (D,) in the format of pushes, and mean loss, float32, both on the
          device; None if cancelled.
        """
        integers = (np.int32(worker), np.int32(clock), np.int32(version))
        context: Any = update.PushContext._make((*integers, np.float32(epoch)))
        steps = self.config.local_steps
        if steps == 1:
            return self.push(vector, data, key, context)
        state = self.begin(vector)
        for number in range(steps):
            state = self.step(data, key, state, context, np.int32(number))
            if pause is not None and number + 1 < steps:
                jax.block_until_ready(state.losses)
                if pause():
                    return None
        return self.finish(state)


class Parameters:
    """A server's parameters: receives pushes, makes versions. Not thread-safe.

    `vector` and `optimizer` are donated at every commit, so a version that is needed
    later must be copied. All arrays lie on the process's first device.

    Attributes:
      vector: the present version, (D,) float32.
      optimizer: state of the server's optimiser.
      accumulator: the aggregator's; None until a push goes into it.
    """

    def __init__(self, functions: Functions, vector: Any):
        self.functions = functions
        # On one device from the start: jit compiles anew for arrays that are not.
        self._device = jax.local_devices()[0]
        self.vector = self._copied(vector)
        start = functions.start_optimizer(self.vector)
        self.optimizer = jax.device_put(start, self._device)
        self.accumulator: Any = None
        self._single = functions.config.aggregator.single is not None
        self._count = 0  # pushes since the last commit that were not discarded
        self._first: Arrival | None = None  # the only such push, not yet accumulated

    def _copied(self, array: Any) -> Any:
        """A copy on the device: the caller keeps what it gave, and may change it."""
        return jnp.copy(jax.device_put(array, self._device))

    def receive(self, push, weight: float, worker: int, committed: bool, pulled):
        """Adds a push to the next commit; one of weight 0 is discarded.

        `push` must not change until `commit` or `keep` was called.

        Args:
          push: (D,), in the format of pushes.
          weight: the policy's.
          worker: who pushed, 0..N-1.
          committed: whether it causes a commit.
          pulled: the version it was computed from as it travelled, (D,).
        """
        if not weight > 0:
            return
        numbers = (np.float32(weight), np.int32(worker), np.bool_(committed))
        arrival = Arrival._make((push, (), *numbers, self.vector, pulled))
        self._count += 1
        if self._count == 1 and self._single:
            self._first = arrival
            return
        for each in (self._first, arrival):
            if each is not None:
                held = self._started_accumulator()
                self.accumulator = self.functions.accumulate(held, each)
        self._first = None

    def _started_accumulator(self) -> Any:
        if self.accumulator is None:
            start = self.functions.init(self.vector)
            self.accumulator = jax.device_put(start, self._device)
        return self.accumulator

    def keep(self) -> None:
        """Makes sure that no pushed buffer is read after this."""
        if self._first is not None:
            push = self.functions.copy(self._first.gradient)
            self._first = self._first._replace(gradient=push)
            jax.block_until_ready(push)
        else:
            jax.block_until_ready(self.accumulator)

    def commit(self, epoch: float, version: int) -> None:
        """Makes the next version.

        Args:
          epoch: samples processed when the present version was made, in epochs.
          version: the present version's number.
        """
        functions, first = self.functions, self._first
        numbers = (np.float32(epoch), np.int32(version))
        if first is not None:
            self.vector, self.optimizer = functions.commit_single(
                self.vector, self.optimizer, first.gradient, first.weight, *numbers
            )
        else:
            self.vector, self.optimizer, self.accumulator = functions.commit(
                self.vector, self.optimizer, self._started_accumulator(), *numbers
            )
        self._count, self._first = 0, None

    def leaves(self) -> list[Any]:
        """The state as arrays, for `restore`; not copied, and without empty ones.

        The first is `vector`, the second the number of pushes since the last commit.
        """
        first = self._first
        push = [] if first is None else [first.gradient, first.weight]
        rest = jax.tree.leaves((self._started_accumulator(), self.optimizer))
        filled = [leaf for leaf in rest if leaf.size]
        return [self.vector, np.int32(self._count), *push, *filled]

    def restore(self, leaves: Sequence[Any]) -> None:
        """Continues from a state that `leaves` returned; the arrays are copied."""
        vector, count, *rest = leaves
        self.vector = self._copied(vector)
        self._count, self._first = int(count), None
        if self._count == 1 and self._single:
            push, weight, *rest = rest
            push = self._copied(push)
            numbers = (np.float32(np.asarray(weight)), np.int32(0), np.bool_(0))
            self._first = Arrival._make((push, (), *numbers, self.vector, push))
        state = (self._started_accumulator(), self.optimizer)
        old, structure = jax.tree.flatten(state)
        filled = [leaf for leaf in old if leaf.size]
        new = iter([self._copied(leaf) for _, leaf in zip(filled, rest, strict=True)])
        self.accumulator, self.optimizer = jax.tree.unflatten(
            structure, [next(new) if leaf.size else leaf for leaf in old]
        )


@functools.partial(jax.jit, static_argnums=(0,))
def _initial(functions, key):
    return flatten(functions.init(key))


def _variables(layout: Layout, vector) -> Variables:
    return layout.unflatten(vector.astype(jnp.float32))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _push(functions, layout, dtype, vector, data, key, context):
    variables = _variables(layout, vector)
    push = update.single_step(functions, data, key, variables, context)
    return _packed(push, dtype)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _begin(config, layout, vector):
    return update.begin(config, _variables(layout, vector))


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=(4,))
def _step(functions, config, data, key, state, context, number):
    return update.local_step(config, functions, data, key, state, context, number)


@functools.partial(jax.jit, static_argnums=(0,))
def _finish(dtype, state):
    return _packed(update.finish(state), dtype)


def _packed(push: update.Push, dtype):
    vector = flatten(Variables(push.gradient, push.stats))
    return vector.astype(DTYPES[dtype]), push.loss.astype(jnp.float32)


@functools.partial(jax.jit, static_argnums=(0,))
def _pulled(dtype, vector):
    return jnp.copy(vector).astype(DTYPES[dtype])


_copy = jax.jit(jnp.copy)


@functools.partial(jax.jit, static_argnums=(0,))
def _start_optimizer(plan, vector):
    layout, whole = plan.layout, plan.elementwise
    params = vector[: layout.num_parameters] if whole else layout.unflatten(vector)[0]
    return plan.config.optimizer.init(params)


@functools.partial(jax.jit, static_argnums=(0,))
def _init(plan, vector):
    cut = plan.layout.num_parameters
    return plan.config.aggregator.init(vector[:cut], vector[cut:], plan.num_workers)


@functools.partial(jax.jit, static_argnums=(0,), donate_argnums=(1,))
def _accumulate(plan, accumulator, arrival):
    cut = plan.layout.num_parameters
    push, pulled = (v.astype(jnp.float32) for v in (arrival.gradient, arrival.pulled))
    versions = {"present": arrival.present[:cut], "pulled": pulled[:cut]}
    arrival = arrival._replace(gradient=push[:cut], stats=push[cut:], **versions)
    return plan.config.aggregator.accumulate(accumulator, arrival)


@functools.partial(jax.jit, static_argnums=(0,), donate_argnums=(1, 2, 3))
def _commit(plan, vector, state, accumulator, epoch, version):
    stats = vector[plan.layout.num_parameters :]
    gradient, stats, accumulator = plan.config.aggregator.finalize(accumulator, stats)
    vector, state = _moved(plan, vector, state, gradient, stats, epoch, version)
    return vector, state, accumulator


@functools.partial(jax.jit, static_argnums=(0,), donate_argnums=(1, 2))
def _commit_single(plan, vector, state, push, weight, epoch, version):
    cut = plan.layout.num_parameters
    push = push.astype(jnp.float32)
    gradient = plan.config.aggregator.single(push[:cut], weight)
    return _moved(plan, vector, state, gradient, push[cut:], epoch, version)


def _moved(plan, vector, state, gradient, stats, epoch, version):
    """`update.apply` on vectors; `gradient` and `stats` are the parts of one."""
    config, layout = plan.config, plan.layout
    if plan.elementwise:
        cut = layout.num_parameters
        present = Variables(vector[:cut], vector[cut:])
    else:
        present = layout.unflatten(vector)
        gradient, stats = layout.unflatten(jnp.concatenate([gradient, stats]))
    new, state = update.apply(config, present, state, gradient, stats, epoch, version)
    return flatten(new), state


@functools.partial(jax.jit, static_argnums=(0, 1))
def _evaluate(functions, layout, data, vector):
    return functions.evaluate(data, _variables(layout, vector))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _objective(functions, layout, data, vector):
    return functions.objective(data, _variables(layout, vector))
