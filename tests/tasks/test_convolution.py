"""Convolutions as matrix products, against flax's."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abs_dssp.tasks import convolution, models


def _images(*shape):
    generator = np.random.default_rng(sum(shape))
    return jnp.asarray(generator.normal(size=shape), jnp.float32)


class _Images(nn.Module):
    """A convolution with the batch first, whatever it has inside."""

    inner: convolution.Conv

    def setup(self):
        nn.share_scope(self, self.inner)

    def __call__(self, x):
        if not self.inner.batch_last:
            return self.inner(x)
        return self.inner(x.transpose(3, 1, 2, 0)).transpose(3, 1, 2, 0)


@settings(max_examples=8)
@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    channels=st.sampled_from([1, 3]),
    bias=st.booleans(),
    batch_last=st.booleans(),
)
def test_values_and_gradients_are_those_of_flax(
    size, kernel, strides, channels, bias, batch_last
):
    images = _images(2, *size, channels)
    ours = _Images(
        convolution.Conv(4, kernel, strides, use_bias=bias, batch_last=batch_last)
    )
    theirs = nn.Conv(4, kernel, strides=strides, use_bias=bias)
    variables, expected = (
        jax.jit(module.init)(jax.random.key(1), images) for module in (ours, theirs)
    )
    jax.tree.map(np.testing.assert_array_equal, variables, expected)
    weights = _images(*jax.eval_shape(theirs.apply, variables, images).shape)

    def loss(module):
        return lambda variables, images: jnp.vdot(
            weights, module.apply(variables, images)
        )

    got, wanted = (
        jax.jit(jax.value_and_grad(loss(module), (0, 1)))(variables, images)
        for module in (ours, theirs)
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
        got,
        wanted,
    )


@settings(max_examples=5)
@given(size=st.tuples(st.integers(2, 7), st.integers(2, 7)))
def test_pooling_is_that_of_flax(size):
    images = _images(2, *size, 3)  # no two values are equal: gradients are unique

    def total(pool):
        return lambda images: jnp.sum(pool(images) ** 2)

    def theirs(images):
        return nn.max_pool(images, (2, 2), strides=(2, 2))

    np.testing.assert_array_equal(convolution.max_pool(images), theirs(images))
    ours, expected = (
        jax.grad(total(f))(images) for f in (convolution.max_pool, theirs)
    )
    np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("text", ["cnn", "alexnet", "resnet(depth=8,shortcuts='B')"])
def test_no_model_has_a_convolution_of_xla_on_a_cpu(text):
    module = models.parse(text, 10)
    image = jnp.zeros((1, 32, 32, 3))
    program = jax.make_jaxpr(lambda: module.init(jax.random.key(0), image))()
    assert "conv_general_dilated" not in str(program)


class _Usual(nn.Module):
    """`models.Convolutional` in flax's own layers."""

    like: models.Convolutional

    @nn.compact
    def __call__(self, x):
        for number, width in enumerate(self.like.channels):
            x = nn.Conv(width, (self.like.kernel,) * 2, name=f"Conv_{number}")(x)
            x = nn.max_pool(nn.relu(x), (2, 2), strides=(2, 2))
        x = x.reshape(len(x), -1)
        for width in self.like.hidden:
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(self.like.num_classes)(x)


@pytest.mark.parametrize("channels", [[4, 16], [16, 32]])  # the batch last, and first
def test_convolutional_networks_are_those_of_flax(channels):
    module = models.cnn(channels, hidden=8)(10)
    images = _images(3, 8, 12, 3)
    variables = module.init(jax.random.key(0), images)
    expected = _Usual(module).apply(variables, images)
    np.testing.assert_allclose(
        module.apply(variables, images), expected, rtol=1e-4, atol=1e-5
    )
