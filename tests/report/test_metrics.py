"""The text endpoint, as a client sees it."""

import http.client
import socket
import threading
import time

import pytest
from prometheus_client import parser
from test_live import status, worker

from abs_dssp.report import metrics


@pytest.fixture
def served():
    server = metrics.MetricsServer(0)
    yield server
    server.close()


def ask(port, path="/metrics", method="GET"):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request(method, path)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def samples(text):
    """What Prometheus' own parser reads."""
    return {
        (s.name, tuple(sorted(s.labels.items()))): s.value
        for family in parser.text_string_to_metric_families(text)
        for s in family.samples
    }


def test_the_page_holds_what_the_status_holds(served):
    assert samples(ask(served.port)[1]) == {}  # nothing happened yet
    workers = tuple(worker(i, clock=10 * i, state="left") for i in range(3))
    served.update(status(workers=workers, version=7))
    code, text = ask(served.port)
    found = samples(text)
    assert code == 200
    clocks = {k[1][0][1]: v for k, v in found.items() if "_worker_clock" in k[0]}
    assert clocks == {"0": 0.0, "1": 10.0, "2": 20.0}
    states = {k[1]: v for k, v in found.items() if k[0] == "abs_dssp_worker_state"}
    assert sum(states.values()) == 3  # every worker is in exactly one state
    assert all(states[("state", "left"), ("worker", str(i))] == 1 for i in range(3))
    whole = {k[0]: v for k, v in found.items() if not k[1]}
    assert whole["abs_dssp_commits_total"] == 7
    assert whole["abs_dssp_received_bytes_total"] == 10
    assert whole["abs_dssp_sent_bytes_total"] == 20
    assert whole["abs_dssp_recoveries_total"] == 1


@pytest.mark.parametrize(
    ("path", "method", "code"),
    [
        pytest.param("/metrics?x=1", "GET", 200, id="a-query-is-ignored"),
        pytest.param("/", "GET", 404, id="root"),
        pytest.param("/metrics/more", "GET", 404, id="below"),
        pytest.param("/metrics", "POST", 501, id="not-a-get"),
    ],
)
def test_only_get_metrics_answers(served, path, method, code):
    served.update(status())
    found, text = ask(served.port, path, method)
    assert found == code
    assert ("abs_dssp_pushes_total" in text) == (code == 200)


def test_a_silent_client_neither_blocks_others_nor_outlives_the_server():
    threads = set(threading.enumerate())
    server = metrics.MetricsServer(0)
    server.update(status())
    with socket.create_connection(("127.0.0.1", server.port)) as silent:
        begun = time.monotonic()
        # The server and the silent client's thread.
        while len(set(threading.enumerate()) - threads) < 2:
            assert time.monotonic() - begun < 5
            time.sleep(0.01)
        assert ask(server.port)[0] == 200
        begun = time.monotonic()
        server.close()
        # Well below the time after which a silent client is dropped anyhow.
        assert time.monotonic() - begun < metrics._QUIET / 2
        assert set(threading.enumerate()) <= threads
        assert silent.recv(1) == b""


@pytest.mark.parametrize("port", [-1, 70000])
def test_a_port_that_cannot_be_is_refused_by_name(port):
    with pytest.raises(ValueError, match=f":{port} .*choose another --metrics_port"):
        metrics.MetricsServer(port)


def test_who_starts_processes_again_is_told_whether_to(served, monkeypatch):
    """Ready with the first status; stuck once the run's clock has stood too long."""
    now = time.monotonic()
    monkeypatch.setattr(metrics.time, "monotonic", lambda: now)
    assert ask(served.port, "/healthz") == (200, "ok\n")
    assert ask(served.port, "/readyz") == (503, "does not serve yet\n")
    served.update(status(seconds=0.0))
    now += 1000  # waiting for the first workers is no fault
    served.update(status(seconds=0.0))
    assert ask(served.port, "/readyz") == (200, "ok\n")
    assert ask(served.port, "/healthz") == (200, "ok\n")
    served.update(status(seconds=1.0))
    now += 61
    served.update(status(seconds=1.0))
    why = "the serving thread has done nothing for 61 s\n"
    assert ask(served.port, "/healthz") == (503, why)
    served.update(status(seconds=2.0))
    assert ask(served.port, "/healthz")[0] == 200
