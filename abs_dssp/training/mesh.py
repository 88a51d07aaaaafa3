"""Pushes of a worker that has several devices, each of which holds a part of the model.

The formulas are those of `update`; only where arrays lie differs from `flat`. A pulled
version lies in one flat buffer of the host, as it travelled. Every device is given its
slices of that buffer, XLA divides the computation among the devices (Xu et al., GSPMD,
2021, arXiv 2105.04663), and every device's part of the push goes to its slices of the
buffer that is sent: no device ever has the whole vector.

The devices may be those of several processes, each of which reaches its own alone; what
they do together is said in `cluster.team`.
"""

import functools
import math
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from abs_dssp.tasks import splitting
from abs_dssp.tasks.base import Task, Variables
from abs_dssp.tasks.splitting import AXIS, Split
from abs_dssp.training import flat, update
from abs_dssp.training.config import DTYPES, UpdateConfig


def functions(
    task: Task,
    config: UpdateConfig,
    formats: flat.Wire = flat.Wire(),  # noqa: B008
    split: Split | None = None,
) -> flat.Functions:
    """The compiled functions of a task, for workers with one device or several.

    Args:
      task: model and data.
      config: how pushes become updates.
      formats: number formats of pushes and pulls.
      split: what a worker's devices have; None for one device.

    Example:
      >>> from abs_dssp import optimizers, tasks
      >>> task = tasks.quadratic(num_workers=2, dim=3)
      >>> made = functions(task, UpdateConfig(optimizers.sgd(0.1)))
      >>> made.split is None
      True
    """
    if split is None:
        return flat.Functions(task, config, formats)
    return MeshFunctions(task, config, formats, split)


class MeshFunctions(flat.Functions):
    """Those of `flat.Functions`, with pushes computed on several devices.

    `compute` takes its vector from host memory, and gives a push as `Shards`.
    """

    def __init__(
        self, task: Task, config: UpdateConfig, formats: flat.Wire, split: Split
    ):
        super().__init__(task, config, formats)
        self.split: Split = split

    def placed(self, tree: Any, devices: Sequence[Any] | None = None) -> Any:
        """Arrays of which every device of a worker has a copy: data and key.

        Args:
          tree: pytree of arrays.
          devices: of the worker; the first of this process by default.

        Raises:
          ValueError: if there are too few, or if they add up otherwise than those of
            several processes, where the split is of such.
        """
        count = self.split.devices
        found = jax.local_devices() if devices is None else devices
        if len(found) < count:
            raise ValueError(
                f"devices_per_worker={count}: a push is computed on {count} devices of "
                f"one process, and this one has {len(found)}; a CPU has as many as "
                f"XLA_FLAGS=--xla_force_host_platform_device_count={count} says."
            )
        _require_collectives(self.split, found[0])
        mesh = Mesh(np.array(found[:count]), (AXIS,))
        everywhere = NamedSharding(mesh, PartitionSpec())
        return jax.tree.map(functools.partial(_copied, everywhere), tree)

    def programs(self, key: Any) -> "Programs":
        """What computes a push on the devices that have this key."""
        return _programs(self.task, self.travel, self.split, key.sharding.mesh)


class Piece(NamedTuple):
    """One array of a vector that travels. Static."""

    start: int  # its first value's index
    shape: tuple[int, ...]
    dtype: Any  # of the values; what does not lie in the vector's has its bits there
    sharding: NamedSharding

    def of(self, vector: np.ndarray) -> np.ndarray:
        """Its values, a view of the vector."""
        part = vector[self.start : self.start + math.prod(self.shape)]
        return part.view(self.dtype).reshape(self.shape)


class Shards:
    """A push that lies in parts on several devices. Immutable.

    Attributes:
      leaves: its arrays, in the order in which they lie in the vector.
    """

    def __init__(self, leaves: Sequence[Any], pieces: Sequence[Piece], dtype: Any):
        self.leaves, self._pieces, self.dtype = leaves, pieces, np.dtype(dtype)
        self.shape = (sum(math.prod(piece.shape) for piece in pieces),)

    def block_until_ready(self) -> "Shards":
        """Waits for the devices."""
        jax.block_until_ready(self.leaves)
        return self

    def copy_to(self, vector: np.ndarray) -> None:
        """Copies every device's part to its slices of a vector of the host."""
        for leaf, piece in zip(self.leaves, self._pieces, strict=True):
            values = piece.of(vector)
            for shard in leaf.addressable_shards:
                if shard.replica_id == 0:  # one of those that have the same
                    values[shard.index] = np.asarray(shard.data)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The whole vector, in host memory."""
        del copy
        vector = np.empty(self.shape, self.dtype)
        self.copy_to(vector)
        return vector if dtype is None else vector.astype(dtype)


def whole(push: Any) -> Any:
    """A push in one piece: in host memory if it was in parts, and else as it was."""
    return np.asarray(push) if isinstance(push, Shards) else push


class Programs:
    """`push`, `begin`, `step` and `finish` of `flat.Functions`, on one mesh."""

    def __init__(self, functions: Task, travel: flat.Travel, split: Split, mesh: Mesh):
        self._functions, self._travel, self._mesh = functions, travel, mesh
        config, layout = travel.config, travel.layout
        # Two threads that start programs on the same devices must not do so in
        # different orders: parts of one would wait for parts of the other.
        self._starts = threading.Lock()
        self._number = len(layout.shapes)  # arrays before the local optimiser's
        variables = jax.eval_shape(functions.init, jax.random.key(0))
        names, axes = splitting.names(variables.params), dict(split.axes)
        paths = jax.tree_util.tree_leaves_with_path(variables.params)
        self._axes = {
            path: (leaf.shape, axes[name])
            for (path, leaf), name in zip(paths, names, strict=True)
        }
        state = jax.eval_shape(functools.partial(update.begin, config), variables)
        local = [] if travel.local is None else jax.tree.leaves(state.optimizer)
        shardings = self._shardings((variables, state.optimizer if local else ()))
        push = [np.dtype(DTYPES[travel.dtype])] * self._number
        pull = [np.dtype(DTYPES[travel.pull])] * self._number
        own = [np.dtype(leaf.dtype) for leaf in local]
        shapes = [*layout.shapes, *(leaf.shape for leaf in local)]
        placed = jax.tree.leaves(shardings)
        starts = np.cumsum([0, *(math.prod(shape) for shape in shapes)]).tolist()
        self._pulled, self._pushed = (
            [Piece(*each) for each in zip(starts, shapes, dtypes, placed, strict=False)]
            for dtypes in (pull + own, push + own)
        )
        scalar = NamedSharding(mesh, PartitionSpec())
        between, made = self._shardings(state), (placed, scalar)
        self._push = jax.jit(self._compute_push, out_shardings=made)
        self._begin = jax.jit(self._start, out_shardings=between)
        self._step = jax.jit(
            functools.partial(update.local_step, config, functions),
            out_shardings=between,
            donate_argnums=(2,),
        )
        self._finish = jax.jit(self._end, out_shardings=made)

    def push(self, vector, data, key, context):
        """See `flat.Functions`."""
        placed = self.place(vector)
        with self._starts:
            return self._as_shards(*self._push(placed, data, key, context))

    def begin(self, vector):
        """See `flat.Functions`."""
        placed = self.place(vector)
        with self._starts:
            return self._begin(placed)

    def step(self, data, key, state, context, number):
        """See `flat.Functions`."""
        with self._starts:
            return self._step(data, key, state, context, number)

    def finish(self, state):
        """See `flat.Functions`."""
        with self._starts:
            return self._as_shards(*self._finish(state))

    def place(self, vector: Any) -> list[Any]:
        """The arrays of a pulled version, each device's part on that device.

        Args:
          vector: (D + S,), in host memory; may change when this has returned.
        """
        vector = np.asarray(vector)
        return jax.block_until_ready([_divided(p, vector) for p in self._pulled])

    def _as_shards(self, leaves, loss):
        return Shards(leaves, self._pushed, DTYPES[self._travel.dtype]), loss

    def _parts(self, leaves):
        travel, number = self._travel, self._number
        first = [leaf.astype(np.float32) for leaf in leaves[:number]]
        variables = jax.tree.unflatten(travel.layout.structure, first)
        if travel.local is None:
            return variables, None
        return variables, jax.tree.unflatten(travel.local.structure, leaves[number:])

    def _packed(self, push: update.Push):
        leaves = jax.tree.leaves(Variables(push.gradient, push.stats))
        dtype = DTYPES[self._travel.dtype]
        leaves = [leaf.astype(dtype) for leaf in leaves]
        return [*leaves, *jax.tree.leaves(push.local)], push.loss.astype(np.float32)

    def _compute_push(self, leaves, data, key, context):
        variables, local = self._parts(leaves)
        config = self._travel.config
        given = (data, key, variables, context, local)
        return self._packed(update.compute_push(config, self._functions, *given))

    def _start(self, leaves):
        return update.begin(self._travel.config, *self._parts(leaves))

    def _end(self, state):
        return self._packed(update.finish(self._travel.config, state))

    def _shardings(self, tree: Any) -> Any:
        """Where the arrays of a pytree lie: what is like a parameter, as that does.

        An optimiser's state, gradients and copies have the parameters' own structure
        somewhere within theirs, so the path of such an array ends with a parameter's.
        """

        def one(path, leaf):
            axis = None
            for start in range(len(path) + 1):  # the longest name first
                shape, found = self._axes.get(path[start:], (None, None))
                if shape == leaf.shape:
                    axis = found
                    break
            spec = () if axis is None else (*(None,) * axis, AXIS)
            return NamedSharding(self._mesh, PartitionSpec(*spec))

        return jax.tree_util.tree_map_with_path(one, tree)


_programs = functools.lru_cache(maxsize=64)(Programs)


def _require_collectives(split: Split, device: Any) -> None:
    """Refuses to add up on a CPU in another order than several processes do."""
    if split.processes == 1 or device.platform != "cpu":
        return
    chosen = jax.config.jax_cpu_collectives_implementation  # type: ignore[attr-defined]
    if chosen != "gloo" or not jax.distributed.is_initialized():
        raise ValueError(
            f"processes_per_worker={split.processes}: the processes of a worker add up "
            "as gloo does, and this one does not; call "
            "abs_dssp.cluster.bootstrap.by_itself() before anything uses a device."
        )


def _copied(sharding: NamedSharding, leaf: Any) -> Any:
    """An array of which every device has a copy; each process fills its own."""
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        numbers = _copied(sharding, jax.random.key_data(leaf))
        return jax.random.wrap_key_data(numbers, impl=jax.random.key_impl(leaf))
    values = np.asarray(leaf)
    return jax.make_array_from_callback(
        values.shape, sharding, lambda index: np.array(values[index])
    )


def _divided(piece: Piece, vector: np.ndarray) -> Any:
    """An array whose parts are copied to the devices that hold them."""
    values = piece.of(vector)
    # Copies: a device of the CPU would go on reading a buffer that is used again.
    return jax.make_array_from_callback(
        piece.shape, piece.sharding, lambda index: np.array(values[index])
    )
