"""Processes that each make whole runs, with programs that all of them share."""

import concurrent.futures
import multiprocessing
import os
import signal
import threading
from pathlib import Path

import jax


def start(processes: int, programs: Path) -> concurrent.futures.ProcessPoolExecutor:
    """A pool of processes on the CPU, which end with this one.

    Args:
      processes: how many; each takes one core where there are several.
      programs: folder of compiled programs, which later calls find too.
    """
    context = multiprocessing.get_context("spawn")
    return concurrent.futures.ProcessPoolExecutor(
        processes, context, _begin, (str(programs),)
    )


def share_programs(programs: Path | str) -> None:
    """Lets processes, and later calls, find each other's compiled programs."""
    jax.config.update("jax_compilation_cache_dir", str(programs))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def _begin(programs: str) -> None:
    """Prepares a process before it touches a device."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    jax.config.update("jax_platforms", "cpu")
    share_programs(programs)
    # A process per core: threads of one would only slow down another.
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false"


def _end_with_parent() -> None:
    """A killed parent closes no pool, whose processes would wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
