"""Tasks by name."""

import pytest

from abs_dssp import tasks


def test_parse_merges_the_text_with_the_settings():
    task = tasks.parse("digits(batch_size=8)", 4, model="mlp(hidden=4)", batch_size=2)
    assert (task.name, task.num_workers) == ("digits/mlp(hidden=4)", 4)
    assert task.batch_size == 8  # the text wins
    assert task.samples_per_epoch == 1437


def test_parse_reads_nested_calls():
    text = "digits(model=mlp(hidden=(4, 5)),partition=dirichlet(0.3))"
    task = tasks.parse(text, 3)
    assert task.name == "digits/mlp(hidden=(4, 5))"
    plain = tasks.digits(3, model="mlp((4, 5))", partition="dirichlet(alpha=0.3)")
    assert task.data["sizes"].tolist() == plain.data["sizes"].tolist()
    assert sum(task.data["sizes"].tolist()) == 1437


def test_parse_gives_settings_only_to_tasks_that_have_them():
    task = tasks.parse("quadratic(dim=10,noise=2.0)", 3, model="cnn", data_dir=None)
    assert task.data["curvature"].shape == (10,)
    assert task.constants == tasks.Constants(1.0, 2.0, 0.0)


def test_names_are_what_parse_knows():
    assert tasks.names() == (
        "cifar10",
        "cifar100",
        "digits",
        "logistic",
        "quadratic",
        "text",
        "tfds",
        "tridiagonal",
        "zero_chain",
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("mnist", "unknown task 'mnist'; known: cifar10", id="task"),
        pytest.param("digits(batch=1)", "no argument 'batch'; known: model", id="arg"),
        pytest.param("digits(num_workers=2)", "no argument 'num_workers'", id="fixed"),
        pytest.param("tfds", "'name'", id="missing"),
        pytest.param("digits(model='vgg')", "model: unknown name 'vgg'", id="model"),
        pytest.param("digits(partition='x')", "partition: unknown", id="partition"),
        pytest.param("digits(model=3)", "model must be a name or a call", id="number"),
        pytest.param("digits(batch_size=f(3))", "a whole number", id="a-call-instead"),
        pytest.param("digits(", "expected the form", id="unfinished"),
    ],
)
def test_parse_refuses(text, message):
    with pytest.raises(ValueError, match=message):
        tasks.parse(text, 2)
