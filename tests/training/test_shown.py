"""What is shown of the objects that a user holds: one short line each."""

import pytest

from abs_dssp import delays, optimizers, policies, simulate, tasks


@pytest.fixture(scope="module")
def result():
    model = delays.constant([1.0, 2.0])
    task = tasks.quadratic(2, dim=3, noise=0.0)
    return simulate.train(task, policies.bsp(2), model, optimizers.sgd(0.5), 40)


def test_a_line_for_each(result):
    trace = "<Trace bsp(): 40 pushes, 20 commits, 2 workers, 40 s>"
    assert repr(result.trace) == trace
    assert repr(policies.dssp(4, s_upper=8)) == "<Policy dssp(s_upper=8)>"
    assert repr(tasks.digits(2)).startswith("<Task digits/mlp: 2 workers, batches of")
    assert repr(delays.constant([1.0, 2.0])) == "<Delays constant(seconds=[1.0, 2.0])>"
    assert len(repr(delays.constant([1.0] * 500))) < 100
    names = "push, version, seconds, epoch, gradient_norm_squared, loss"
    assert repr(result.history) == f"<History: 2 records of {names}>"
    shown = repr(result)
    assert shown.startswith(f"<Result of {trace}: end; push 40, version 20, seconds 40")


def test_tables_of_records_and_pushes(result):
    table = result.history.to_pandas()
    assert table["version"].tolist() == [0, 20]
    pushes = result.trace.to_pandas()
    assert len(pushes) == 40 and pushes["committed"].sum() == 20
