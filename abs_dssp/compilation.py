"""XLA's settings, and what its programs take up."""

import functools
import gc
from typing import Any

import jax


@functools.cache
def many_small_operations() -> dict[str, Any] | None:
    """For programs of many tiny operations; None where XLA has no such settings.

    On a CPU, ordering the operations for memory instead of concurrency keeps them on
    one thread, and region analysis copies fewer loop variables: the event loop is 1.1
    to 1.7 times as fast, a single decision twice.
    """
    return _known(
        xla_cpu_scheduler_type="CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
        xla_cpu_copy_insertion_use_region_analysis=True,
    )


@functools.cache
def on_one_thread() -> dict[str, Any] | None:
    """For programs of some microseconds; None where XLA has no such setting.

    XLA divides a loop over 256 KiB or more between threads. Where other processes keep
    the cores busy, waiting for the other thread takes longer than its part.
    """
    return _known(xla_disable_hlo_passes="cpu-parallel-task-assigner")


def _known(**options: Any) -> dict[str, Any] | None:
    """The options, if this is a CPU and its XLA takes them."""
    if jax.default_backend() != "cpu":
        return None
    try:
        jax.jit(lambda x: x, compiler_options=options).lower(0).compile()
    except jax.errors.JaxRuntimeError:  # another version of XLA
        return None
    return options


def compute_in_the_calling_thread() -> None:
    """For a server and its workers: no hand-over between threads for a small program.

    A CPU device then computes while its caller waits, which for a program of some
    microseconds is faster by more than it takes. To be called before a device is used.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", False)


def release_programs(above: int = 25_000) -> bool:
    """Forgets compiled programs before they use up the memory maps of the process.

    Linux gives a process 65,530 of them; XLA's compiler crashes where it gets no more.
    To be called between pieces of work that compile programs of many shapes.

    Args:
      above: maps up to which nothing happens.

    Returns:
      Whether programs were forgotten.
    """
    try:
        with open("/proc/self/maps") as maps:
            count = sum(1 for _ in maps)
    except OSError:  # another system
        return False
    if count <= above:
        return False
    jax.clear_caches()
    gc.collect()
    return True
