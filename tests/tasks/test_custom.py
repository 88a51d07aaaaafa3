"""Learning problems of one's own: losses, metrics and models."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from own_problem import LABELS, RNG, X, Y, absolute, linear, plain, squares

from abs_dssp import delays, optimizers, policies, simulate, tasks


def first_batch(task, index=0):
    numbers = jnp.int32(0), jnp.int32(index)
    return jax.jit(task.batch)(task.data, jax.random.key(0), *numbers)


def evaluated(task, variables):
    return jax.jit(task.evaluate)(task.data, variables)


def test_least_squares_finds_the_closed_form():
    truth = RNG.normal(size=3)
    y = X @ truth + 0.7 + 0.1 * RNG.normal(size=64)
    task = plain((X, y), loss=squares, metrics={"mae": absolute}, batch_size=32)
    result = simulate.train(
        task,
        policies.bsp(2),
        delays.constant([1.0, 1.5]),
        optimizers.sgd(0.2),
        num_pushes=400,  # two workers of one batch each: every commit has all samples
    )
    rows = np.hstack([X, np.ones((64, 1))])
    best, *_ = np.linalg.lstsq(rows, y, rcond=None)
    found = result.variables.params
    solution = np.append(found["w"][:, 0], found["b"][0, 0])
    np.testing.assert_allclose(solution, best, atol=1e-5)
    record = result.history.records[-1]
    off = rows @ best - y
    assert record["loss"] == pytest.approx(np.mean(off**2), rel=1e-4)
    assert record["mae"] == pytest.approx(np.mean(np.abs(off)), rel=1e-4)
    assert "accuracy" not in record
    assert first_batch(task)[1].dtype == jnp.float32


@pytest.mark.parametrize("dtype", [np.int64, np.float64])
def test_one_hot_rows_are_the_labels_that_they_stand_for(dtype):
    params = tasks.Variables({"w": jnp.asarray(RNG.normal(size=(3, 4)), jnp.float32),
                              "b": jnp.ones((1, 4), jnp.float32)}, {})  # fmt: skip
    by_label = plain((X, LABELS), width=4, partition="dirichlet(alpha=0.5)")
    rows = np.eye(4)[LABELS].astype(dtype)
    by_row = plain((X, rows), width=4, partition="dirichlet(alpha=0.5)")
    for one, other in zip(first_batch(by_label), first_batch(by_row), strict=True):
        np.testing.assert_array_equal(one, other)
    values = [evaluated(task, params) for task in (by_label, by_row)]
    assert values[0] == values[1] and set(values[0]) == {"loss", "accuracy"}
    own = plain((X, rows), width=4, loss=_soft)
    np.testing.assert_allclose(evaluated(own, params)["loss"], values[0]["loss"], 1e-6)


def _soft(outputs, targets):
    return optax.softmax_cross_entropy(outputs, jnp.asarray(targets, jnp.float32))


class Tokens(nn.Module):
    """Predicts every token of a sequence from itself."""

    @nn.compact
    def __call__(self, tokens):
        return nn.Dense(5)(nn.Embed(5, 8)(tokens))


def of_tokens(outputs, targets):
    each = optax.softmax_cross_entropy_with_integer_labels(outputs, targets)
    return each.mean(axis=-1)


def test_tokens_stay_integers_and_an_embedding_learns_them():
    tokens = RNG.integers(0, 5, (40, 6))
    split = tokens, (tokens + 1) % 5
    task = tasks.from_flax(Tokens(), split, split, 2, loss=of_tokens, batch_size=8)
    inputs, targets = first_batch(task)
    assert inputs.dtype == targets.dtype == jnp.int32 and inputs.shape == (8, 6)
    with jax.numpy_dtype_promotion("standard"):  # which optax's adam needs
        result = simulate.train(
            task,
            policies.asp(2),
            delays.constant([1.0, 1.3]),
            optimizers.parse("adam(learning_rate=0.1)"),
            num_pushes=60,
        )
    assert result.history.last("loss") < 0.1 < result.history.column("loss")[0]


class Deterministic(nn.Module):
    @nn.compact
    def __call__(self, x, *, deterministic):
        x = nn.Dropout(0.5, deterministic=deterministic)(nn.Dense(16)(x))
        if not deterministic:  # a stream of its own name
            x = x + jax.random.normal(self.make_rng("noise"), x.shape)
        return nn.Dense(4)(x)


class Training(nn.Module):
    @nn.compact
    def __call__(self, x, training):
        x = nn.BatchNorm(use_running_average=not training)(nn.Dense(16)(x))
        return nn.Dense(4)(nn.Dropout(0.5, deterministic=not training)(x))


class Dropping(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(3, 16, rngs=rngs)
        self.norm = nnx.BatchNorm(16, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.again = nnx.Dropout(0.5, rngs=rngs)
        self.last = nnx.Linear(16, 4, rngs=rngs)

    def __call__(self, x):
        return self.last(self.again(self.drop(self.norm(self.first(x)))))


class Told(nnx.Module):
    """Is handed its streams and its mode."""

    def __init__(self, rngs):
        self.drop = nnx.Dropout(0.5)
        self.last = nnx.Linear(3, 4, rngs=rngs)

    def __call__(self, x, *, train, rngs):
        return self.last(self.drop(x, deterministic=not train, rngs=rngs))


def _key_model():
    def apply(params, inputs, key, train):
        assert train == (key is not None)
        if train:
            inputs = jnp.where(jax.random.bernoulli(key, 0.5, inputs.shape), inputs, 0)
        return linear(params, inputs)

    def init(key):
        return {"w": jax.random.normal(key, (3, 4)), "b": jnp.zeros((1, 4))}

    return lambda *splits: tasks.from_functions(init, apply, *splits, 2)


NOISY = {
    "linen-deterministic": lambda *s: tasks.from_flax(Deterministic(), *s, 2),
    "linen-training": lambda *s: tasks.from_flax(Training(), *s, 2),
    "nnx-batch-norm": lambda *s: tasks.from_nnx(Dropping, *s, 2),
    "nnx-told": lambda *s: tasks.from_nnx(Told, *s, 2),
    "functions-key": _key_model(),
}


@pytest.mark.often(3)
@pytest.mark.parametrize("kind", NOISY)
def test_noise_follows_the_key_of_a_push_and_evaluation_has_none(kind):
    task = tasks.check(NOISY[kind]((X, LABELS), (X, LABELS)))
    variables = jax.jit(task.init)(jax.random.key(3))
    batch = first_batch(task)

    def slope(key):
        def value(params):
            return task.loss(variables._replace(params=params), batch, key)

        return jax.value_and_grad(value, has_aux=True)(variables.params)

    keys = jnp.stack([jax.random.key(seed) for seed in (1, 1, 2)])
    (values, stats), _ = jax.jit(jax.vmap(slope))(keys)
    assert values[0] == values[1] != values[2]
    assert jax.tree.structure(stats) == jax.tree.structure(variables.stats)
    assert evaluated(task, variables) == evaluated(task, variables)
    # No unit is dropped in evaluation: with all samples alike, so are all losses.
    alone = evaluated(task, variables)["loss"]
    assert float(task.objective(task.data, variables)) == pytest.approx(float(alone))


def test_two_dropouts_of_one_nnx_model_drop_differently():
    class Two(nnx.Module):
        def __init__(self, rngs):
            self.drops = nnx.List([nnx.Dropout(0.5, rngs=rngs) for _ in range(2)])
            self.scale = nnx.Param(jnp.ones(()))

        def __call__(self, x):
            return self.scale[...] * jnp.stack([d(x) for d in self.drops], axis=-1)

    ones = np.ones((40, 30), np.float32)

    def differ(outputs, _):
        unequal = outputs[..., 0] != outputs[..., 1]
        return jnp.mean(jnp.asarray(unequal, jnp.float32), axis=-1)

    task = tasks.from_nnx(Two, (ones, ones), (ones, ones), 2, loss=differ)
    variables = task.init(jax.random.key(0))
    value, _ = jax.jit(task.loss)(variables, first_batch(task), jax.random.key(0))
    # Half of 32 * 30 pairs of fair coins: deviation 0.016
    assert abs(float(value) - 0.5) < 0.08
    assert evaluated(task, variables)["loss"] == 0


def test_what_a_model_raises_says_what_it_was_given():
    flat = np.ones((8, 64), np.float32)
    with pytest.raises(Exception) as caught:
        tasks.from_flax(nn.Conv(4, (3, 3)), (flat, LABELS[:8]), (flat, LABELS[:8]), 2)
    said = " ".join(caught.value.__notes__)
    assert "conv: the model was tried on samples of inputs" in said
    assert "(64,)" in said


def test_a_class_of_nnx_may_take_rngs_by_keyword_alone():
    class Net(nnx.Module):
        def __init__(self, *, rngs):
            self.out = nnx.Linear(3, 1, rngs=rngs)

        def __call__(self, x):
            return self.out(x)

    ones = np.ones((8, 3), np.float32)
    task = tasks.from_nnx(Net, (ones, ones[:, 0]), (ones, ones[:, 0]), 2, loss=squares)
    assert task.init(jax.random.key(0)).params["out"]["kernel"].shape == (3, 1)


def test_batch_norm_of_nnx_moves_its_statistics_and_not_in_evaluation():
    task = NOISY["nnx-batch-norm"]((X, LABELS), (X, LABELS))
    variables = task.init(jax.random.key(0))
    inputs, _ = batch = first_batch(task)
    _, stats = jax.jit(task.loss)(variables, batch, jax.random.key(0))
    first = variables.params["first"]
    mean = np.mean(inputs @ first["kernel"], axis=0)  # the bias is 0
    np.testing.assert_allclose(stats["norm"]["mean"], 0.01 * mean, atol=1e-6)


def test_inputs_targets_and_outputs_may_be_trees():
    inputs = {"x": X, "pixels": RNG.integers(0, 256, (64, 2, 1), np.uint8),
              "mask": RNG.random((64, 3)) < 0.5}  # fmt: skip
    targets = X.sum(axis=1), LABELS

    def init(key):
        return {"w": jax.random.normal(key, (3, 5)), "v": jnp.ones((2, 1))}

    def apply(params, inputs):
        hidden = jnp.where(inputs["mask"], inputs["x"], 0.0) @ params["w"]
        hidden = hidden + inputs["pixels"][:, :, 0] @ params["v"]
        return {"sum": hidden[:, 0], "logits": hidden[:, 1:]}

    def loss(outputs, targets):
        number, label = targets
        logits = outputs["logits"]
        entropy = optax.softmax_cross_entropy_with_integer_labels(logits, label)
        return (outputs["sum"] - number) ** 2 + entropy

    def right(outputs, targets):
        return outputs["logits"].argmax(axis=-1) == targets[1]

    split = inputs, targets
    made = tasks.from_functions(
        init, apply, split, split, 2, loss=loss, metrics={"right": right}, name="two"
    )
    task = tasks.check(made)
    variables = task.init(jax.random.key(0))
    found = evaluated(task, variables)
    w, v = np.asarray(variables.params["w"], float), variables.params["v"]
    pixels = inputs["pixels"][:, :, 0].astype(float)
    normal = (pixels - pixels.mean()) / pixels.std()  # one channel
    hidden = np.where(inputs["mask"], X, 0) @ w + normal @ np.asarray(v)
    logits = hidden[:, 1:]
    entropy = np.log(np.exp(logits).sum(1)) - logits[np.arange(64), LABELS]
    expected = np.mean((hidden[:, 0] - targets[0]) ** 2 + entropy)
    np.testing.assert_allclose(found["loss"], expected, rtol=1e-5)
    share = np.mean(logits.argmax(1) == LABELS)
    np.testing.assert_allclose(found["right"], share, rtol=1e-6)
    drawn, (number, label) = first_batch(task)
    kinds = {name: str(leaf.dtype) for name, leaf in drawn.items()}
    assert kinds == {"x": "float32", "pixels": "float32", "mask": "bool"}
    np.testing.assert_allclose(number, np.sum(drawn["x"], axis=1), rtol=1e-5)
    assert label.dtype == jnp.int32


class Cached(nn.Module):
    @nn.compact
    def __call__(self, x):
        self.variable("cache", "last", lambda: jnp.zeros(3))
        return nn.Dense(4)(x)


class Constant(nnx.Module):
    def __init__(self, rngs):
        self.table = nnx.Variable(jnp.ones(3))
        self.last = nnx.Linear(3, 4, rngs=rngs)

    def __call__(self, x):
        return self.last(x * self.table[...])


class Attribute(nnx.Module):
    def __init__(self, rngs):
        self.table = jnp.ones(3)
        self.last = nnx.Linear(3, 4, rngs=rngs)

    def __call__(self, x):
        return self.last(x * self.table)


class Half(nn.Module):
    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", nn.initializers.ones, (3, 4), jnp.bfloat16)
        return x @ kernel.astype(x.dtype)


class Always(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(nn.Dropout(0.5, deterministic=False)(x))


MODELS = {
    "collection": (tasks.from_flax, Cached(), r"collections \['cache'\]"),
    "class": (tasks.from_flax, Cached, "expected a flax.linen module"),
    "bfloat16": (tasks.from_flax, Half(), "bfloat16; parameters .* must be float32"),
    "drops-always": (tasks.from_flax, Always(), "draws random numbers in evaluation"),
    "parameterless": (tasks.from_flax, nn.Dropout(0.5), "no parameters to train"),
    "nnx-state": (tasks.from_nnx, Constant, "keeps table, but a push carries"),
    "nnx-array": (tasks.from_nnx, Attribute, "keeps table, but a push carries"),
    "nnx-module": (tasks.from_nnx, Told(nnx.Rngs(0)), "expected a function that makes"),
    "nnx-other": (tasks.from_nnx, lambda rngs: 3, "got int from it"),
}


@pytest.mark.parametrize("kind", MODELS)
def test_models_that_cannot_be_pushed_are_refused(kind):
    make, model, message = MODELS[kind]
    with pytest.raises(ValueError, match=message):
        make(model, (X, LABELS), (X, LABELS), 2)


def test_check_finds_what_a_task_filled_by_hand_lacks():
    task = plain((X, Y), loss=squares)
    assert tasks.check(task) is task
    wrong = {
        "num_workers must be a whole number": {"num_workers": 0},
        r"init must give tasks.Variables\(params, stats\), got a dict": {
            "init": lambda key: {}
        },
        "loss must be one floating-point number, got float32 of shape .64": {
            "loss": lambda v, batch, key: (task.data["train_labels"], {})
        },
        'numbers by name, "loss" among them': {"evaluate": lambda data, v: {}},
        "objective must be one": {"objective": lambda data, v: jnp.int32(0)},
    }
    for message, change in wrong.items():
        with pytest.raises(ValueError, match=message):
            tasks.check(task._replace(**change))
