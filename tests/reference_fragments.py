"""A run of several fragments again, slowly, in plain Python: the tests' oracle.

Written from docs/fragments.md and not from the code under test; nothing here uses the
package, JAX or NumPy. The loss is sum_j a_j (w_j - b_j)^2 / 2 with targets b that
depend on the worker and on the number of its mini-batch.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import reference

CURVATURE = [1.0, 0.5, 2.0, 0.25, 1.5, 1.0]


def target(worker: int, index: int, j: int) -> float:
    """b_j of a worker's mini-batch."""
    return 0.5 * worker - 0.1 * ((7 * index + 3 * j) % 5) + 0.2 * j


class Row(NamedTuple):
    time: float
    worker: int
    fragment: int
    pulled: int
    version: int
    weight: float
    committed: bool
    wait: float


class Momentum:
    """m = mu m + g; a step along m, or along g + mu m."""

    def __init__(self, step: float, mu: float, nesterov: bool = False):
        self.step, self.mu, self.nesterov = step, mu, nesterov
        self.m: dict[int, float] = {}

    def moved(self, w: dict[int, float], slope: dict[int, float]) -> dict[int, float]:
        new = {}
        for j, value in w.items():
            m = self.m[j] = self.mu * self.m.get(j, 0.0) + slope[j]
            along = slope[j] + self.mu * m if self.nesterov else m
            new[j] = value - self.step * along
        return new


class Server:
    """One fragment: its rule, its versions, and what waits for a commit."""

    def __init__(self, rule, coordinates: Sequence[int], num_workers: int):
        self.rule, self.world = rule, reference.World(num_workers)
        self.world.computing = set(range(num_workers))
        self.versions = [dict.fromkeys(coordinates, 1.0)]
        self.optimizer = Momentum(0.7, 0.9, nesterov=True)
        self.arrived: list[tuple[float, dict[int, float]]] = []


def run(
    make_rule,
    parts: Sequence[Sequence[int]],
    durations: Sequence[Sequence[float]],
    num_pushes: int,
    steps: int,
    seconds: Sequence[float],
    kept: bool,
) -> tuple[list[Row], list[float]]:
    """The rows of a run, and the parameters after them.

    `parts` are the coordinates of each fragment; `seconds` the time that a push of each
    is on its way; `kept` says whether a worker's momentum outlives a computation.
    """
    n, count = len(durations), len(parts)
    servers = [Server(make_rule(), part, n) for part in parts]
    start = {j: 1.0 for part in parts for j in part}
    own = [dict(start) for _ in range(n)]
    pulled = [dict(start) for _ in range(n)]
    inner = [Momentum(0.1, 0.5) for _ in range(n)]
    pushes, arrives = [0] * n, [math.inf] * n
    rows: list[Row] = []
    waiting: dict[int, int] = {}  # worker -> row of its push

    def begin(p, now):
        cycle = durations[p]
        f = pushes[p] % count
        arrives[p] = now + float(cycle[pushes[p] % len(cycle)]) + seconds[f]

    for p in range(n):
        begin(p, 0.0)
    while len(rows) < num_pushes:
        p = min(range(n), key=lambda i: arrives[i])
        now, arrives[p] = arrives[p], math.inf
        if now == math.inf:
            raise reference.Deadlock(len(rows) + 1)
        f = pushes[p] % count
        server, world = servers[f], servers[f].world
        if not kept:
            inner[p] = Momentum(0.1, 0.5)
        for number in range(steps):
            index = pushes[p] * steps + number
            slope = {
                j: CURVATURE[j] * (w - target(p, index, j)) for j, w in own[p].items()
            }
            own[p] = inner[p].moved(own[p], slope)
        pushes[p] += 1
        push = {j: pulled[p][j] - own[p][j] for j in parts[f]}
        world.computing.remove(p)
        world.clock[p] += 1
        world.previous[p], world.latest[p] = world.latest[p], now
        decision = server.rule.push(world, p, now)
        waiting[p] = len(rows)
        committed = bool(decision.commit)
        at = (now, p, f, world.pulled[p], world.version)
        rows.append(Row(*at, decision.weight, committed, math.nan))
        world.waiting.add(p)
        if decision.weight > 0:
            world.pending += 1
            server.arrived.append((decision.weight, push))
        if committed:
            total = sum(weight for weight, _ in server.arrived)
            mean = {
                j: sum(w * each[j] for w, each in server.arrived) / total
                for j in parts[f]
            }
            server.versions.append(server.optimizer.moved(server.versions[-1], mean))
            server.arrived, world.pending = [], 0
            world.version += 1
        for q in sorted(set(decision.release) & world.waiting):
            world.waiting.remove(q)
            world.computing.add(q)
            world.pulled[q] = world.version
            for values in (own[q], pulled[q]):
                values.update(server.versions[-1])
            row = waiting.pop(q)
            rows[row] = rows[row]._replace(wait=now - rows[row].time)
            begin(q, now)
    final: dict[int, float] = {}
    for server in servers:
        final.update(server.versions[-1])
    return rows, [final[j] for j in sorted(final)]
