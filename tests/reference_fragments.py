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
    overlap: int = 0,
) -> tuple[list[Row], list[float]]:
    """The rows of a run, and the parameters after them.

    `parts` are the coordinates of each fragment; `seconds` the time that a push of each
    is on its way; `kept` says whether a worker's momentum outlives a computation. A
    worker goes on for `overlap` pushes before it takes what it was given.
    """
    n, count = len(durations), len(parts)
    servers = [Server(make_rule(), part, n) for part in parts]
    start = {j: 1.0 for part in parts for j in part}
    own = [dict(start) for _ in range(n)]
    pulled = [dict(start) for _ in range(n)]
    inner = [Momentum(0.1, 0.5) for _ in range(n)]
    sent = [dict(start) for _ in range(n)]  # own values at the push of each coordinate
    begun, ends, link = [0] * n, [0.0] * n, [0.0] * n
    given: list[dict[int, tuple]] = [{} for _ in range(n)]  # by number of the push
    # Of each worker, in order: arrival, number, what is pushed.
    coming: list[list[tuple]] = [[] for _ in range(n)]
    rows: list[Row] = []
    waiting: dict[tuple[int, int], int] = {}  # worker and fragment -> row of the push

    def compute(p):
        """One computation, if what it needs has come; whether it had."""
        c, f = begun[p], begun[p] % count
        needed, begin = c - 1 - overlap, ends[p]
        if needed >= 0:
            if needed not in given[p]:
                return False
            released, values = given[p].pop(needed)
            begin = max(begin, released)
            for j, value in values.items():
                own[p][j] = value + (own[p][j] - sent[p][j])
                pulled[p][j] = value
        if not kept:
            inner[p] = Momentum(0.1, 0.5)
        for number in range(steps):
            index = c * steps + number
            slope = {
                j: CURVATURE[j] * (w - target(p, index, j)) for j, w in own[p].items()
            }
            own[p] = inner[p].moved(own[p], slope)
        for j in parts[f]:
            sent[p][j] = own[p][j]
        push = {j: pulled[p][j] - own[p][j] for j in parts[f]}
        ends[p] = begin + float(durations[p][c % len(durations[p])])
        link[p] = max(link[p], ends[p]) + seconds[f]
        coming[p].append((link[p], c, push))
        begun[p] += 1
        return True

    def go_on(p):
        while compute(p):
            pass

    for p in range(n):
        go_on(p)
    while len(rows) < num_pushes:
        p = min(range(n), key=lambda i: coming[i][0][0] if coming[i] else math.inf)
        if not coming[p]:
            raise reference.Deadlock(len(rows) + 1)
        now, number, push = coming[p].pop(0)
        f = number % count
        server, world = servers[f], servers[f].world
        world.computing.remove(p)
        world.clock[p] += 1
        world.previous[p], world.latest[p] = world.latest[p], now
        decision = server.rule.push(world, p, now)
        waiting[p, f] = len(rows)
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
            row = waiting.pop((q, f))
            rows[row] = rows[row]._replace(wait=now - rows[row].time)
            mine = [i for i, each in enumerate(rows) if each.worker == q]
            given[q][mine.index(row)] = now, dict(server.versions[-1])
            go_on(q)
    final: dict[int, float] = {}
    for server in servers:
        final.update(server.versions[-1])
    return rows, [final[j] for j in sorted(final)]
