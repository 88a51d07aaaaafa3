"""What the environment says of a cluster."""

import pytest

from abs_dssp.cluster import bootstrap

KUBEFLOW = {
    "JAX_COORDINATOR_ADDRESS": "abs-dssp-node-0-0.abs-dssp:6666",
    "JAX_NUM_PROCESSES": "4",
    "JAX_PROCESS_ID": "2",
    "PATH": "/bin",
}


def test_what_kubeflow_says_is_taken_whole_or_not_at_all():
    assert bootstrap.given(KUBEFLOW) == {
        "coordinator_address": "abs-dssp-node-0-0.abs-dssp:6666",
        "num_processes": 4,
        "process_id": 2,
    }
    for name in KUBEFLOW:
        if name != "PATH":
            rest = {k: v for k, v in KUBEFLOW.items() if k != name}
            assert bootstrap.given(rest) == {}


def test_a_number_that_is_none_gets_a_sentence():
    with pytest.raises(ValueError, match="JAX_PROCESS_ID must be a whole number, got"):
        bootstrap.given(KUBEFLOW | {"JAX_PROCESS_ID": "two"})
