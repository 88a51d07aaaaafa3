"""Evaluates the expressions on its standard input, as a user's script would.

Answers with what each one raised, as JSON: kind, sentence, and whether this package
raised it. Types are not checked here, other than by the functions themselves.
"""

import json
import sys
import traceback

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import optax

from abs_dssp import (
    communication,
    delays,
    optimizers,
    plot,
    policies,
    replay,
    simulate,
    tasks,
    whatif,
)

POLICY = policies.ssp(4, s=3)
DELAYS = delays.constant([1, 1, 1, 2.7])
TASK = tasks.quadratic(4, dim=3, noise=0.0)
SGD = optimizers.sgd(0.1)
TRACE = simulate.schedule(POLICY, DELAYS, 20)
RESULT = replay.replay(TASK, SGD, TRACE)
HISTORY = RESULT.history
XY = np.ones((20, 3)), np.zeros(20, int)


def rule(answer=None, state=(), **parts):
    """A policy of one's own, like `asp` but for some parts of its decision."""

    def decide(state, clocks, worker, now):
        given = {
            "weight": jnp.float32(1),
            "commit": jnp.bool_(True),
            "release": policies.only(worker, 4),
            "restart": jnp.zeros(4, bool),
        }
        decision = policies.Decision(**given | parts)
        return (state, decision) if answer is None else answer(state, clocks, decision)

    return policies.Policy(lambda: state, decide, decide)


def stuck():
    return simulate.train(TASK, POLICY, delays.constant(0, 4), SGD, until_seconds=1.0)


def raised(expression):
    try:
        eval(expression)
    except Exception as error:
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        module = frame.f_globals.get("__name__", "")
        return [type(error).__name__, str(error), module.startswith("abs_dssp")]
    return ["nothing", "", False]


if __name__ == "__main__":
    assert optax and whatif and communication and nn and plot
    print(json.dumps([raised(each) for each in json.load(sys.stdin)]))
