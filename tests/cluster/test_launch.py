"""Local clusters of toy processes, really launched, and what becomes of them."""

import io
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from abs_dssp.cluster import coordinator
from abs_dssp.cluster.launcher import launch, supervise
from abs_dssp.cluster.lines import as_json

ROOT = Path(__file__).parents[2]
TOY = str(Path(__file__).with_name("toy.py"))


def run(*acts, processes=2, **options):
    """Exit status and lines of a toy cluster."""
    stream = io.StringIO()
    options = {"grace_seconds": 5.0, "stream": stream} | options
    status = launch.run([sys.executable, TOY, *acts], processes, **options)
    return status, stream.getvalue().splitlines()


def start(*acts, options=("--processes=2",), **popen):
    """A launcher in a process of its own."""
    command = [sys.executable, "-m", "abs_dssp.cluster.launcher", *options, "--"]
    popen = {"stderr": subprocess.PIPE, "text": True} | popen
    return subprocess.Popen([*command, TOY, *acts], cwd=ROOT, **popen)


def until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def family(launcher, folder, processes=2):
    """Every process of a running launcher, once its toys have written their numbers."""
    until(lambda: len(list(folder.glob("pid*"))) == processes)
    found = [launcher.pid]
    found += [p.pid for p in psutil.Process(launcher.pid).children(recursive=True)]
    assert {int(p.read_text()) for p in folder.glob("pid*")} < set(found)
    assert len(found) == processes + 2  # the coordinator too
    return found


def gone(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_every_line_has_the_name_of_its_process():
    status, lines = run("say a;complain b;type c", "say d\t")
    assert status == 0
    assert [line for line in lines if line.startswith("[process 0]")] == [
        "[process 0] a",
        "[process 0] b",
        "[process 0] c",
    ]
    assert "[process 1] d\t" in lines and len(lines) == 4


def test_lines_of_json_say_which_process_and_are_not_wrapped_twice():
    own = as_json("its own", 7, 0.0, 1.5)
    status, shown = run(f"say a;say {own};exit 3", processes=1, log_format="json")
    found = [json.loads(line) for line in shown]
    assert status == 3 and shown[1] == own
    said = [(line["process"], line["message"]) for line in found]
    assert said[:2] == [(0, "a"), (7, "its own")]
    assert said[2][0] == "launch" and found[2]["level"] == "warning"
    assert said[2][1].startswith("process 0 failed with exit status 3; its last lines")


def test_a_progress_bar_is_shown_as_it_stands_at_the_end_of_its_line():
    assert run("type 10%\r50%\r100%\r\n;type x\ry", processes=1) == (
        0,
        ["[process 0] 100%", "[process 0] y"],
    )


def test_long_output_arrives_whole(tmp_path):
    line = "x" * 99
    (tmp_path / "print.py").write_text(f"print(('{line}' + chr(10)) * 20000, end='')")
    stream = io.StringIO()
    command = [sys.executable, str(tmp_path / "print.py")]
    assert launch.run(command, 1, stream=stream) == 0
    assert stream.getvalue() == f"[process 0] {line}\n" * 20000


def test_what_a_process_wrote_last_is_shown_though_it_has_ended(monkeypatch):
    wait = lambda cluster, seconds: time.sleep(seconds)  # noqa: E731
    monkeypatch.setattr(supervise.Cluster, "_show", wait)
    assert run("say a;type b", processes=1) == (0, ["[process 0] a", "[process 0] b"])


def test_the_flags_of_a_process_follow_its_own(tmp_path):
    status, lines = run("argv", out=tmp_path)
    assert status == 0
    pattern = re.compile(
        r"\[process (\d)\] argv --coordinator_apart --key_file=(\S+) "
        r"--coordinator_address=127\.0\.0\.1:(\d+) --num_processes=2 --process_id=(\d)"
    )
    found = sorted(pattern.fullmatch(line).groups() for line in lines)
    assert [(name, index) for name, _, _, index in found] == [("0", "0"), ("1", "1")]
    assert {key for _, key, _, _ in found} == {str(tmp_path / "cluster.key")}
    assert len({port for _, _, port, _ in found}) == 1


def test_the_environment_of_a_process(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", f"--xla_a=1 {launch._DEVICES}=8 --xla_b=2")
    monkeypatch.setenv("http_proxy", "http://proxy.invalid:3128")
    monkeypatch.setenv("no_proxy", "example.org")
    monkeypatch.delenv("no_grpc_proxy", raising=False)
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    _, lines = run(
        "environ XLA_FLAGS;environ PYTHONUNBUFFERED;environ no_proxy",
        processes=1,
        devices_per_process=3,
    )
    assert [line.removeprefix("[process 0] ") for line in lines] == [
        f"--xla_a=1 --xla_b=2 {launch._DEVICES}=3",
        "1",
        "example.org,127.0.0.1",  # gRPC would look for loopback behind the proxy
    ]


def test_the_first_failure_is_told_and_its_status_returned():
    status, lines = run("sleep 60", "sleep 60", "say cause;exit 3", processes=3)
    assert status == 3
    assert lines == [
        "[process 2] cause",
        "[launch] process 2 failed with exit status 3; its last lines were:",
        "    cause",
    ]


def test_a_failed_process_is_not_started_again():
    status, lines = run("exit 4", processes=1)
    assert status == 4
    assert lines == ["[launch] process 0 failed with exit status 4; it wrote nothing."]


def test_a_process_with_a_python_error_shows_its_reason():
    status, lines = run("sleep 60", "sing")
    assert status == 1 and lines[-1] == "    ValueError: toy: unknown act 'sing'."


@pytest.mark.parametrize("index", [0, 1])
def test_a_crashed_process_comes_back_under_its_index(index, tmp_path):
    acts = ["say up", "say up"]
    acts[index] += f";crash {tmp_path / 'crashed'};touch {tmp_path / 'back'}"
    acts[1 - index] += f";await {tmp_path / 'back'}"
    status, lines = run(*acts)
    assert status == 0
    assert lines.count(f"[process {index}] up") == 2
    assert lines.count(f"[process {1 - index}] up") == 1
    again = "started again, restart 1 of at most 3."
    assert f"[launch] process {index} was killed by SIGKILL; {again}" in lines


@pytest.mark.parametrize("most", [0, 2])
def test_crashes_beyond_the_limit_are_a_failure(most):
    status, lines = run("sleep 60", "say up;die SIGSEGV", max_restarts=most)
    assert status == 128 + signal.SIGSEGV
    assert lines.count("[process 1] up") == most + 1
    when = " after 2 restarts" if most else ""
    assert f"process 1 was killed by SIGSEGV{when}; its last" in lines[-2]


def test_the_others_have_time_to_end_after_process_0():
    status, lines = run("say done", "sleep 0.5;say done too")
    assert status == 0
    assert lines == ["[process 0] done", "[process 1] done too"]


def test_a_crash_after_the_end_of_process_0_is_a_failure():
    status, lines = run("exit 0", "sleep 1;die SIGABRT")
    assert status == 128 + signal.SIGABRT
    assert lines == [
        "[launch] process 1 was killed by SIGABRT after process 0 had ended; "
        "it wrote nothing."
    ]


def test_who_stays_after_process_0_is_ended_without_a_failure():
    status, lines = run("say done", "polite;say up;sleep 60", grace_seconds=1.0)
    assert status == 0
    assert lines[-2:] == [
        "[launch] process 0 has ended; ended process 1 too, after 1 s.",
        "[process 1] goodbye",
    ]


def test_the_deaf_and_the_stopped_are_killed_after_the_grace_period():
    begin = time.monotonic()
    acts = ("deaf;sleep 60", "deaf;stop;sleep 60", "sleep 0.5;exit 5")
    status, _ = run(*acts, processes=3, grace_seconds=1.0)
    assert status == 5
    assert 1.4 < time.monotonic() - begin < 10


def test_a_stopped_process_is_woken_to_end():
    begin = time.monotonic()
    status, lines = run("polite;stop;sleep 60", "sleep 0.5;exit 5", grace_seconds=30)
    assert status == 5 and "[process 0] goodbye" in lines
    assert time.monotonic() - begin < 15


def test_the_helpers_of_an_ended_process_end_with_it(tmp_path):
    file = tmp_path / "helper"
    status, _ = run(f"helper {file};say done", processes=1)
    assert status == 0
    until(lambda: gone(int(file.read_text())))


def test_logs_hold_all_output_also_of_later_lives(tmp_path):
    crash = f"say a;crash {tmp_path / 'crashed'}"
    status, lines = run(crash, "say b", logs=tmp_path / "logs")
    assert status == 0 and lines.count("[process 0] a") == 2
    assert (tmp_path / "logs" / "process0.log").read_text() == "a\na\n"
    assert (tmp_path / "logs" / "process1.log").read_text() == "b\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_ends_the_log_and_not_the_run(tmp_path):
    (tmp_path / "process0.log").symlink_to("/dev/full")
    status, lines = run("say a;sleep 0.2;say b", processes=1, logs=tmp_path)
    assert status == 0
    assert "[process 0] a" in lines and "[process 0] b" in lines
    assert "process0.log ends here: No space left on device" in "".join(lines)
    assert len(lines) == 3  # told once


def test_on_a_terminal_process_0_has_it_to_itself(tmp_path):
    leader, follower = pty.openpty()
    done = tmp_path / "done"
    acts = (f"tty;say free;touch {done}", f"await {done};tty")
    options = ["--processes=2", f"--logs={tmp_path / 'logs'}"]
    launcher = start(*acts, options=options, stdout=follower, stderr=follower)
    os.close(follower)
    shown = b""
    try:
        while piece := os.read(leader, 4096):
            shown += piece
    except OSError:  # EIO: nobody has the terminal open any more
        pass
    os.close(leader)
    assert launcher.wait(20) == 0
    assert shown.decode() == "True\r\nfree\r\n[process 1] False\r\n"
    (log,) = (tmp_path / "logs").iterdir()
    assert log.name == "process1.log" and log.read_text() == "False\n"


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_a_signal_ends_all_and_leaves_nothing_behind(number, status, tmp_path):
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    launcher = start(
        f"polite;up {tmp_path};sleep 60",
        f"up {tmp_path};sleep 60",
        env=os.environ | {"TMPDIR": str(temporary)},
    )
    found = family(launcher, tmp_path)
    assert len(list(temporary.iterdir())) == 1  # the key
    launcher.send_signal(number)
    _, errors = launcher.communicate(timeout=20)
    assert launcher.returncode == status
    assert f"{number.name}: ending all processes" in errors
    assert "[process 0] goodbye" in errors
    assert all(gone(pid) for pid in found)
    assert not list(temporary.iterdir())


def test_a_second_interrupt_kills_at_once(tmp_path):
    options = ["--processes=2", "--grace_seconds=60"]
    launcher = start(f"deaf;up {tmp_path};sleep 60", options=options)
    found = family(launcher, tmp_path)
    launcher.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert launcher.poll() is None
    launcher.send_signal(signal.SIGINT)
    _, errors = launcher.communicate(timeout=10)
    assert launcher.returncode == 130 and "did not end" not in errors
    assert all(gone(pid) for pid in found)


@pytest.mark.skipif(sys.platform != "linux", reason="needs prctl")
def test_a_killed_launcher_leaves_nothing_behind(tmp_path):
    launcher = start(f"deaf;up {tmp_path};sleep 60")
    found = family(launcher, tmp_path)
    launcher.kill()
    launcher.communicate(timeout=10)
    until(lambda: all(gone(pid) for pid in found), seconds=5)


def test_a_launcher_whose_output_goes_nowhere_ends(tmp_path):
    launcher = start(f"up {tmp_path};say a;await {tmp_path / 'go'};say b;sleep 60")
    found = family(launcher, tmp_path)
    launcher.stderr.close()
    (tmp_path / "go").touch()
    launcher.wait(20)
    assert launcher.returncode != 0
    assert all(gone(pid) for pid in found)


def test_the_coordinators_death_ends_all(tmp_path):
    launcher = start(f"up {tmp_path};sleep 60")
    found = family(launcher, tmp_path)
    toys = {int(p.read_text()) for p in tmp_path.glob("pid*")}
    (victim,) = set(found) - toys - {launcher.pid}
    os.kill(victim, signal.SIGKILL)
    _, errors = launcher.communicate(timeout=20)
    assert launcher.returncode == 1
    assert "the coordinator was killed by SIGKILL; no process can go on" in errors
    assert all(gone(pid) for pid in found)


def test_a_taken_port_is_told_and_nothing_started():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        status, lines = run("say up", port=port)
    assert status == 1
    assert lines == [
        f"[launch] no coordinator: the coordinator cannot bind 127.0.0.1:{port} "
        "(Address already in use); choose another port, or end the program that holds "
        "this one."
    ]


@pytest.mark.parametrize("port", [0, None])
def test_two_coordinators_do_not_share_a_port(port):
    if port is None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
    program = [sys.executable, coordinator.__file__]
    program += ["--num_processes=1", "--end_with_stdin"]
    command = [*program, f"--bind=127.0.0.1:{port}"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as first:
        address = first.stdout.readline().removeprefix("ready at ").strip()
        socket.create_connection(address.split(":")).close()
        command = [*program, f"--bind={address}"]
        second = subprocess.run(command, input="", capture_output=True, text=True)
        assert second.returncode == 1
        assert re.fullmatch(r"error: the coordinator cannot bind .*\n", second.stderr)
        first.stdin.close()
        assert first.wait(5) == 0


def test_a_jax_without_the_service_is_told(monkeypatch):
    from jaxlib import _jax

    monkeypatch.delattr(_jax, "get_distributed_runtime_service")
    with pytest.raises(RuntimeError, match="cannot host the coordination service"):
        coordinator.serve("127.0.0.1:0", 1)


@pytest.mark.parametrize("bind", ["1234", "127.0.0.1:", "127.0.0.1:x", "h:70000"])
def test_a_wrong_address_is_refused(bind):
    with pytest.raises(ValueError, match=f"HOST:PORT .*, got '{bind}'"):
        coordinator.serve(bind, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"processes": 0}, "processes must be at least 1, got 0"),
        pytest.param({"devices_per_process": 0}, "devices_per_process must be"),
        pytest.param({"max_restarts": -1}, "max_restarts must be at least 0, got -1"),
        pytest.param({"grace_seconds": -1.0}, "grace_seconds must be at least 0"),
        pytest.param({"port": 70000}, "port must be in 1..65535, got 70000"),
        pytest.param({"key_file": "/missing"}, "key file '/missing' does not exist"),
        pytest.param({"command": []}, "no program to run"),
        pytest.param({"command": ["/missing"]}, "no program to run, got .'/missing'"),
        pytest.param({"command": ["true", "--process_id=1"]}, "--process_id is the"),
        pytest.param({"command": ["true", "--key_file=/gone"]}, "'/gone' does not"),
    ],
)
def test_mistakes_are_refused_before_anything_starts(options, message):
    arguments = {"command": ["true"], "processes": 1} | options
    with pytest.raises(ValueError, match=message):
        launch.run(**arguments)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(["--processes=0", "--", TOY], "processes must be at least 1"),
        pytest.param(["--processes=x", "--", TOY], "invalid int value: 'x'"),
        pytest.param(["--processes=1", "--", "gone.py"], "no script 'gone.py' in"),
        pytest.param(["--processes=1", TOY], "unrecognized arguments"),
        pytest.param(["--processes=1"], "put it and its flags after --"),
        pytest.param(["--", TOY], "required: --processes"),
    ],
)
def test_mistakes_on_the_command_line_get_a_sentence(words, message, capsys):
    try:
        status = launch.main(words)
    except SystemExit as end:
        status = end.code
    assert status in (1, 2)
    assert message in capsys.readouterr().err


def test_the_key_of_an_earlier_run_in_the_same_folder_is_used_again(tmp_path):
    assert run("say a", processes=1, out=tmp_path / "out")[0] == 0
    made = (tmp_path / "out" / "cluster.key").read_text()
    assert run("say a", processes=1, out=tmp_path / "out")[0] == 0
    assert (tmp_path / "out" / "cluster.key").read_text() == made


def test_the_launcher_starts_without_jax():
    program = (
        "import sys; from abs_dssp.cluster.launcher import launch; "
        "sys.exit(str({'jax', 'numpy', 'cryptography'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True
    )
    assert result.stderr == "set()\n"


def test_process_0_of_jax_distributed_dies_and_comes_back(tmp_path):
    stream = io.StringIO()
    program = str(Path(__file__).with_name("toy_distributed.py"))
    command = [sys.executable, program, f"--crashed={tmp_path / 'crashed'}"]
    status = launch.run(command, 2, stream=stream)
    shown = stream.getvalue()
    assert status == 0, shown
    assert "process 0 was killed by SIGKILL; started again" in shown
    assert "[process 0] back, and seen\n" in shown
    assert "[process 1] saw life 2\n" in shown
