"""Strict JAX on CPU with eight devices, before anything touches a backend."""

import collections
import os
import tempfile

from scripts import QUICK

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
# Most of a cold run is compilation, of programs that then run for milliseconds. Without
# optimisation they round elsewhere, so what must agree bit for bit is tried in another
# way than users see it: ABS_DSSP_OPTIMIZED=1 runs the suite at XLA's own level.
if not os.environ.get("ABS_DSSP_OPTIMIZED"):
    os.environ["XLA_FLAGS"] += QUICK

# Each program is compiled once for all processes: those of a parallel run, and the
# experiments and clusters that tests start, which inherit the environment.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", os.path.join(tempfile.gettempdir(), "abs_dssp-xla")
)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import jax  # noqa: E402
import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

from abs_dssp import compilation  # noqa: E402

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


# Files that take longest: begun last, they would keep one core alone busy at the end.
_LONGEST = (
    *("test_smoke", "test_verify", "test_schedule", "test_policies", "test_simulate"),
    *("test_replay", "test_chaos", "test_experiments", "test_whatif", "test_recovery"),
)


@pytest.hookimpl(tryfirst=True)  # before slow tests are left out
def pytest_collection_modifyitems(config, items):
    """Sorts the files, see `scripts/test`; the order within each stays."""
    seen = collections.Counter()
    for item in items:
        for mark in () if "slow" in item.keywords else item.iter_markers("often"):
            seen[item.function] += 1
            if seen[item.function] > mark.args[0]:
                item.add_marker(pytest.mark.slow)
    if not config.getoption("jaxtyping_packages"):
        untyped = pytest.mark.skip(reason="types are not checked in this run")
        for item in items:
            if "typed" in item.keywords:
                item.add_marker(untyped)
    rank = {name: number for number, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


def pytest_runtest_logfinish(nodeid, location):
    del nodeid, location
    global _finished
    _finished += 1
    if _finished % 20 == 0:
        compilation.release_programs()


_finished = 0

settings.register_profile("default", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("default")
