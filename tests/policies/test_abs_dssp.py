"""How late rounds of each size come, as `abs_dssp` learns it, by hand."""

import jax.numpy as jnp
import numpy as np

from abs_dssp.policies import _abs_dssp as rule

SIZES = jnp.array([1, 2, 4])


def plan(tau_max: int) -> rule.Plan:
    return rule.Plan(jnp.int32(2), SIZES, jnp.int32(tau_max), jnp.float32(1))


def after_two_pushes() -> rule.Round:
    """Begun at 10 s; the first push came after 3 s, the second after 8 s."""
    nothing = jnp.zeros(3)
    predicted, late = jnp.array([3.0, 4.0, 6.0]), jnp.array([0.0, 0.5, 0.5])
    present = rule.Round(jnp.float32(10), predicted, nothing, late)
    present = rule.received(present, plan(0), jnp.int32(1), jnp.float32(13))
    return rule.received(present, plan(0), jnp.int32(2), jnp.float32(18))


def test_a_round_notes_when_it_was_as_large_as_smaller_ones():
    assert after_two_pushes().arrived.tolist() == [3.0, 8.0, 0.0]


def test_what_a_round_has_shown_is_mixed_in_and_the_rest_forgiven():
    found = rule.lateness(after_two_pushes(), plan(0))
    expected = [0.0, 0.9 * 0.5 + 0.1 * np.log(8 / 4), 0.99 * 0.5]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_round_with_stale_pushes_shows_nothing_of_fresh_ones():
    found = rule.lateness(after_two_pushes(), plan(1))
    np.testing.assert_allclose(found, [0.0, 0.495, 0.495], rtol=1e-6)


def test_a_size_that_could_not_be_predicted_is_not_judged():
    present = after_two_pushes()._replace(predicted=jnp.array([3.0, jnp.inf, 0.0]))
    found = rule.lateness(present, plan(0))
    np.testing.assert_allclose(found, [0.0, 0.495, 0.495], rtol=1e-6)
