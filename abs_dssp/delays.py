"""How long computations take: models of worker speed."""

from abs_dssp.simulation.delays import (
    BLOCK,
    MODELS,
    Delays,
    abandoned,
    constant,
    exponential,
    lognormal,
    markov,
    pareto,
    parse,
    per_step,
    recorded,
    shifted_exponential,
    table,
    worker_keys,
)

__all__ = [
    "BLOCK",
    "Delays",
    "MODELS",
    "abandoned",
    "constant",
    "exponential",
    "lognormal",
    "markov",
    "pareto",
    "parse",
    "per_step",
    "recorded",
    "shifted_exponential",
    "table",
    "worker_keys",
]
