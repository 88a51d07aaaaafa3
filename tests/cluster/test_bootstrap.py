"""What the environment says of a cluster."""

import os
import socket
import subprocess
import sys

import pytest

from abs_dssp.cluster import bootstrap
from scripts import ROOT

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


MEMBER = """
import sys, time
import jax
from abs_dssp.cluster import bootstrap
jax.config.update("jax_platforms", "cpu")
index, port, seconds = int(sys.argv[1]), sys.argv[2], float(sys.argv[3])
bootstrap.join(f"127.0.0.1:{port}", 2, index)
if index == 0:
    bootstrap.publish({})
else:
    assert bootstrap.lookup(10.0) == {}
time.sleep(seconds)
bootstrap.leave()
"""


def test_who_is_still_there_when_process_0_leaves_is_not_aborted():
    """It hosts the service, at whose end jax ends everybody who is connected."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", MEMBER, str(index), str(port), str(seconds)],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for index, seconds in ((0, 0.0), (1, 1.5))
    ]
    said = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
