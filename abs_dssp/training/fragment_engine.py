"""Replays a trace of fragments row by row.

Every fragment has a server's parameters of its own, and every worker its own variables,
which its local steps move from push to push; what a release brings it is one fragment.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from abs_dssp.history import fragments
from abs_dssp.history.fragments import Take
from abs_dssp.tasks.base import Task, Variables
from abs_dssp.training import evaluation, flat
from abs_dssp.training.checkpoints import Checkpoint
from abs_dssp.training.config import UpdateConfig, Wire
from abs_dssp.training.fragmented import Division
from abs_dssp.training.parameters import Parameters


class FragmentEngine:
    """Servers and workers of a run. Not thread-safe.

    `row_by_row.HostEngine` has the same methods.
    """

    loop = "host"

    def __init__(
        self,
        task: Task,
        config: UpdateConfig,
        seed: int,
        division: Division,
        formats: Wire = Wire(),  # noqa: B008
    ):
        self.task, self.config, self.division = task, config, division
        self.functions = flat.Functions(task, config, formats)
        self.key = jax.random.key(seed)
        self._start = self.functions.initial(self.key)
        self.servers = [
            Parameters(server, division.part(self._start, fragment))
            for fragment, server in enumerate(division.servers)
        ]
        self.versions = [0] * len(self.servers)
        # By fragment and version, as they travelled: what some worker will be given.
        self.kept: dict[tuple[int, int], Any] = {}
        self._last_use: dict[tuple[int, int], int] = {}  # row of the trace
        # By worker: (D + S,), and every fragment as it was pulled.
        self.own: dict[int, Any] = {}
        self.pulled: dict[int, list[Any]] = {}
        # By worker and fragment, as it was pushed: where a worker goes on meanwhile.
        self.sent: dict[tuple[int, int], Any] = {}
        self._overlap = 0
        self.columns: Mapping[str, Any] = {}
        self.epochs: list[np.ndarray] = []  # of every fragment's versions
        self._takes: list[Take] = []  # before every row
        self._losses: list[Any] = []

    @property
    def version(self) -> int:
        """Commits of all fragments so far."""
        return sum(self.versions)

    def load(self, columns: Mapping[str, Any]) -> None:
        """Sets the rows: the whole trace, with its `takes` if there are any.

        A fragment's versions are as many epochs old as if every fragment had been
        pushed as often: other fragments' rows would make their order matter.
        """
        self.columns = columns
        fragment = columns["fragment"]
        count = len(self.servers)
        samples = self.task.batch_size * self.config.local_steps * count
        total = self.task.samples_per_epoch
        self.epochs = [
            evaluation.versions_epochs(
                columns["committed"][fragment == number], samples, total
            ).astype(np.float32)
            for number in range(count)
        ]
        self._overlap = columns.get("overlap", 0)
        takes = columns.get("takes", ())
        self._takes = taken_before(columns, count, takes, self._overlap)
        self._last_use = {
            version: row for row, take in enumerate(self._takes)
            for version in take.versions
        }  # fmt: skip
        if not self._losses:
            vector = self.functions.pulled(self._start)
            for number in range(count):
                if (number, 0) in self._last_use:
                    self.kept[number, 0] = self.division.part(vector, number)

    def run(self, start: int, stop: int) -> None:
        """Computes and applies the rows `start` up to, not including, `stop`."""
        names = ("worker", "clock", "fragment", "pulled", "weight", "committed")
        columns = [self.columns[name][start:stop].tolist() for name in names]
        for row, values in enumerate(zip(*columns, strict=True), start):
            worker, clock, fragment, pulled, weight, committed = values
            self._pull(row, worker)
            own, loss = self.functions.walk(
                self.own[worker],
                *(self.task.data, self.key, worker, clock, pulled),
                self.epochs[fragment][pulled],
            )
            self.own[worker] = own
            self._losses.append(loss)
            base = self.pulled[worker][fragment]
            dtype = self.functions.wire.push
            push = self.division.push(base, own, fragment, dtype)
            if self._overlap:
                self.sent[worker, fragment] = self.division.part(own, fragment)
            server = self.servers[fragment]
            server.receive(push, weight, worker, committed, base)
            if committed:
                self._commit(row, fragment)

    def _pull(self, row: int, worker: int) -> None:
        """What the worker was given before this push of its."""
        take = self._takes[row]
        if take.begins:
            self._begin(worker, take)
            return
        for fragment, part in self._given(row, take):
            self.pulled[worker][fragment] = part
            sent = self.sent.pop((worker, fragment), None)
            if sent is None:
                own = self.division.put(self.own[worker], fragment, part)
            else:
                own = self.division.carried(self.own[worker], fragment, part, sent)
            self.own[worker] = own

    def _given(self, row: int, take: Take) -> list[tuple[int, Any]]:
        """Fragments and what was taken of each; versions without a reader go."""
        parts = [(key[0], self.kept[key]) for key in take.versions]
        for key in take.versions:
            if self._last_use[key] == row:
                del self.kept[key]
        return parts

    def _begin(self, worker: int, take: Take) -> None:
        """A worker pulls everything."""
        parts = dict(self._given(take.row, take))
        self.pulled[worker] = [parts[f] for f in range(len(self.servers))]
        own = self.division.join(self.pulled[worker])
        if self.config.keeps_local_state:
            own = jnp.concatenate([own, self.functions.start_local(own)])
        self.own[worker] = own

    def _commit(self, row: int, fragment: int) -> None:
        server, version = self.servers[fragment], self.versions[fragment]
        server.commit(float(self.epochs[fragment][version]), version)
        self.versions[fragment] = version = version + 1
        if self._last_use.get((fragment, version), -1) > row:
            self.kept[fragment, version] = self.functions.pulled(server.vector)

    def _vector(self) -> Any:
        """The present version of every fragment, (D,)."""
        return self.division.join([server.vector for server in self.servers])

    def variables(self) -> Variables:
        """A copy of the present versions."""
        return self.functions.layout.unflatten(self._vector())

    def evaluate(self) -> dict[str, float]:
        """The task's measures at the present versions."""
        measures = self.functions.evaluate(self.task.data, self._vector())
        return {name: float(value) for name, value in measures.items()}

    def losses(self, start: int, stop: int) -> np.ndarray:
        """Training losses of the rows `start` to `stop`."""
        self._losses[start:stop] = jax.device_get(self._losses[start:stop])
        return np.array(self._losses[start:stop], np.float32)

    def checkpoint(self) -> Checkpoint:
        """The state. The next `run` donates its arrays."""
        losses = self.losses(0, len(self._losses))
        servers = [server.leaves() for server in self.servers]
        workers = sorted(self.own)
        note = {
            "versions": self.versions,
            "servers": [len(leaves) for leaves in servers],
            "kept": [list(key) for key in self.kept],
            "workers": workers,
            "sent": [list(key) for key in self.sent],
        }
        leaves = [leaf for each in servers for leaf in each]
        leaves += self.kept.values()
        for worker in workers:
            leaves += [self.own[worker], *self.pulled[worker]]
        leaves += self.sent.values()
        return Checkpoint([*leaves, losses], note)

    def restore(self, saved: Checkpoint) -> None:
        """Continues from a saved state."""
        note, leaves = saved.note, iter(saved.leaves)
        for server, count in zip(self.servers, note["servers"], strict=True):
            server.restore([next(leaves) for _ in range(count)])
        self.versions = list(note["versions"])
        self.kept = {(f, v): jnp.array(next(leaves)) for f, v in note["kept"]}
        for worker in note["workers"]:
            self.own[worker] = jnp.array(next(leaves))
            self.pulled[worker] = [jnp.array(next(leaves)) for _ in self.servers]
        sent = note.get("sent", [])
        self.sent = {(w, f): jnp.array(next(leaves)) for w, f in sent}
        (losses,) = leaves
        self._losses = list(np.asarray(losses))


def taken_before(
    columns: Mapping[str, np.ndarray],
    count: int,
    takes: Sequence[Take] = (),
    overlap: int = 0,
) -> list[Take]:
    """What each row's worker took before it.

    Args:
      columns: of the trace.
      count: F.
      takes: those that say otherwise than the columns.
      overlap: pushes that a worker makes before it takes what it was given.

    Example:
      >>> columns = {"worker": np.array([0, 0]), "fragment": np.array([0, 1]),
      ...            "taken": np.array([3, -1])}
      >>> [take.versions for take in taken_before(columns, 2)]
      [((0, 0), (1, 0)), ((0, 3),)]
    """
    others = {take.row: take for take in takes}
    everything = tuple((fragment, 0) for fragment in range(count))
    found = []
    first = fragments.rows_before(columns["worker"], 1) < 0
    given = fragments.rows_before(columns["worker"], 1 + overlap)
    for row, before in enumerate(given.tolist()):
        if row in others:
            found.append(others[row])
        elif first[row]:
            found.append(Take(row, True, everything))
        else:
            version = int(columns["fragment"][before]), int(columns["taken"][before])
            found.append(Take(row, False, (version,) if before >= 0 else ()))
    return found
