"""Ringleader's policy tells its aggregator which table a push is for."""

import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import support

from abs_dssp import policies


class TableByRound:
    """What `aggregate="table"` does with the weights, by its definition."""

    def __init__(self):
        self.tables = {-1: {}, 0: {}}  # by number of round: worker -> its pushes

    def receive(self, round_number, worker, push):
        if round_number not in self.tables:
            del self.tables[min(self.tables)]
            self.tables[round_number] = {}
        self.tables[round_number].setdefault(worker, []).append(push)

    def commit(self, round_number):
        return self.tables[round_number]


class Ringleader:
    """The two tables as the rule describes them, and nothing of rounds' numbers."""

    def __init__(self):
        self.present, self.coming, self.moved = {}, {}, set()

    def receive(self, worker, push, alive):
        """What is averaged if the push commits, else None."""
        if worker in self.moved:
            self.coming.setdefault(worker, []).append(push)
            return None
        self.present.setdefault(worker, []).append(push)
        if not (self.moved or alive <= set(self.present)):
            return None
        self.moved.add(worker)
        averaged = {i: list(pushes) for i, pushes in self.present.items()}
        self.turn(alive)
        return averaged

    def turn(self, alive):
        if self.moved and alive <= self.moved:
            self.present, self.coming, self.moved = self.coming, {}, set()

    def leave(self, worker, alive):
        if worker in self.present or worker in self.coming:
            self.present, self.coming, self.moved = {}, {}, set()
        else:
            self.turn(alive)


@pytest.mark.parametrize("seed", range(6))
def test_policy_and_table_average_the_same_gradients_whoever_leaves(seed):
    n, source = 4, random.Random(seed)
    policy = policies.ringleader(n)
    push, leave = jax.jit(policy.on_push), jax.jit(policy.on_leave)
    state, table, rule = policy.init(), TableByRound(), Ringleader()
    alive, commits, lost = set(range(n)), 0, set()  # pushes of lives that are over
    pushed = {worker: [] for worker in range(n)}
    for number in range(400):
        worker = source.randrange(n)
        event = source.choices(["push", "leave", "join"], [8, 1, 1])[0]
        gone = set(range(n)) - alive
        if event == "join":
            alive.add(worker)
        elif event == "leave" and len(alive) > 1 and worker in alive:
            alive.remove(worker)
            lost |= set(pushed[worker])
            clocks = support.clocks(np.zeros(n), gone=[*gone, worker])
            state, decision = leave(state, clocks, jnp.int32(worker), 0.0)
            rule.leave(worker, alive)
            assert not decision.commit
        elif event == "push" and worker in alive:
            pushed[worker].append(number)
            clocks = support.clocks(np.zeros(n), gone=[*gone])
            state, decision = push(state, clocks, jnp.int32(worker), 0.0)
            round_number = int(decision.weight)
            assert round_number == decision.weight
            table.receive(round_number, worker, number)
            averaged = rule.receive(worker, number, alive)
            assert bool(decision.commit) == (averaged is not None)
            if averaged is not None:
                commits += 1
                assert table.commit(round_number) == averaged
                assert not lost & {i for own in averaged.values() for i in own}
    assert commits > 50 and lost


def test_rounds_are_numbered_from_one():
    # Two workers: both fill, 1 commits, 0 commits: round 2, of which 1 has one already.
    policy = policies.ringleader(2)
    state, weights, commits = policy.init(), [], []
    for worker in (0, 1, 1, 0, 0, 1, 1):
        clocks = support.clocks([0, 0])
        state, decision = policy.on_push(state, clocks, jnp.int32(worker), 0.0)
        weights.append(int(decision.weight)), commits.append(bool(decision.commit))
    assert weights == [1, 1, 2, 1, 2, 2, 3]
    assert commits == [False, True, False, True, True, True, False]
    # Worker 1 leaves with gradients in a table: both are begun anew.
    clocks = support.clocks([0, 0], gone=[1])
    state, _ = policy.on_leave(state, clocks, jnp.int32(1), 0.0)
    assert int(state.round) == 5 and not state.filled.any()
