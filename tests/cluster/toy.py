"""A process of a toy cluster: does what the argument of its index says.

    toy.py "say hello;exit 3" "sleep 60" --process_id=1 ...

Process i does the i-th argument, or the last one; actions are separated by ";".
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

flags = dict(word[2:].split("=") for word in sys.argv[1:] if "=" in word)
acts = [word for word in sys.argv[1:] if not word.startswith("--")]
index = int(flags["process_id"])
for act in acts[min(index, len(acts) - 1)].split(";"):
    verb, _, value = act.partition(" ")
    if verb == "say":
        print(value)
    elif verb == "complain":
        print(value, file=sys.stderr)
    elif verb == "type":  # no end of line
        sys.stdout.write(value)
    elif verb == "argv":
        print(" ".join(sys.argv[1:]))
    elif verb == "environ":
        print(os.environ.get(value))
    elif verb == "tty":
        print(sys.stdout.isatty())
    elif verb == "sleep":
        time.sleep(float(value))
    elif verb == "exit":
        sys.exit(int(value))
    elif verb == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    elif verb == "polite":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(print("goodbye") or 0))
    elif verb == "die":
        os.kill(os.getpid(), getattr(signal, value))
    elif verb == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif verb == "crash":  # in the first life only
        if not Path(value).exists():
            Path(value).touch()
            os.kill(os.getpid(), signal.SIGKILL)
    elif verb == "touch":
        Path(value).touch()
    elif verb == "helper":  # outlives this process unless somebody ends it
        helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        Path(value).write_text(str(helper.pid))
    elif verb == "up":  # tells the test its number, whole or not at all
        part = Path(value) / f"part{index}"
        part.write_text(str(os.getpid()))
        part.rename(Path(value) / f"pid{index}")
    elif verb == "await":
        while not Path(value).exists():
            time.sleep(0.01)
    else:
        raise ValueError(f"toy: unknown act {act!r}.")
