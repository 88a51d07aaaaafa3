"""The rules and the event loop again, slowly, in plain Python: the tests' oracle.

Nothing here uses the package, JAX or NumPy. Workers are lists, sets and loops, written
from the definitions of the rules and not from the code under test.
"""

import math
from typing import NamedTuple


class Row(NamedTuple):
    time: float
    worker: int
    clock: int
    pulled: int
    version: int
    weight: float
    committed: bool
    wait: float
    duration: float
    restarts: int


class Deadlock(Exception):
    """Every worker waits; holds the number of the push that cannot come."""


class World:
    """What a rule may look at."""

    def __init__(self, num_workers):
        self.n = num_workers
        self.clock = [0] * num_workers
        self.pulled = [0] * num_workers
        self.latest = [0.0] * num_workers
        self.previous = [0.0] * num_workers
        self.waiting = set()
        self.alive = set(range(num_workers))
        self.version = 0
        self.pending = 0
        self.loss = math.nan

    def gap(self, worker):
        return self.clock[worker] - min(self.clock[i] for i in self.alive)

    def computing(self, pusher=None):
        return {i for i in self.alive if i not in self.waiting and i != pusher}

    def staleness(self, worker):
        return self.version - self.pulled[worker]


NONE = frozenset()


class Bsp:
    def push(self, world, p, now):
        arrived = (world.waiting | {p}) & world.alive
        everybody = arrived == world.alive
        return 1.0, everybody, arrived if everybody else NONE, NONE

    def leave(self, world):
        if world.pending and world.waiting >= world.alive:
            return True, world.waiting & world.alive
        return False, NONE


LocalSgd = Bsp


class Asp:
    def push(self, world, p, now):
        return 1.0, True, {p}, NONE

    def leave(self, world):
        return False, NONE


class Ssp:
    def __init__(self, s):
        self.s = s

    def ready(self, world, candidates):
        return {i for i in candidates if i in world.alive and world.gap(i) <= self.s}

    def push(self, world, p, now):
        return 1.0, True, self.ready(world, world.waiting | {p}), NONE

    def leave(self, world):
        return False, self.ready(world, world.waiting)


class Dssp:
    def __init__(self, s_lower, s_upper, variant="printed"):
        self.lower, self.upper, self.variant = s_lower, s_upper, variant
        self.r = None

    def controller(self, world, p, r_max):
        slowest = min(world.alive, key=lambda i: (world.clock[i], i))
        mine = world.latest[p] - world.previous[p]
        theirs = world.latest[slowest] - world.previous[slowest]
        best, chosen = None, None
        for r in range(r_max + 1):
            for k in range(r_max + 1):
                sim_p = world.latest[p] + r * mine
                sim_slowest = world.latest[slowest] + (k + 1) * theirs
                distance = abs(sim_slowest - sim_p)
                if best is None or distance < best:
                    best, chosen = distance, r
        return chosen

    def push(self, world, p, now):
        self.r = self.r or [0] * world.n
        freed = {i for i in world.waiting & world.alive if world.gap(i) <= self.lower}
        runs = self.printed(world, p) if self.variant == "printed" else None
        if runs is None:
            runs = self.bounded(world, p)
        return 1.0, True, freed | ({p} if runs else set()), NONE

    def printed(self, world, p):
        if self.r[p] > 0:
            self.r[p] -= 1
            return True
        if world.gap(p) <= self.lower:
            return True
        if world.clock[p] == max(world.clock[i] for i in world.alive):
            self.r[p] = self.controller(world, p, self.upper - self.lower)
            return self.r[p] > 0
        return False

    def bounded(self, world, p):
        gap = world.gap(p)
        if gap <= self.lower:
            self.r[p] = 0
            return True
        if self.r[p] > 0 and gap <= self.upper:
            self.r[p] -= 1
            return True
        fastest = world.clock[p] == max(world.clock[i] for i in world.alive)
        if gap <= self.upper and fastest:
            granted = self.controller(world, p, self.upper - gap + 1)
            if granted > 0:
                self.r[p] = granted - 1
                return True
        return False

    def leave(self, world):
        waiting = world.waiting & world.alive
        return False, {i for i in waiting if world.gap(i) <= self.lower}


class KRule:
    """K-sync, K-async and their batch forms."""

    def __init__(self, k, sync, batch):
        self.k, self.sync, self.batch = k, sync, batch

    def accepts(self, world, p):
        return not self.sync or world.staleness(p) == 0

    def push(self, world, p, now):
        if not self.accepts(world, p):
            return 0.0, False, {p}, NONE
        others = world.computing(p)
        full = world.pending + 1 >= self.k
        commit = full or (not self.batch and not others)
        restart = others if self.sync and commit else NONE
        if self.batch:
            return 1.0, commit, {p}, restart
        return 1.0, commit, (world.waiting | {p}) if commit else NONE, restart

    def leave(self, world):
        if self.batch or not world.pending or world.computing():
            return False, NONE
        return True, world.waiting & world.alive


def k_sync(k):
    return KRule(k, sync=True, batch=False)


def k_batch_sync(k):
    return KRule(k, sync=True, batch=True)


def k_async(k):
    return KRule(k, sync=False, batch=False)


def k_batch_async(k):
    return KRule(k, sync=False, batch=True)


class AdaSync(KRule):
    def __init__(self, k0=1, base="k_async", interval=60.0):
        super().__init__(k0, sync=base.endswith("_sync"), batch="batch" in base)
        self.k0, self.interval = k0, interval
        self.first, self.updated = None, 0.0

    def push(self, world, p, now):
        if math.isfinite(world.loss):
            self.first = world.loss if self.first is None else self.first
            if now - self.updated >= self.interval:
                grown = math.ceil(self.k0 * math.sqrt(self.first / world.loss))
                self.k = min(world.n, max(self.k0, grown))
                self.updated = now
        return super().push(world, p, now)


class Abs(KRule):
    def __init__(self, k0, a=None, tau_max=None, growth="rounds"):
        super().__init__(k0, sync=False, batch=False)
        self.k0, self.a, self.given, self.growth = k0, a, tau_max, growth
        self.first, self.tau = None, None

    def tau_of(self, world, k):
        return math.ceil(world.n / k) if self.given is None else self.given

    def accepts(self, world, p):
        if self.tau is None:
            self.tau = self.tau_of(world, self.k)
        return world.staleness(p) <= self.tau

    def push(self, world, p, now):
        if self.first is None and math.isfinite(world.loss):
            self.first = world.loss
        weight, commit, release, _ = super().push(world, p, now)
        restart = self.commit(world, p) if commit else NONE
        return weight, commit, release, restart

    def commit(self, world, p):
        t = world.version + 1
        k = self.k0
        if self.growth == "rounds" and self.a is not None:
            k = self.k0 + math.floor(t / self.a)
        if self.growth == "loss" and self.first is not None and self.a is not None:
            k = math.ceil(self.k0 * (self.first / world.loss) ** self.a)
        self.k = min(world.n, max(self.k, k))
        self.tau = min(self.tau, self.tau_of(world, self.k))
        return {i for i in world.computing(p) if t - world.pulled[i] > self.tau}


class Weighted:
    def __init__(self, rule, weight):
        self.rule, self.weight = rule, weight

    def push(self, world, p, now):
        weight, *rest = self.rule.push(world, p, now)
        return weight * self.weight(world.staleness(p)), *rest

    def leave(self, world):
        return self.rule.leave(world)


def run(rule, durations, num_pushes, loss=None, seconds=0.0, shared=False, leaves=()):
    """The rows of a run.

    `durations[i]` are cycled over the computations that worker i starts. `loss` is a
    function of the push's number (from 0). `seconds` is a push's time on its way;
    `shared` sends one at a time. `leaves` has (after row, worker).
    """
    n = len(durations)
    world = World(n)
    started = [0] * n
    begun = [0.0] * n
    duration = [0.0] * n
    cancelled = [0] * n
    link = 0.0
    rows, owed = [], {}

    def begin(i, now):
        duration[i] = durations[i][started[i] % len(durations[i])]
        started[i] += 1
        begun[i] = now
        world.pulled[i] = world.version

    def release(who, now):
        for i in sorted(who):
            if i in owed:
                row = owed.pop(i)
                rows[row] = rows[row]._replace(wait=now - rows[row].time)
            world.waiting.discard(i)
            begin(i, now)

    def due(i):
        return begun[i] + duration[i] + (0.0 if shared else seconds)

    for i in range(n):
        begin(i, 0.0)
    leaves = list(leaves)
    for number in range(num_pushes):
        candidates = sorted(world.computing())
        if not candidates:
            raise Deadlock(number + 1)
        p = min(candidates, key=lambda i: (due(i), i))
        now = max(due(p), link) + seconds if shared else due(p)
        link = now
        world.clock[p] += 1
        world.previous[p], world.latest[p] = world.latest[p], now
        world.loss = loss(number) if loss else math.nan
        weight, commit, released, restarted = rule.push(world, p, now)
        rows.append(
            Row(
                now, p, world.clock[p], world.pulled[p], world.version, weight,
                commit, math.nan, duration[p], cancelled[p],
            )
        )  # fmt: skip
        owed[p] = number
        cancelled[p] = 0
        world.pending += weight > 0
        if commit:
            world.version += 1
            world.pending = 0
        world.waiting.add(p)
        computing = world.alive - world.waiting
        released = set(released) & world.waiting & world.alive
        restarted = set(restarted) & computing
        release(released, now)
        for i in restarted:
            cancelled[i] += 1
            begin(i, now)
        while leaves and leaves[0][0] == number:
            gone = leaves.pop(0)[1]
            world.alive.discard(gone)
            if not world.alive:
                return rows
            commit, released = rule.leave(world)
            if commit:
                assert not rows[-1].committed
                rows[-1] = rows[-1]._replace(committed=True)
                world.version += 1
                world.pending = 0
            release(set(released) & world.waiting & world.alive, now)
    return rows
