"""The server's arithmetic row by row, with a cluster's own compiled functions.

So it gives a cluster's bits. It is also faster where XLA runs a computation several
times slower inside a loop than outside: gradients of convolutions on a CPU.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from abs_dssp.tasks.base import Task, Variables
from abs_dssp.training import evaluation, flat, update


class HostEngine:
    """The same, row by row, with the functions that a cluster's processes call.

    Not thread-safe; the caller's thread uses it.
    """

    on_host = True
    width = 1

    def __init__(
        self,
        task: Task,
        rule: update.Rule,
        seed: int,
        slots: int,
        formats: flat.Wire = flat.Wire(),  # noqa: B008
    ):
        self.task, self.rule, self.slots = task, rule, slots
        self.key = jax.random.key(seed)
        self.functions = flat.Functions(task, rule, formats)
        self.parameters = flat.parameters(
            self.functions, self.functions.initial(self.key)
        )
        self.version = 0
        self.capacity = 0
        self.kept = {0: self.functions.pulled(self.parameters.vector)}
        self.columns: Mapping[str, np.ndarray] = {}
        self.epochs = np.zeros(1, np.float32)
        self._losses: list[Any] = []

    def load(self, columns: Mapping[str, np.ndarray]) -> None:
        """See `Engine.load`."""
        samples = self.task.batch_size * self.rule.local_steps
        self.columns = columns
        self.epochs = evaluation.versions_epochs(
            columns["committed"], samples, self.task.samples_per_epoch
        ).astype(np.float32)

    def run(self, start: int, stop: int) -> None:
        """See `Engine.run`."""
        names = ("worker", "clock", "pulled", "weight", "committed")
        rows = zip(
            *(self.columns[name][start:stop].tolist() for name in names), strict=True
        )
        for worker, clock, pulled, weight, committed in rows:
            push, loss = self.functions.compute(
                self.kept[pulled], self.task.data, self.key,
                worker, clock, pulled, self.epochs[pulled],
            )  # fmt: skip
            self._losses.append(loss)
            self._receive(push, worker, pulled, weight, committed)

    def _receive(self, push, worker, pulled, weight: float, committed: bool) -> None:
        """What the server does with one push."""
        self.parameters.receive(push, weight, worker, committed, self.kept[pulled])
        if committed:
            self.parameters.commit(float(self.epochs[self.version]), self.version)
            self.version += 1
            self.kept[self.version] = self.functions.pulled(self.parameters.vector)
            self.kept.pop(self.version - self.slots, None)

    def variables(self, version: int) -> Variables:
        """See `Engine.variables`; versions before the present one as they travelled."""
        vector = self.parameters.vector
        if version != self.version:
            vector = self.kept[version].astype(jnp.float32)
        return jax.tree.map(jnp.copy, self.functions.layout.unflatten(vector))

    def evaluate(self, version: int) -> dict[str, float]:
        """See `Engine.evaluate`."""
        assert version == self.version
        measures = self.functions.evaluate(self.task.data, self.parameters.vector)
        return {name: float(value) for name, value in measures.items()}

    def losses(self, start: int, stop: int) -> np.ndarray:
        """See `Engine.losses`."""
        self._losses[start:stop] = jax.device_get(self._losses[start:stop])
        return np.array(self._losses[start:stop], np.float32)

    def objective(self) -> float:
        """See `Engine.objective`."""
        return float(self.functions.objective(self.task.data, self.kept[0]))

    def reserve(self, num_pushes: int) -> None:
        """Nothing to do: rows are kept in lists."""

    def grow(self, slots: int, version: int) -> None:
        """See `Engine.grow`."""
        self.slots = max(slots, self.slots)

    @property
    def server(self) -> Any:
        """The state, as a checkpoint holds it."""
        done = np.array(jax.device_get(self._losses), np.float32)
        missing = jnp.zeros_like(self.kept[self.version])
        numbers = range(self.version - self.slots + 1, self.version + 1)
        return [
            np.int32(self.version),
            done,
            *self.parameters.leaves(),
            *(self.kept.get(number, missing) for number in numbers),
        ]

    @server.setter
    def server(self, leaves: Any) -> None:
        version, done, *rest = leaves
        kept, rest = rest[-self.slots :], rest[: -self.slots]
        self.version = int(version)
        self._losses = list(np.asarray(done))
        self.parameters.restore(rest)
        first = self.version - self.slots + 1
        self.kept = {
            first + i: jnp.array(vector)
            for i, vector in enumerate(kept)
            if first + i >= 0
        }
