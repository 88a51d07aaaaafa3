"""What lies beside a fragment's log: vectors and turns, and damage to them."""

import numpy as np
import pytest

from abs_dssp.cluster import (
    push_store,
)
from abs_dssp.cluster.log import LogError
from abs_dssp.cluster.push_store import PushStore, Turn


def test_pushes_are_found_again_until_two_checkpoints_hold_them(tmp_path):
    def vector(number):
        return np.arange(4, dtype=np.float32) + number

    def turn(number):
        return Turn(number, number == 1, ((0, number, 5), (1, 7, 9)))

    store = PushStore(tmp_path, 4, np.float32)
    for number in (1, 2):
        store.add(0, number, turn(number), vector(number))
    store.begin(10)
    store.add(0, 3, turn(3), vector(3))
    store.add(0, 3, turn(4), vector(4))  # again: the latest counts
    store.begin(20)
    store.add(1, 1, turn(5), vector(5))
    store.close()
    with open(tmp_path / "20.vectors", "ab") as file:
        file.write(b"half a record")
    with open(tmp_path / push_store.TURNS, "ab") as file:
        file.write(b"0badc0de [0, 9")
    store = PushStore(tmp_path, 4, np.float32)
    expected = {(0, 1): 1, (0, 2): 2, (0, 3): 4, (1, 1): 5}
    for key, number in expected.items():
        np.testing.assert_array_equal(store.vector(*key), vector(number))
        assert store.turns[key] == turn(number)
    store.add(1, 2, turn(6), vector(6))
    store.close()
    store = PushStore(tmp_path, 4, np.float32)  # what was cut short is in nobody's way
    np.testing.assert_array_equal(store.vector(1, 2), vector(6))
    store.give_up(10)
    with pytest.raises(LogError, match="push 2 of worker 0 is not there"):
        store.vector(0, 2)
    np.testing.assert_array_equal(store.vector(0, 3), vector(4))
    assert store.turns.keys() == {*expected, (1, 2)}  # these stay for good
    store.close()


def test_damaged_bytes_are_named(tmp_path):
    store = PushStore(tmp_path, 4, np.float32)
    store.add(0, 1, Turn(1, True, ()), np.ones(4, np.float32))
    store.add(0, 2, Turn(2, False, ()), np.ones(4, np.float32))
    store.close()
    path, turns = tmp_path / "0.vectors", tmp_path / push_store.TURNS
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.write_bytes(data)
    store = PushStore(tmp_path, 4, np.float32)
    with pytest.raises(LogError, match="push 1 of worker 0 is damaged"):
        store.vector(0, 1)
    store.close()
    turns.write_bytes(turns.read_bytes().replace(b"[0, 1", b"[0, 7"))
    with pytest.raises(LogError, match="damaged at line 1"):
        PushStore(tmp_path, 4, np.float32)


def _lines(*keys):
    turns = [(key, Turn(number, False, ())) for number, key in enumerate(keys, 1)]
    return b"".join(push_store.line(*key, turn) for key, turn in turns)


@pytest.mark.parametrize("rest", [b"", b"[", b"\0" * 30 + b"]\n", b"\0\n\0\n"])
def test_turns_that_a_loss_of_power_cut_short_are_in_nobodys_way(rest, tmp_path):
    """Of the last push the log knows nothing; with its line nobody was told of it."""
    (tmp_path / push_store.TURNS).write_bytes(_lines((0, 1), (1, 1)) + rest)
    store = PushStore(tmp_path, 4, np.float32, logged=[(0, 1), (1, 1)])
    store.add(0, 2, Turn(2, False, ()), np.ones(4, np.float32))
    store.close()
    store = PushStore(tmp_path, 4, np.float32, logged=[(0, 1), (1, 1), (0, 2)])
    assert store.turns.keys() == {(0, 1), (1, 1), (0, 2)}
    store.close()


def test_a_turn_that_the_log_needs_is_missed_at_once_and_nothing_is_cut_off(tmp_path):
    path = tmp_path / push_store.TURNS
    path.write_bytes(_lines((0, 1), (1, 1))[:-1] + b"\x8a")  # its end of a line
    before = path.read_bytes()
    with pytest.raises(LogError, match="lacks push 1 of worker 1, which the log"):
        PushStore(tmp_path, 4, np.float32, logged=[(0, 1), (1, 1)])
    assert path.read_bytes() == before


def test_a_vector_is_never_taken_for_that_of_another_push(tmp_path):
    """Its head says whose it is, and so it is among what is checked."""
    store = PushStore(tmp_path, 4, np.float32)
    for worker in (0, 1):
        vector = np.full(4, worker, np.float32)
        store.add(worker, 1, Turn(1, True, ()), vector)
    store.close()
    path = tmp_path / "0.vectors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1  # the second is worker 0's now
    path.write_bytes(data)
    store = PushStore(tmp_path, 4, np.float32)
    with pytest.raises(LogError, match="push 1 of worker 0 is damaged"):
        store.vector(0, 1)
    store.close()
