"""The newer rules again, slowly, in plain Python; see `reference`."""

import math
import statistics

import reference


def m_sync(m):
    return reference.k_sync(m)


class Malenia:
    def __init__(self, batch_size):
        self.batch_size = batch_size
        self.count: dict[int, int] = {}

    def complete(self, world):
        counts = [self.count.get(i, 0) for i in world.alive]
        if not counts or 0 in counts:
            return not counts
        n = len(counts)
        return n / sum(1 / c for c in counts) >= self.batch_size / n * (1 - 1e-6)

    def push(self, world, p, now):
        if world.staleness(p) > 0:
            return reference.Decision(weight=0.0, release={p})
        self.count[p] = self.count.get(p, 0) + 1
        commit = self.complete(world)
        if commit:
            self.count = {}
        return reference.Decision(commit=commit, release={p})

    def leave(self, world):
        commit = world.pending > 0 and self.complete(world)
        if commit:
            self.count = {}
        return reference.Decision(commit=commit)


class Ringleader:
    """A push weighs the number of the round whose table it is for."""

    def __init__(self):
        self.round = 1
        self.filled: set[int] = set()
        self.moved: set[int] = set()
        self.coming: set[int] = set()

    def push(self, world, p, now):
        if self.moved & world.alive and p in self.moved:
            self.coming.add(p)
            return reference.Decision(weight=self.round + 1.0, release={p})
        self.filled.add(p)
        weight = float(self.round)
        commit = bool(self.moved & world.alive) or world.alive <= self.filled
        if commit:
            self.moved.add(p)
            self.turn(world)
        return reference.Decision(weight, commit, {p})

    def turn(self, world):
        if self.moved and world.alive <= self.moved:
            self.round += 1
            self.filled, self.moved, self.coming = self.coming, set(), set()

    def leave(self, world):
        """Who is in a table and no longer alive has just left: each is forgotten."""
        if (self.filled | self.coming) - world.alive:
            self.round += 2
            self.filled, self.moved, self.coming = set(), set(), set()
        else:
            self.turn(world)
        return reference.Decision()


class MindFlayer:
    """A trial begins when its worker is told to compute, or joins; first at time 0."""

    def __init__(self, trials, seconds):
        self.trials, self.seconds = trials, seconds
        self.made: dict[int, int] = {}
        self.told: dict[int, float] = {}

    def end(self, i, latest):
        """When the present trial is given up."""
        return max(self.told.get(i, 0.0), latest) + self.seconds[i]

    def unmade(self, i):
        return self.made.get(i, 0) < self.trials[i]

    def push(self, world, p, now):
        begun = max(self.told.get(p, 0.0), world.previous[p])
        success = now - begun < self.seconds[p] and world.staleness(p) == 0
        success = success and self.unmade(p)
        self.made[p] = self.made.get(p, 0) + 1
        arrived = world.waiting | {p}
        return self.settle(world, arrived, set(), world.pending + success, success)

    def leave(self, world):
        self.made[world.leaver] = self.trials[world.leaver]
        return self.settle(world, set(world.waiting), set(), world.pending)

    def time(self, world, now):
        failed = {
            i
            for i in world.computing
            if self.unmade(i) and self.end(i, world.latest[i]) <= now
        }
        for i in failed:
            self.made[i] = self.made.get(i, 0) + 1
        again = {i for i in failed if self.unmade(i)}
        return self.settle(world, set(world.waiting), again, world.pending)

    def settle(self, world, arrived, again, pending, success=False):
        over = not any(self.unmade(i) for i in world.alive)
        if over:
            gone = set(range(world.num_workers)) - world.alive
            self.made = {i: self.trials[i] for i in gone}
            again = set(world.computing)
        released = {i for i in arrived & world.alive if self.unmade(i)}
        for i in released | again:
            self.told[i] = world.now
        trying = {i for i in released | world.computing if self.unmade(i)}
        ends = [self.end(i, world.latest[i]) for i in trying]
        wake = min(ends, default=math.inf)
        return reference.Decision(
            float(success), over and pending > 0, released, again, wake
        )


class Rescaled:
    def push(self, world, p, now):
        known = [i for i in world.alive if world.clock[i] and world.latest[i] > 0]
        rates = [world.clock[i] / world.latest[i] for i in known]
        weight = 1.0
        if p in known:
            weight = world.latest[p] / world.clock[p] * sum(rates) / len(rates)
        return reference.Decision(weight, True, {p})

    def leave(self, world):
        return reference.Decision()


def fedbuff(k=10, a=0.5):
    return reference.Weighted(reference.k_batch_async(k), lambda s: (1 + s) ** -a / k)


def fedasync(alpha=0.6, a=0.5):
    return reference.Weighted(reference.Asp(), lambda s: alpha * (1 + s) ** -a)


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
        return self.settle(world, world.waiting | {p})

    def settle(self, world, arrived):
        if all(self.left[i] == 0 for i in world.alive):
            self.left |= {i: 1 for i in range(world.num_workers)}
            self.left |= self.plan({i: self.took.get(i, 0.0) for i in world.alive})
        released = {i for i in arrived if self.left[i] > 0}
        for worker in released:
            self.started[worker] = world.now
        return reference.Decision(commit=True, release=released)

    def plan(self, took):
        took = {i: t for i, t in took.items() if t > 0}
        ahead = range(1, self.lookahead + 1)
        plans = []
        for barrier in sorted({t * r for t in took.values() for r in ahead}):
            last = barrier * 1.00001  # equal but for rounding
            count = {i: sum(t * r <= last for r in ahead) for i, t in took.items()}
            if min(count.values()) < 1:
                continue
            wait = sum(barrier - count[i] * t for i, t in took.items())
            plans.append((wait, barrier, count))
        least = min((wait for wait, _, _ in plans), default=0.0)
        near = (p for p in plans if p[0] <= least + 0.00001 * p[1])
        return next((count for _, _, count in near), {})

    def leave(self, world):
        self.left = self.left or {i: 1 for i in range(world.num_workers)}
        self.left[world.leaver] = 0
        return self.settle(world, set(world.waiting))._replace(commit=False)


class AbsDssp:
    """The plan is searched over all pairs: within 5 % of the best the largest K, then
    the least stale."""

    def __init__(self, n, noise=None, growth=1.015, memory=0.7):
        self.target = n / 2 if noise is None else noise
        self.first = min(self.target, n / 2) if growth > 1 else self.target
        self.noise, self.growth, self.memory = self.first, growth, memory
        self.k, self.tau, self.step = max(1, math.ceil(2 * self.noise)), 0, 1.0
        self.started: dict[int, float] = {}
        self.interval: dict[int, float] = {}
        self.begun = 0.0
        # By sixteenths of the noise: sizes of fresh rounds, how long they should take,
        # when they were complete, and the mean logarithm of one over the other.
        self.sizes = dict.fromkeys(range(1, 33), 0)
        self.predicted: dict[int, float] = {}
        self.arrived: dict[int, float] = {}
        self.late = dict.fromkeys(range(1, 33), 0.0)

    def push(self, world, p, now):
        took = now - max(self.started.get(p, 0.0), world.previous[p])
        old = self.interval.get(p, 0.0)
        new = self.memory * old + (1 - self.memory) * took if old > 0 else took
        self.interval[p] = new
        accepted = world.staleness(p) <= self.tau
        weight = self.step / self.k if accepted else 0.0
        commit = accepted and world.pending + 1 >= self.k
        for i, size in self.sizes.items():
            if world.pending + accepted >= size:
                self.arrived.setdefault(i, max(now - self.begun, 1e-9))
        restart = set()
        if commit:
            for i in self.sizes:
                expected = self.predicted.get(i, math.inf)
                if self.tau == 0 and i in self.arrived and expected < math.inf:
                    ratio = math.log(self.arrived[i] / expected)
                    off = min(3.0, max(-3.0, ratio))
                    self.late[i] = 0.9 * self.late[i] + 0.1 * off
                else:
                    self.late[i] *= 0.99
            self.begun, self.arrived = now, {}
            times = [self.interval.get(i, 0.0) for i in sorted(world.alive)]
            grown = self.first * self.growth ** (world.version + 1)
            self.noise = min(self.target, grown)
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
        return reference.Decision(weight, commit, {p}, restart)

    def plan(self, times):
        self.sizes = {i: max(1, math.ceil(i / 16 * self.noise)) for i in range(1, 33)}
        found = []
        for i, size in self.sizes.items():
            cost, step = self.cost(times, size, 0)
            self.predicted[i] = cost * step
            found.append((cost * math.exp(self.late[i]), -i, 0, step))
            for tau in (1, 2, 4):
                cost, step = self.cost(times, size, tau)
                found.append((cost, -i, tau, step))
        least = min(found)[0]
        near = [f[1:] for f in found if f[0] <= least * 1.0517]
        unit, self.tau, self.step = min(near)
        self.k = self.sizes[-unit]

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
        return reference.Decision()


class Growing:
    """A K-rule whose K is first growth^version, rounded up, as long as that is less."""

    def __init__(self, rule, first, growth=1.015):
        self.rule, self.most, self.first, self.growth = rule, rule.k, first, growth

    def push(self, world, p, now):
        grown = math.ceil(self.first * self.growth**world.version)
        self.rule.k = min(self.most, grown)
        return self.rule.push(world, p, now)

    def leave(self, world):
        return self.rule.leave(world)


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


class Quorum:
    def __init__(self, k, grace=0.5):
        self.k, self.grace = k, grace
        self.started = 0.0

    def push(self, world, p, now):
        if not world.computing:
            return self.over(world, world.waiting | {p})
        if world.pending + 1 == self.k:
            end = now + self.grace * (now - self.started)
            return reference.Decision(wake=end)
        return reference.Decision()

    def leave(self, world):
        if world.computing or world.pending == 0:
            return reference.Decision()
        return self.over(world, set(world.waiting))

    def time(self, world, now):
        if world.pending < self.k:
            return reference.Decision()
        return self.over(world, set(world.waiting))

    def over(self, world, released):
        self.started = world.now
        return reference.Decision(commit=True, release=released, wake=math.inf)


class Deadline:
    """A computation begins when its round does, or when its worker joins."""

    def __init__(self, k=3.0, floor=0.01):
        self.k, self.floor = k, floor
        self.took: dict[int, float] = {}
        self.started = 0.0

    def window(self, world):
        if not world.alive or not world.alive <= self.took.keys():
            return math.inf
        times = [self.took[i] for i in world.alive]
        middle = statistics.median(times)
        apart = statistics.median(abs(time - middle) for time in times)
        return middle + self.k * max(apart, self.floor * middle)

    def push(self, world, p, now):
        self.took[p] = now - max(self.started, world.previous[p])
        if world.computing:
            return reference.Decision()
        return self.over(world, world.waiting | {p})

    def leave(self, world):
        if world.computing or world.pending == 0:
            return reference.Decision()
        return self.over(world, set(world.waiting))

    def time(self, world, now):
        if world.pending == 0:
            return reference.Decision(wake=now + self.window(world))
        for late in world.computing:
            took = now - max(self.started, world.latest[late])
            self.took[late] = max(self.took.get(late, 0.0), took)
        return self.over(world, set(world.waiting), set(world.computing))

    def over(self, world, released, late=()):
        self.started = world.now
        end = world.now + self.window(world)
        return reference.Decision(commit=True, release=released, restart=late, wake=end)
