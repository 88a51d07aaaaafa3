"""What programs take up, and that they can be forgotten."""

import jax
import jax.numpy as jnp
import pytest

from abs_dssp import compilation


def maps():
    with open("/proc/self/maps") as file:
        return sum(1 for _ in file)


@pytest.mark.slow
def test_forgotten_programs_give_their_memory_maps_back():
    before = maps()

    @jax.jit
    def one_more(x):
        return x + 1

    for size in range(1, 60):  # a program for every shape
        one_more(jnp.zeros(size))
    grown = maps()
    assert grown > before + 60
    assert not compilation.release_programs(above=10**9)
    assert compilation.release_programs(above=0)
    assert maps() < (before + grown) / 2
    assert one_more(jnp.zeros(1)) == 1
