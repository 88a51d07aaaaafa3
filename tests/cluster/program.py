"""A program for tests that kill it: trains, or serves by hand, in this process.

program.py train OUT POLICY PUSHES SECONDS_PER_STEP [kept | divided]
program.py serve OUT POLICY
"""

import dataclasses
import json
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import harness  # noqa: E402
import jax  # noqa: E402

from abs_dssp import delays  # noqa: E402
from abs_dssp.training import checkpoints  # noqa: E402

# Long enough for a start on a busy machine.
SETTINGS = dataclasses.replace(harness.QUICK, empty=60.0, lease=20.0)


def main(role: str, out: str, text: str, *more: str) -> None:
    folder = Path(out)
    if role == "train":
        pushes, seconds = int(more[0]), float(more[1])
        pace = delays.shifted_exponential([seconds] * 3 + [2.7 * seconds], seconds / 5)
        settings = {"settings": SETTINGS, "pace": pace}
        if more[2:] == ("kept",):
            settings |= harness.KEPT
        if more[2:] == ("divided",):
            task = harness.divisible(4)
            settings |= {"problem": task, "devices_per_worker": 2}
        harness.train(folder, text, pushes=pushes, **settings)
        return
    store = checkpoints.Store(folder / "checkpoints", "by hand")
    serving = harness.Serving(folder, text, settings=SETTINGS, store=store)
    print(json.dumps(serving.server.address), flush=True)
    serving.server.serve()


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    main(*sys.argv[1:])
