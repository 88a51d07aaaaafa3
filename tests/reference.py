"""The rules and the event loop again, slowly, in plain Python: the tests' oracle.

Written from the definitions and not from the code under test; nothing here uses the
package, JAX or NumPy. A rule object keeps the state of one run. A loss estimate is NaN
where there is none.
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
    wake: float | None = None  # None: the deadline stays as it was


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
        self.now = 0.0  # of the event that is decided
        self.leaver = -1  # who has just left

    def staleness(self, worker):
        return self.version - self.pulled[worker]

    def gap(self, worker):
        return self.clock[worker] - min(self.clock[i] for i in self.alive)

    def within(self, workers, bound):
        return {i for i in workers if self.gap(i) <= bound}


# The rules: `push` decides on a push, `leave` on what a departure sets free, and
# `time`, where a rule has it, on a deadline that has come.


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


def loss_ratio(first, present):
    """F(w_0) / F(w_t): inf at 0 or below; None where nothing can be said."""
    if math.isnan(present) or not first > 0:
        return None
    return first / present if present > 0 else math.inf


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
        ratio = loss_ratio(self.first, world.loss)
        if ratio is not None and now - self.updated >= self.interval:
            k = self.k0 * math.sqrt(ratio)
            k = world.num_workers if math.isinf(k) else math.ceil(k)
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
            ratio = loss_ratio(self.first, world.loss)
            if ratio is not None:
                wanted = self.k0 * ratio**self.a
                wanted = world.num_workers if math.isinf(wanted) else math.ceil(wanted)
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
    absences: Sequence[tuple[int, float, float]] = (),
    detection: float = 0.0,
    events: list[tuple[int, float, str, int, bool, int]] | None = None,
) -> list[Row]:
    """The rows of a run; fewer than `num_pushes` if everybody left by `leaves`.

    `durations[i]` is cycled over the computations that worker i starts. `losses` maps a
    push's index (from 0) to the estimate that it finds. `seconds` is a push's time on
    its way, on a link of its own or, if `shared`, on one that carries one push at a
    time, first finished first. The server does nothing else for `update` seconds after
    a commit, and its answers leave it then. `leaves` holds (index of the push after
    which, worker). `absences` holds (worker, death, return), in order for each worker:
    what it computes or sends at its death is lost, the rule is told `detection` seconds
    later or at the return, and at the return it begins anew. What is no push is added
    to `events`: pushes before it, time, kind, worker, whether a deadline committed, and
    how many computations of who leaves were cancelled since its push before.
    The first deadline is time 0. At the same time pushes come first, deadlines last.
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
    deadline = 0.0 if hasattr(rule, "time") else math.inf
    pushes = [0] * n
    coming = [[(d, r) for i, d, r in absences if i == w] for w in range(n)]
    stage = ["there"] * n  # then "dead", then "away"
    begun: set[int] = set()  # whose computation a living worker began

    def begin(worker, now):
        cycle = durations[worker]
        duration[worker] = float(cycle[count[worker] % len(cycle)])
        count[worker] += 1
        begun.add(worker) if stage[worker] == "there" else begun.discard(worker)
        start[worker] = now
        world.pulled[worker] = world.version
        world.computing.add(worker)

    def apply(decision, now, at=None, is_timer=False):
        nonlocal deadline
        at = now if at is None else at  # of the event; `now` is when the server is free
        if decision.wake is not None:
            deadline = max(decision.wake, at)
            if is_timer and deadline == at:
                deadline = math.inf
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

    def note(kind, now, worker=-1, commit=False, again=0):
        if events is not None:
            events.append((len(rows), now, kind, worker, commit, again))

    def leave(worker, now):
        nonlocal server_is_free
        world.now = server_is_free = now
        world.leaver = worker
        world.alive.remove(worker)
        world.computing.discard(worker)
        world.waiting.discard(worker)
        unreleased.pop(worker, None)
        restarts[worker] = 0
        decision = rule.leave(world)
        if world.pending == 0:
            decision = decision._replace(commit=False)
        if decision.commit:
            assert not rows[-1].committed, "a departure commits with nothing pending"
            rows[-1] = rows[-1]._replace(committed=True)
        apply(decision, now)

    def join(worker, now):
        nonlocal server_is_free
        server_is_free = now
        if world.alive:
            world.clock[worker] = min(world.clock[i] for i in world.alive)
        world.alive.add(worker)
        world.latest[worker] = world.previous[worker] = now
        begin(worker, now)

    def change():
        """The next death, departure or return: when, and whose."""
        ends = []
        for worker, own in enumerate(coming):
            if own:
                dies, returns = own[0]
                told = min(dies + detection, returns)
                at = {"there": dies, "dead": told, "away": returns}[stage[worker]]
                ends.append((at, worker))
        return min(ends, default=(math.inf, -1))

    def end_stage(worker, moment):
        """A death is known to nobody; of the rest the server hears when it is free."""
        nonlocal link_is_free
        now = max(moment, server_is_free)
        if stage[worker] == "there":
            ended = start[worker] + duration[worker]
            if shared and on_link() == worker and ended < moment:
                link_is_free = max(link_is_free, moment)
            stage[worker] = "dead"
        elif stage[worker] == "dead":
            stage[worker] = "away"
            note("leave", now, worker, again=restarts[worker])
            leave(worker, now)
        else:
            stage[worker] = "there"
            coming[worker].pop(0)
            join(worker, now)
            note("join", now, worker)

    def able():
        return sorted(i for i in world.computing if stage[i] == "there" and i in begun)

    def on_link():
        """Who arrives next: the first to finish, since every transfer takes as long."""
        way = 0.0 if shared else seconds
        ends = [(start[i] + duration[i] + way, i) for i in able()]
        return min(ends, default=(math.inf, -1))[1]

    def time(now):
        nonlocal deadline, server_is_free
        world.now = now
        deadline = math.inf
        decision = rule.time(world, now)
        if world.pending == 0:
            decision = decision._replace(commit=False)
        if decision.commit:
            rows[-1] = rows[-1]._replace(committed=True)
        server_is_free = now + update if decision.commit else now
        apply(decision, server_is_free, now, is_timer=True)
        note("timer", now, commit=bool(decision.commit))

    for worker in range(n):
        begin(worker, 0.0)
    while len(rows) < num_pushes and (world.alive or absences):
        p, left_link = on_link(), math.inf
        if p >= 0:
            left_link = start[p] + duration[p] + (0.0 if shared else seconds)
        if p >= 0 and shared:
            left_link = max(left_link, link_is_free) + seconds
        now = max(left_link, server_is_free)
        moment, worker = change()
        if moment < left_link:
            now = max(moment, server_is_free)
        if max(deadline, server_is_free) < now:
            time(max(deadline, server_is_free))
            continue
        if moment < left_link:
            end_stage(worker, moment)
            continue
        if p < 0:
            raise Deadlock(len(rows) + 1)
        world.now = now
        link_is_free = left_link
        world.computing.remove(p)
        world.clock[p] += 1
        pushes[p] += 1
        world.previous[p] = world.latest[p]
        world.latest[p] = now
        world.loss = math.nan if losses is None else losses(len(rows))
        decision = rule.push(world, p, now)
        unreleased[p] = len(rows)
        rows.append(
            Row(
                time=now,
                worker=p,
                clock=pushes[p],
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
        apply(decision, server_is_free, now)
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
