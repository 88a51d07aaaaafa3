"""The host engine: replays a trace row by row, with a cluster's compiled functions.

It therefore reproduces a cluster's bits. It is also faster where XLA runs a computation
several times slower inside a loop than outside: gradients of convolutions on a CPU.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from abs_dssp.tasks.base import Task, Variables
from abs_dssp.tasks.splitting import Split
from abs_dssp.training import evaluation, flat, mesh
from abs_dssp.training.checkpoints import Checkpoint
from abs_dssp.training.config import UpdateConfig
from abs_dssp.training.parameters import Parameters


class HostEngine:
    """A server's parameters and the versions that are still needed.

    Not thread-safe. `compiled.CompiledEngine` has the same methods.
    """

    loop = "host"

    def __init__(
        self,
        task: Task,
        config: UpdateConfig,
        seed: int,
        num_versions: int,
        formats: flat.Wire = flat.Wire(),  # noqa: B008
        split: Split | None = None,
    ):
        self.task, self.config, self.num_versions = task, config, num_versions
        self.key = jax.random.key(seed)
        self.functions = mesh.functions(task, config, formats, split)
        self._inputs = self.functions.placed((task.data, self.key))
        start = self.functions.initial(self.key)
        self.parameters = Parameters(self.functions, start)
        self.version = 0
        self.kept = {0: self.functions.pulled(start)}  # by version, as they travelled
        self.local: dict[int, Any] = {}  # local optimisers that are kept, by worker
        self.columns: Mapping[str, np.ndarray] = {}
        self.epochs = np.zeros(1, np.float32)  # of the versions
        self._losses: list[Any] = []

    def load(self, columns: Mapping[str, np.ndarray]) -> None:
        """Sets the rows: all of the trace that is known so far."""
        samples = self.task.batch_size * self.config.local_steps
        self.columns = columns
        self.epochs = evaluation.versions_epochs(
            columns["committed"], samples, self.task.samples_per_epoch
        ).astype(np.float32)

    def run(self, start: int, stop: int) -> None:
        """Computes and applies the rows `start` up to, not including, `stop`."""
        names = ("worker", "clock", "pulled", "weight", "committed", "begins")
        rows = [self.columns[name][start:stop].tolist() for name in names]
        for worker, clock, pulled, weight, committed, begins in zip(*rows, strict=True):
            vector, epoch = self.kept[pulled], self.epochs[pulled]
            if begins and self.config.keeps_local_state:
                self.local[worker] = self.functions.start_local(vector)
            push, loss = self.functions.compute(
                self._sent(vector, worker),
                *(*self._inputs, worker, clock, pulled, epoch),
            )
            self._losses.append(loss)
            push = self._received(mesh.whole(push), worker)
            self.parameters.receive(push, weight, worker, committed, vector)
            if committed:
                self._commit()

    def _sent(self, vector: Any, worker: int) -> Any:
        """What a worker pulls: a version, and its local optimiser if that is kept."""
        if not self.config.keeps_local_state:
            return vector
        return jnp.concatenate([vector, self.local[worker]])

    def _received(self, push: Any, worker: int) -> Any:
        """A push without the local optimiser behind it, which is kept."""
        if not self.config.keeps_local_state:
            return push
        size = self.functions.layout.size
        self.local[worker] = push[size:]
        return push[:size]

    def _commit(self) -> None:
        self.parameters.commit(float(self.epochs[self.version]), self.version)
        self.version += 1
        self.kept[self.version] = self.functions.pulled(self.parameters.vector)
        self.kept.pop(self.version - self.num_versions, None)

    def variables(self) -> Variables:
        """A copy of the present version."""
        vector = jnp.copy(self.parameters.vector)
        return self.functions.layout.unflatten(vector)

    def evaluate(self) -> dict[str, float]:
        """The task's measures at the present version."""
        measures = self.functions.evaluate(self.task.data, self.parameters.vector)
        return {name: float(value) for name, value in measures.items()}

    def objective(self) -> float:
        """The training objective at the present version, as it travelled."""
        vector = self.kept[self.version]
        return float(self.functions.objective(self.task.data, vector))

    def losses(self, start: int, stop: int) -> np.ndarray:
        """Training losses of the rows `start` to `stop`."""
        self._losses[start:stop] = jax.device_get(self._losses[start:stop])
        return np.array(self._losses[start:stop], np.float32)

    def reserve(self, num_pushes: int) -> None:
        """Nothing to do: rows are kept in lists."""

    def grow(self, num_versions: int) -> None:
        """Keeps at least so many versions from now on."""
        self.num_versions = max(num_versions, self.num_versions)

    def checkpoint(self) -> Checkpoint:
        """The state. The next `run` donates its arrays."""
        losses = self.losses(0, len(self._losses))
        parameters = self.parameters.leaves()
        note = {
            "version": self.version,
            "num_versions": self.num_versions,
            "kept": list(self.kept),
            "local": list(self.local),
            "parameters": len(parameters),
        }
        vectors = [*self.kept.values(), *self.local.values()]
        return Checkpoint([*parameters, *vectors, losses], note)

    def restore(self, saved: Checkpoint) -> None:
        """Continues from a saved state, with at least the versions asked for."""
        cut = saved.note["parameters"]
        *vectors, losses = saved.leaves[cut:]
        workers = saved.note.get("local", [])
        after = len(vectors) - len(workers)
        vectors, local = vectors[:after], vectors[after:]
        self.local = dict(zip(workers, map(jnp.array, local), strict=True))
        self.parameters.restore(saved.leaves[:cut])
        self.version = saved.note["version"]
        self.kept = {
            version: jnp.array(vector)
            for version, vector in zip(saved.note["kept"], vectors, strict=True)
        }
        self._losses = list(np.asarray(losses))
        self.grow(saved.note["num_versions"])
