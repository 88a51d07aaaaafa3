"""The rules and the event loop again, slowly, in plain Python: the tests' oracle.

Written from the definitions and not from the code under test; nothing here uses the
package, JAX or NumPy. A rule object keeps the state of one run. A loss estimate is
positive, or NaN where there is none.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple


class Row(NamedTuple):
    """One push."""

    time: float  # of arrival
    worker: int
    clock: int  # 1-based, this push included
    pulled: int
    version: int  # on arrival
    weight: float
    committed: bool
    wait: float  # seconds until released; NaN if that is not within the run
    duration: float  # of the computation that was pushed
    restarts: int  # computations cancelled since the worker's push before


class Deadlock(Exception):
    """Nobody computes; holds the number (from 1) of the push that cannot come."""


class Decision(NamedTuple):
    weight: float = 1.0
    commit: bool = False
    release: Iterable[int] = ()
    restart: Iterable[int] = ()


class World:
    """What a rule may look at. While a push is decided, its worker is in no set but
    `alive`: `alive` is `computing`, `waiting` and the pusher.
    """

    def __init__(self, num_workers: int):
        self.num_workers = num_workers
        self.clock = [0] * num_workers
        self.pulled = [0] * num_workers
        self.latest = [0.0] * num_workers
        self.previous = [0.0] * num_workers
        self.alive = set(range(num_workers))
        self.computing = set(range(num_workers))
        self.waiting: set[int] = set()
        self.version = 0
        self.pending = 0
        self.loss = math.nan

    def staleness(self, worker):
        return self.version - self.pulled[worker]

    def gap(self, worker):
        return self.clock[worker] - min(self.clock[i] for i in self.alive)

    def within(self, workers, bound):
        return {i for i in workers if self.gap(i) <= bound}


# The rules: `push` decides on a push, `leave` on what a departure sets free.


class Bsp:
    def push(self, world, p, now):
        if world.computing:
            return Decision()
        return Decision(commit=True, release=world.waiting | {p})

    def leave(self, world):
        if world.computing or world.pending == 0:
            return Decision()
        return Decision(commit=True, release=set(world.waiting))


LocalSgd = Bsp


class Asp:
    def push(self, world, p, now):
        return Decision(commit=True, release={p})

    def leave(self, world):
        return Decision()


class Ssp:
    def __init__(self, s):
        self.s = s

    def push(self, world, p, now):
        released = world.within(world.waiting | {p}, self.s)
        return Decision(commit=True, release=released)

    def leave(self, world):
        return Decision(release=world.within(world.waiting, self.s))


class Dssp:
    def __init__(self, s_lower=3, s_upper=15, variant="printed"):
        self.s_lower, self.s_upper = s_lower, s_upper
        self.runs = {"printed": self.printed, "bounded": self.bounded}[variant]
        self.r: dict[int, int] = {}  # extra iterations granted and not yet used

    def push(self, world, p, now):
        released = world.within(world.waiting, self.s_lower)
        if self.runs(world, p):
            released = released | {p}
        return Decision(commit=True, release=released)

    def leave(self, world):
        return Decision(release=world.within(world.waiting, self.s_lower))

    def printed(self, world, p):
        if self.r.get(p, 0) > 0:
            self.r[p] -= 1
            return True
        if world.gap(p) <= self.s_lower:
            return True
        if not self.is_fastest(world, p):
            return False
        self.r[p] = self.controller(world, p, self.s_upper - self.s_lower)
        return self.r[p] > 0

    def bounded(self, world, p):
        gap = world.gap(p)
        if gap <= self.s_lower:
            self.r[p] = 0
            return True
        if gap > self.s_upper:
            return False
        if self.r.get(p, 0) > 0:
            self.r[p] -= 1
            return True
        if not self.is_fastest(world, p):
            return False
        granted = self.controller(world, p, self.s_upper - gap + 1)
        if granted == 0:
            return False
        self.r[p] = granted - 1  # the release that follows is the first of them
        return True

    def is_fastest(self, world, p):
        return world.clock[p] == max(world.clock[i] for i in world.alive)

    def controller(self, world, p, r_max):
        least = min(world.clock[i] for i in world.alive)
        slowest = min(i for i in world.alive if world.clock[i] == least)
        interval_p = world.latest[p] - world.previous[p]
        interval_slowest = world.latest[slowest] - world.previous[slowest]
        pairs = []
        for r in range(r_max + 1):
            sim_p = world.latest[p] + r * interval_p
            for k in range(r_max + 1):
                sim_slowest = world.latest[slowest] + (k + 1) * interval_slowest
                pairs.append((abs(sim_slowest - sim_p), r))
        return min(pairs)[1]  # the least distance, then the smallest r


class KRule:
    """`sync`: accept staleness 0 only and cancel the rest at a commit.
    `batch`: a pusher does not wait for the commit.
    """

    def __init__(self, k, sync, batch):
        self.k, self.sync, self.batch = k, sync, batch

    def push(self, world, p, now):
        if self.sync and world.staleness(p) > 0:
            return Decision(weight=0.0, release={p})
        commit = world.pending + 1 >= self.k
        if not self.batch and not world.computing:
            commit = True  # nobody is left to bring the k-th
        if self.batch:
            release = {p}
        else:
            release = world.waiting | {p} if commit else set()
        restart = set(world.computing) if self.sync and commit else set()
        return Decision(1.0, commit, release, restart)

    def leave(self, world):
        if self.batch or world.computing or world.pending == 0:
            return Decision()
        return Decision(commit=True, release=set(world.waiting))


def k_sync(k):
    return KRule(k, sync=True, batch=False)


def k_batch_sync(k):
    return KRule(k, sync=True, batch=True)


def k_async(k):
    return KRule(k, sync=False, batch=False)


def k_batch_async(k):
    return KRule(k, sync=False, batch=True)


BASES: dict[str, Callable[[int], KRule]] = {
    "k_sync": k_sync,
    "k_batch_sync": k_batch_sync,
    "k_async": k_async,
    "k_batch_async": k_batch_async,
}


class AdaSync:
    """F(w_0) is the first finite estimate; k is looked at again at the first push that
    finds a finite estimate `interval` seconds or more after the last time (time 0).
    """

    def __init__(self, k0=1, base="k_async", interval=60.0):
        self.k0, self.interval = k0, interval
        self.rule = BASES[base](k0)
        self.first = math.nan
        self.updated = 0.0

    def push(self, world, p, now):
        if math.isnan(self.first):
            self.first = world.loss
        if not math.isnan(world.loss) and now - self.updated >= self.interval:
            k = math.ceil(self.k0 * math.sqrt(self.first / world.loss))
            self.rule.k = min(world.num_workers, max(self.k0, k))
            self.updated = now
        return self.rule.push(world, p, now)

    def leave(self, world):
        return self.rule.leave(world)


class Abs:
    """K^t and tau_max^t change at the commit that makes version t, from the estimate
    that it finds; F(w_0) is the first finite one. Without an estimate K^t stays.
    """

    def __init__(self, k0=1, a=None, tau_max=None, growth="rounds"):
        self.k0, self.a, self.tau_max, self.growth = k0, a, tau_max, growth
        self.k = None
        self.first = math.nan

    def push(self, world, p, now):
        self.look(world)
        if world.staleness(p) > self.bound(world):
            return Decision(weight=0.0, release={p})
        if world.pending + 1 < self.k and world.computing:
            return Decision()
        return self.commit(world, world.waiting | {p})

    def leave(self, world):
        if world.computing or world.pending == 0:
            return Decision()
        self.look(world)
        return self.commit(world, set(world.waiting))

    def look(self, world):
        if self.k is None:
            self.k = min(world.num_workers, self.k0)
        if math.isnan(self.first):
            self.first = world.loss

    def bound(self, world):
        if self.tau_max is not None:
            return self.tau_max
        return math.ceil(world.num_workers / self.k)

    def commit(self, world, released):
        t = world.version + 1
        wanted = self.k0
        if self.a is not None and self.growth == "rounds":
            wanted = self.k0 + math.floor(t / self.a)
        if self.a is not None and self.growth == "loss":
            if not math.isnan(world.loss):
                wanted = math.ceil(self.k0 * (self.first / world.loss) ** self.a)
        self.k = min(world.num_workers, max(self.k, wanted))
        bound = self.bound(world)
        stale = {i for i in world.computing if t - world.pulled[i] > bound}
        return Decision(commit=True, release=released, restart=stale)


class Rennala:
    def __init__(self, batch_size):
        self.batch_size = batch_size

    def push(self, world, p, now):
        if world.staleness(p) > 0:
            return Decision(weight=0.0, release={p})
        commit = world.pending + 1 >= self.batch_size
        return Decision(commit=commit, release={p})

    def leave(self, world):
        return Decision()


class Ringmaster:
    def __init__(self, threshold, stop=False):
        self.threshold, self.stop = threshold, stop

    def push(self, world, p, now):
        if world.staleness(p) >= self.threshold:
            return Decision(weight=0.0, release={p})
        version = world.version + 1
        doomed = {
            i
            for i in world.computing
            if self.stop and version - world.pulled[i] >= self.threshold
        }
        return Decision(commit=True, release={p}, restart=doomed)

    def leave(self, world):
        return Decision()


def m_sync(m):
    return k_sync(m)


class Malenia:
    def __init__(self, batch_size):
        self.batch_size = batch_size
        self.count: dict[int, int] = {}

    def complete(self, world):
        counts = [self.count.get(i, 0) for i in world.alive]
        if 0 in counts:
            return False
        n = len(counts)
        return n / sum(1 / c for c in counts) >= self.batch_size / n * (1 - 1e-6)

    def push(self, world, p, now):
        if world.staleness(p) > 0:
            return Decision(weight=0.0, release={p})
        self.count[p] = self.count.get(p, 0) + 1
        commit = self.complete(world)
        if commit:
            self.count = {}
        return Decision(commit=commit, release={p})

    def leave(self, world):
        commit = world.pending > 0 and self.complete(world)
        if commit:
            self.count = {}
        return Decision(commit=commit)


class Ringleader:
    def __init__(self):
        self.filled: set[int] = set()
        self.moved: set[int] = set()
        self.coming: set[int] = set()

    def push(self, world, p, now):
        if self.moved & world.alive and p in self.moved:
            self.coming.add(p)
            return Decision(release={p})
        self.filled.add(p)
        commit = bool(self.moved & world.alive) or world.alive <= self.filled
        if commit:
            self.moved.add(p)
            self.turn(world)
        return Decision(commit=commit, release={p})

    def turn(self, world):
        if self.moved and world.alive <= self.moved:
            self.filled, self.moved, self.coming = self.coming, set(), set()

    def leave(self, world):
        self.turn(world)
        return Decision()


class MindFlayer:
    """A computation begins when its worker is released; the first ones at time 0."""

    def __init__(self, trials, seconds):
        self.trials, self.seconds = trials, seconds
        self.made: dict[int, int] = {}
        self.started: dict[int, float] = {}
        self.now = 0.0

    def push(self, world, p, now):
        self.now = now
        took = now - max(self.started.get(p, 0.0), world.previous[p])
        success = took < self.seconds[p] and world.staleness(p) == 0
        self.made[p] = self.made.get(p, 0) + 1
        pending = world.pending + success
        return self.settle(world, world.waiting | {p}, pending, float(success))

    def settle(self, world, arrived, pending, weight=1.0):
        done = {i for i in world.alive if self.made.get(i, 0) >= self.trials[i]}
        over = done == world.alive
        released = set(arrived) if over else arrived - done
        if over:
            self.made = {}
        for worker in released:
            self.started[worker] = self.now
        return Decision(weight, over and pending > 0, released)

    def leave(self, world):
        return self.settle(world, set(world.waiting), world.pending)


class Rescaled:
    def push(self, world, p, now):
        known = [i for i in world.alive if world.clock[i] and world.latest[i] > 0]
        rates = [world.clock[i] / world.latest[i] for i in known]
        weight = 1.0
        if p in known:
            weight = world.latest[p] / world.clock[p] * sum(rates) / len(rates)
        return Decision(weight, True, {p})

    def leave(self, world):
        return Decision()


def fedbuff(k=10, a=0.5):
    return Weighted(k_batch_async(k), lambda s: (1 + s) ** -a / k)


def fedasync(alpha=0.6, a=0.5):
    return Weighted(Asp(), lambda s: alpha * (1 + s) ** -a)


def koloskova(concurrency, limit):
    return lambda s: 1.0 if s <= concurrency else min(1.0, limit / s)


def mishchenko(concurrency):
    return lambda s: concurrency / max(concurrency, s)


class Zipline:
    """Every barrier that some worker's predicted push could be is tried."""

    def __init__(self, lookahead=8):
        self.lookahead = lookahead
        self.left: dict[int, int] | None = None
        self.started: dict[int, float] = {}
        self.took: dict[int, float] = {}

    def push(self, world, p, now):
        if self.left is None:
            self.left = {i: 1 for i in range(world.num_workers)}
        self.took[p] = now - max(self.started.get(p, 0.0), world.previous[p])
        self.left[p] = max(0, self.left[p] - 1)
        self.now = now
        return self.settle(world, world.waiting | {p})

    def settle(self, world, arrived):
        if self.left is None:
            return Decision(commit=True)
        if all(self.left[i] == 0 for i in world.alive):
            self.left |= {i: 1 for i in range(world.num_workers)}
            self.left |= self.plan({i: self.took.get(i, 0.0) for i in world.alive})
        released = {i for i in arrived if self.left[i] > 0}
        for worker in released:
            self.started[worker] = self.now
        return Decision(commit=True, release=released)

    def plan(self, took):
        took = {i: t for i, t in took.items() if t > 0}
        ahead = range(1, self.lookahead + 1)
        best = None
        for barrier in sorted({t * r for t in took.values() for r in ahead}):
            count = {i: sum(t * r <= barrier for r in ahead) for i, t in took.items()}
            if min(count.values()) < 1:
                continue
            wait = sum(barrier - count[i] * t for i, t in took.items())
            if best is None or wait < best[0]:
                best = (wait, count)
        return {} if best is None else best[1]

    def leave(self, world):
        for worker in set(self.left or ()) - world.alive:
            self.left[worker] = 0
        return self.settle(world, set(world.waiting))._replace(commit=False)


class AbsDssp:
    """The plan is searched over all pairs: within 5 % of the best the largest K, then
    the least stale."""

    def __init__(self, n, noise=None, memory=0.7):
        self.noise = n / 2 if noise is None else noise
        self.memory = memory
        self.k, self.tau, self.step = max(1, math.ceil(2 * self.noise)), 0, 1.0
        self.started: dict[int, float] = {}
        self.interval: dict[int, float] = {}

    def push(self, world, p, now):
        took = now - max(self.started.get(p, 0.0), world.previous[p])
        old = self.interval.get(p, 0.0)
        new = self.memory * old + (1 - self.memory) * took if old > 0 else took
        self.interval[p] = new
        accepted = world.staleness(p) <= self.tau
        weight = self.step / self.k if accepted else 0.0
        commit = accepted and world.pending + 1 >= self.k
        restart = set()
        if commit:
            times = [self.interval.get(i, 0.0) for i in sorted(world.alive)]
            self.plan([t for t in times if t > 0])
            restart = {
                i
                for i in world.computing
                if world.version + 1 - world.pulled[i] > self.tau
            }
        for worker in restart:
            least = 1.1 * (now - self.started.get(worker, 0.0))
            self.interval[worker] = max(self.interval.get(worker, 0.0), least)
        for worker in {p} | restart:
            self.started[worker] = now
        return Decision(weight, commit, {p}, restart)

    def plan(self, times):
        sizes = {max(1, math.ceil(i / 16 * self.noise)) for i in range(1, 33)}
        pairs = sorted((-k, tau) for tau in (0, 1, 2, 4) for k in sizes)
        costs = [self.cost(times, -k, tau) for k, tau in pairs]
        least = min(cost for cost, _ in costs)
        for (k, tau), (cost, step) in zip(pairs, costs, strict=True):
            if cost <= least * 1.0517:
                self.k, self.tau, self.step = -k, tau, step
                return

    def cost(self, times, k, tau):
        if not times:
            return math.inf, 1.0
        ratio = self.noise / k
        if tau == 0:
            ends = sorted(t * j for t in times for j in range(1, k + 1))
            step = min(1.0, 1 / (2 * ratio))
            return ends[k - 1] / step, step
        seconds = k / sum(1 / t for t in times)
        for _ in range(4):
            able = [t for t in times if t <= (tau + 1) * seconds]
            seconds = max(seconds, k / sum(1 / t for t in able) if able else math.inf)
        if math.isinf(seconds):
            return math.inf, 1.0
        able = [t for t in times if t <= (tau + 1) * seconds]
        total = sum(1 / t for t in able)
        mean = sum(min(t / seconds, tau) / t / total for t in able)
        noisy = 1 / (ratio + math.sqrt(ratio**2 + 4 * ratio * mean))
        width = tau * mean
        step = min(noisy, (math.sqrt(1 + 8 * width) - 1) / (4 * width))
        return seconds / step, step

    def leave(self, world):
        return Decision()


class Switch:
    """`then` decides from the first event on that finds version `at`."""

    def __init__(self, first, then, at):
        self.first, self.then, self.at = first, then, at
        self.over = False

    def turn(self, world):
        before, self.over = self.over, self.over or world.version >= self.at
        return set(world.waiting) if self.over and not before else set()

    def push(self, world, p, now):
        left = self.turn(world)
        decision = (self.then if self.over else self.first).push(world, p, now)
        return decision._replace(release=set(decision.release) | left)

    def leave(self, world):
        left = self.turn(world)
        decision = (self.then if self.over else self.first).leave(world)
        return decision._replace(release=set(decision.release) | left)


class Weighted:
    """`weight` is a function of the staleness."""

    def __init__(self, rule, weight):
        self.rule, self.weight = rule, weight

    def push(self, world, p, now):
        decision = self.rule.push(world, p, now)
        factor = self.weight(world.staleness(p))
        return decision._replace(weight=decision.weight * factor)

    def leave(self, world):
        return self.rule.leave(world)


def constant(staleness):
    return 1.0


def inverse(staleness):
    return 1 / max(1, staleness)


def polynomial(a):
    return lambda staleness: (1 + staleness) ** -a


def sa_adasync(k0=1, base="k_async", interval=60.0):
    return Weighted(AdaSync(k0, base, interval), inverse)


def run(
    rule,
    durations: Sequence[Sequence[float]],
    num_pushes: int,
    losses: Callable[[int], float] | None = None,
    *,
    seconds: float = 0.0,
    shared: bool = False,
    update: float = 0.0,
    leaves: Sequence[tuple[int, int]] = (),
) -> list[Row]:
    """The rows of a run; fewer than `num_pushes` if everybody left.

    `durations[i]` is cycled over the computations that worker i starts. `losses` maps a
    push's index (from 0) to the estimate that it finds. `seconds` is a push's time on
    its way, on a link of its own or, if `shared`, on one that carries one push at a
    time, first finished first. The server does nothing else for `update` seconds after
    a commit, and its answers leave it then. `leaves` holds (index of the push after
    which, worker).
    """
    n = len(durations)
    world = World(n)
    count = [0] * n  # computations started
    start, duration = [0.0] * n, [0.0] * n
    restarts = [0] * n
    rows: list[Row] = []
    unreleased: dict[int, int] = {}  # worker -> row of its push
    link_is_free = 0.0
    server_is_free = 0.0

    def begin(worker, now):
        cycle = durations[worker]
        duration[worker] = float(cycle[count[worker] % len(cycle)])
        count[worker] += 1
        start[worker] = now
        world.pulled[worker] = world.version
        world.computing.add(worker)

    def apply(decision, now):
        if decision.commit:
            world.version += 1
            world.pending = 0
        released = set(decision.release) & world.waiting
        restarted = set(decision.restart) & world.computing
        for worker in released:
            row = unreleased.pop(worker)
            rows[row] = rows[row]._replace(wait=now - rows[row].time)
            world.waiting.remove(worker)
            begin(worker, now)
        for worker in restarted:
            restarts[worker] += 1
            begin(worker, now)

    def leave(worker, now):
        world.alive.remove(worker)
        world.computing.discard(worker)
        world.waiting.discard(worker)
        if not world.alive:
            return
        decision = rule.leave(world)
        if decision.commit:
            assert not rows[-1].committed, "a departure commits with nothing pending"
            rows[-1] = rows[-1]._replace(committed=True)
        apply(decision, now)

    for worker in range(n):
        begin(worker, 0.0)
    while len(rows) < num_pushes and world.alive:
        if not world.computing:
            raise Deadlock(len(rows) + 1)
        # The next to arrive is the first to finish: every transfer takes as long.
        p = min(
            sorted(world.computing),
            key=lambda i: start[i] + duration[i] + (0.0 if shared else seconds),
        )
        now = start[p] + duration[p] + (0.0 if shared else seconds)
        if shared:
            now = max(now, link_is_free) + seconds
            link_is_free = now
        now = max(now, server_is_free)
        world.computing.remove(p)
        world.clock[p] += 1
        world.previous[p] = world.latest[p]
        world.latest[p] = now
        world.loss = math.nan if losses is None else losses(len(rows))
        decision = rule.push(world, p, now)
        unreleased[p] = len(rows)
        rows.append(
            Row(
                time=now,
                worker=p,
                clock=world.clock[p],
                pulled=world.pulled[p],
                version=world.version,
                weight=decision.weight,
                committed=bool(decision.commit),
                wait=math.nan,
                duration=duration[p],
                restarts=restarts[p],
            )
        )
        restarts[p] = 0
        world.waiting.add(p)
        if decision.weight > 0:
            world.pending += 1
        server_is_free = now + update if decision.commit else now
        apply(decision, server_is_free)
        for index, worker in leaves:
            if index == len(rows) - 1:
                leave(worker, now)
    return rows


def check(rows: Sequence[Row]) -> None:
    """Raises ValueError at the first row that breaks a rule of every trace."""
    clock: dict[int, int] = {}
    version, time = 0, 0.0
    for i, row in enumerate(rows):
        if row.time < time:
            raise ValueError(f"row {i}: time {row.time} is before {time}.")
        expected = clock.get(row.worker, 0) + 1
        if row.clock != expected:
            raise ValueError(f"row {i}: clock must be {expected}, got {row.clock}.")
        if row.version != version:
            raise ValueError(f"row {i}: version must be {version}, got {row.version}.")
        if row.pulled > row.version:
            raise ValueError(f"row {i}: pulled {row.pulled} exceeds {row.version}.")
        clock[row.worker] = row.clock
        time = row.time
        version += row.committed
