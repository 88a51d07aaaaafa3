"""Parameter counts against hand formulas and the literature, and refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from abs_dssp.tasks import models


def _shapes(text, shape=(1, 32, 32, 3), num_classes=10):
    module = models.parse(text, num_classes)
    sample = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.eval_shape(module.init, jax.random.key(0), sample)


def _count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _dense(inputs, outputs):
    return inputs * outputs + outputs


def _conv(kernel, inputs, outputs):
    return kernel**2 * inputs * outputs + outputs


def _resnet(depth, width=16, num_classes=10, shortcuts="A"):
    """Convolutions without bias; two numbers per channel for each BatchNorm."""
    blocks = (depth - 2) // 6
    total = 9 * 3 * width + 2 * width
    channels = width
    for stage in range(3):
        for block in range(blocks):
            wide = width * 2**stage
            total += 9 * channels * wide + 9 * wide * wide + 4 * wide
            if shortcuts == "B" and stage > 0 and block == 0:
                total += channels * wide + 2 * wide
            channels = wide
    return total + _dense(channels, num_classes)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("mlp", _dense(3072, 64) + _dense(64, 10), id="mlp"),
        pytest.param(
            "mlp(hidden=[8,6])",
            _dense(3072, 8) + _dense(8, 6) + _dense(6, 10),
            id="mlp-deep",
        ),
        pytest.param(
            "cnn",
            _conv(3, 3, 16)
            + _conv(3, 16, 32)
            + _dense(8 * 8 * 32, 64)
            + _dense(64, 10),
            id="cnn",
        ),
        pytest.param(
            "alexnet",
            _conv(5, 3, 64)
            + _conv(5, 64, 128)
            + _conv(5, 128, 256)
            + _dense(4 * 4 * 256, 512)
            + _dense(512, 10),
            id="alexnet",
        ),
        pytest.param("resnet", _resnet(20), id="resnet-20"),
        pytest.param("resnet(depth=50)", _resnet(50), id="resnet-50"),
        pytest.param(
            "resnet(depth=8,width=4,shortcuts='B')",
            _resnet(8, 4, shortcuts="B"),
            id="projections",
        ),
    ],
)
def test_parameters_are_as_many_as_the_layers_have(text, expected):
    assert _count(_shapes(text)["params"]) == expected


@pytest.mark.parametrize(
    ("depth", "millions"),  # He et al. 2016, table 6, two significant digits
    [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)],
)
def test_resnets_have_the_published_size(depth, millions):
    digits = 1 if depth == 110 else 2
    count = _count(_shapes(f"resnet(depth={depth})")["params"])
    assert round(count / 1e6, digits) == millions


@pytest.mark.parametrize("text", ["mlp", "cnn", "alexnet", "resnet(depth=8)"])
def test_models_adapt_to_digits(text):
    module = models.parse(text, 10)
    variables = _shapes(text, (1, 8, 8, 1))
    logits = jax.eval_shape(
        module.apply, variables, jax.ShapeDtypeStruct((5, 8, 8, 1), jnp.float32)
    )
    assert logits.shape == (5, 10) and logits.dtype == jnp.float32


def test_group_norm_has_batch_norms_parameters_and_no_statistics():
    batch, group = _shapes("resnet(depth=8)"), _shapes("resnet(depth=8,norm='group')")
    assert _count(group["params"]) == _count(batch["params"])
    assert "batch_stats" not in group


def test_group_norm_is_over_eight_channels_of_all_pixels():
    x = np.random.default_rng(0).normal(2.0, 3.0, (2, 4, 4, 16)).astype(np.float32)
    norm = models._NORMS["group"](True)()
    found = norm.apply(norm.init(jax.random.key(0), x), x)
    groups = x.reshape(2, 16, 2, 8)
    mean = groups.mean(axis=(1, 3), keepdims=True)
    variance = groups.var(axis=(1, 3), keepdims=True)
    expected = ((groups - mean) / np.sqrt(variance + 1e-6)).reshape(x.shape)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_under_group_norm_a_sample_does_not_depend_on_its_batch():
    module = models.parse("resnet(depth=8,width=8,norm='group')", 10)
    images = jax.random.normal(jax.random.key(1), (3, 8, 8, 3))
    variables = jax.jit(module.init)(jax.random.key(0), images)
    apply = jax.jit(lambda images: module.apply(variables, images, train=True))
    alone, together = apply(images[:1]), apply(images)
    np.testing.assert_allclose(together[:1], alone, atol=1e-5)


def test_only_the_resnet_keeps_statistics_two_per_channel():
    assert "batch_stats" not in _shapes("cnn")
    # depth 8: the stem and two norms in each of 3 blocks, widths 16, 32, 64
    channels = 16 + 2 * (16 + 32 + 64)
    assert _count(_shapes("resnet(depth=8)")["batch_stats"]) == 2 * channels


def test_option_a_shortcuts_subsample_and_pad_with_zeros():
    block = models.Block(channels=4, stride=2, shortcuts="A", norm="batch")
    x = np.random.default_rng(0).random((2, 6, 6, 2), np.float32)
    shapes = jax.eval_shape(lambda key: block.init(key, x, False), jax.random.key(1))
    # With zeros for all variables the residual branch is 0.
    still = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    y = np.asarray(jax.jit(lambda v, x: block.apply(v, x, False))(still, x))
    assert np.array_equal(y[..., 1:3], x[:, ::2, ::2])
    assert not np.any(y[..., 0]) and not np.any(y[..., 3])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("vgg", "known: alexnet, cnn, mlp, resnet", id="unknown"),
        pytest.param("resnet(depth=18)", r"6n \+ 2 .*got 18", id="depth"),
        pytest.param("resnet(depth=2)", r"6n \+ 2 .*got 2", id="no-blocks"),
        pytest.param("resnet(depth=20.0)", "depth", id="float"),
        pytest.param("resnet(shortcuts='C')", "'A' or 'B', got 'C'", id="shortcuts"),
        pytest.param("resnet(norm='layer')", "'group', got 'layer'", id="norm"),
        pytest.param(
            "resnet(width=12,norm='group')", "width of 8n, got 12", id="groups"
        ),
        pytest.param("mlp(hidden=[0])", "above 0, got 0", id="width"),
    ],
)
def test_parse_refuses(text, message):
    with pytest.raises(ValueError, match=message):
        models.parse(text, 10)


def test_a_transformer_has_the_parameters_of_its_formula():
    width, depth, length, tokens = 16, 3, 12, 256
    module = models.parse(f"transformer(width={width},depth={depth})", tokens)
    sample = jax.ShapeDtypeStruct((1, length), jnp.int32)
    found = jax.eval_shape(module.init, jax.random.key(0), sample)
    norm = 2 * width
    layer = _dense(width, 3 * width) + _dense(width, width) + 2 * norm
    layer += _dense(width, 4 * width) + _dense(4 * width, width)
    ends = (tokens + length) * width + norm + _dense(width, tokens)
    assert _count(found) == depth * layer + ends


def test_a_transformer_sees_the_past_alone():
    module = models.parse("transformer(width=16,depth=2,heads=2,context=12)", 50)
    tokens = jnp.arange(10, dtype=jnp.int32)[None] * 3 % 50
    variables = jax.jit(module.init)(jax.random.key(0), tokens)
    apply = jax.jit(lambda tokens: module.apply(variables, tokens))
    before = np.asarray(apply(tokens))
    after = np.asarray(apply(tokens.at[0, 6].set(49)))
    np.testing.assert_array_equal(before[0, :6], after[0, :6])
    changed = np.abs(before - after).max(axis=-1)[0, 6:]
    assert (changed > 1e-6).all()
    # Positions count: the same token elsewhere gives other logits.
    same = np.asarray(apply(jnp.full((1, 4), 7, jnp.int32)))[0]
    assert np.abs(same[0] - same[3]).max() > 1e-4
