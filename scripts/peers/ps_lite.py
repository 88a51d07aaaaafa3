"""ps-lite alone: ps_lite.cc, a server of one vector and its workers over TCP.

PS_LITE_ROOT has include/ps/ps.h and lib/libps.a; libzmq is the system's. A round trip
is ZPush, then ZPull of the vector as one key, and one wait, for the pull: there is no
push with an answer, and waiting for the push as well takes up to twice as long.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import common

SOURCE = Path(__file__).with_suffix(".cc")


def built(root: Path) -> Path:
    """The program, compiled anew when it is older than what it is made of."""
    library, program = root / "lib/libps.a", root / "bin/abs_dssp_peer"
    if not library.exists() or not shutil.which("c++"):
        sys.exit(2)
    made_of = max(SOURCE.stat().st_mtime, library.stat().st_mtime)
    if not program.exists() or program.stat().st_mtime < made_of:
        program.parent.mkdir(exist_ok=True)
        subprocess.run(
            ["c++", "-std=c++17", "-O3", "-march=native", f"-I{root / 'include'}",
             SOURCE, library, "-lzmq", "-pthread", "-o", program],
            check=True,
        )  # fmt: skip
    return program


def main() -> None:
    given = common.arguments()
    if "PS_LITE_ROOT" not in os.environ:
        sys.exit(2)
    program = built(Path(os.environ["PS_LITE_ROOT"]))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = os.environ | {
        "DMLC_PS_ROOT_URI": "127.0.0.1",
        "DMLC_PS_ROOT_PORT": str(port),
        "DMLC_NUM_SERVER": "1",
        "DMLC_NUM_WORKER": str(given.workers),
        "DMLC_NODE_HOST": "127.0.0.1",
    }
    command = [str(program), str(given.bytes), str(given.seconds), str(common.RATE)]
    roles = ("scheduler", "server", *["worker"] * given.workers)
    processes = [
        subprocess.Popen(
            command, env=shared | {"DMLC_ROLE": role}, stdout=subprocess.PIPE
        )
        for role in roles
    ]
    try:
        said = [
            process.communicate(timeout=60 + given.seconds)[0] for process in processes
        ]
    finally:
        for process in processes:
            process.kill()
    if any(process.returncode for process in processes):
        sys.exit(1)
    common.answer([json.loads(line) for line in said[2:]], given.seconds)


if __name__ == "__main__":
    main()
