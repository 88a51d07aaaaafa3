"""The rules: who pushes into which commit, who runs, who waits, who starts again.

A constructor takes `num_workers` and the rule's own arguments and returns a `Policy`.
`parse` reads the form that flags use. To add a rule, see WORKSPACE.md.
"""

import functools
from collections.abc import Callable
from typing import Any

from abs_dssp import checks, literals
from abs_dssp.policies._abs_dssp import abs_dssp
from abs_dssp.policies._adaptive_bounded_staleness import (
    adaptive_bounded_staleness,
    loss_growth,
    rounds_growth,
)
from abs_dssp.policies._adasync import adasync, sa_adasync
from abs_dssp.policies._asp import asp
from abs_dssp.policies._bsp import bsp, local_sgd
from abs_dssp.policies._deadline import deadline
from abs_dssp.policies._dssp import controller, dssp
from abs_dssp.policies._growing import growing
from abs_dssp.policies._k_async import k_async, k_batch_async
from abs_dssp.policies._k_sync import k_batch_sync, k_sync, m_sync
from abs_dssp.policies._malenia import malenia
from abs_dssp.policies._mindflayer import mindflayer
from abs_dssp.policies._quorum import quorum
from abs_dssp.policies._rennala import rennala
from abs_dssp.policies._rescaled import rescaled
from abs_dssp.policies._ringleader import ringleader
from abs_dssp.policies._ringmaster import ringmaster
from abs_dssp.policies._ssp import ssp
from abs_dssp.policies._switch import switch, sync_switch
from abs_dssp.policies._zipline import zipline
from abs_dssp.policies.analysis import fields_read, initial_clocks, reads_loss
from abs_dssp.policies.answers import ask, require_fit
from abs_dssp.policies.base import (
    Clocks,
    Decision,
    Policy,
    Properties,
    State,
    constructor,
    describe,
    gap,
    only,
    workers,
)
from abs_dssp.policies.federated import fedasync, fedbuff
from abs_dssp.policies.weighting import (
    constant,
    inverse,
    koloskova,
    mishchenko,
    polynomial,
    weighted,
)

_RULES: dict[str, Callable[..., Policy]] = {
    "abs": adaptive_bounded_staleness,
    "abs_dssp": abs_dssp,
    "adasync": adasync,
    "asp": asp,
    "bsp": bsp,
    "deadline": deadline,
    "dssp": dssp,
    "fedasync": fedasync,
    "fedbuff": fedbuff,
    "k_async": k_async,
    "k_batch_async": k_batch_async,
    "k_batch_sync": k_batch_sync,
    "k_sync": k_sync,
    "local_sgd": local_sgd,
    "m_sync": m_sync,
    "malenia": malenia,
    "mindflayer": mindflayer,
    "quorum": quorum,
    "rennala": rennala,
    "rescaled": rescaled,
    "ringleader": ringleader,
    "ringmaster": ringmaster,
    "sa_adasync": sa_adasync,
    "ssp": ssp,
    "sync_switch": sync_switch,
    "zipline": zipline,
}
_COMBINATORS: dict[str, Callable[..., Policy]] = {
    "growing": growing,
    "switch": switch,
    "weighted": weighted,
}
# The text's name; left out of __all__, since it would hide Python's own.
abs = adaptive_bounded_staleness
_ALIASES = {adaptive_bounded_staleness.__name__: adaptive_bounded_staleness}
_WEIGHTINGS: dict[str, Callable[..., Any]] = {
    "constant": constant,
    "inverse": inverse,
    "koloskova": koloskova,
    "mishchenko": mishchenko,
    "polynomial": polynomial,
}

# Beside what `parse` knows by name.
__all__ = [
    "Clocks",
    "Decision",
    "Policy",
    "Properties",
    "State",
    "gap",
    "only",
    "constructor",
]
__all__ += [
    "ask",
    "describe",
    "fields_read",
    "initial_clocks",
    "reads_loss",
    "names",
    "parse",
    "require_fit",
    "resolve",
    "rule",
    "workers",
]
__all__ += ["controller", "loss_growth", "rounds_growth"]
__all__ += [made.__name__ for made in (_RULES | _COMBINATORS | _WEIGHTINGS).values()]


def names() -> tuple[str, ...]:
    """The names of the rules, as `parse` reads them, in alphabetical order."""
    return tuple(sorted(_RULES))


def rule(name: str) -> Callable[..., Policy]:
    """The constructor that `parse` knows by `name`, one of `names()`.

    Raises:
      ValueError: for another name.
    """
    if name not in _RULES:
        known = ", ".join(names())
        raise ValueError(f"policies.rule: unknown name {name!r}; known: {known}.")
    return _RULES[name]


def parse(text: str, num_workers: int) -> Policy:
    """The policy that `text` describes.

    Args:
      text: a call with literal arguments, such as `"dssp(s_lower=3,s_upper=15)"`;
        brackets may be left out where there are none: `"bsp"`. Combinators take calls:
        `"weighted(asp(), inverse())"`, `"switch(bsp(), asp(), at=100)"`. A rule or
        weighting of one's own is named with its module, also inside a combinator:
        `"my_rules:patient(s=3)"`.
      num_workers: number of workers N.

    Returns:
      A `Policy`; the same text gives the same object.

    Raises:
      ValueError: for an unknown name or argument (the known ones are listed), for
        anything that is not a literal, and for what the constructor itself refuses.

    Example:
      >>> policies.parse("ssp(s=3)", num_workers=4).properties.max_gap
      3
    """
    where = "policies.parse"
    checks.text(where, text, "'ssp(s=3)'")
    num_workers = checks.whole(where, "num_workers", num_workers, least=1)
    known: dict[str, Callable[..., Any]] = {**_RULES, **_COMBINATORS, **_WEIGHTINGS}
    call = literals.parse_call(text, where)
    known |= {name: made for name, made in _ALIASES.items() if name == call.name}
    for name in {inner.name for inner in literals.calls(call) if ":" in inner.name}:
        known[name] = _load(name, where)
    policy = literals.build(call, where, known, num_workers=num_workers)
    if not isinstance(policy, Policy):
        raise ValueError(
            f"{where}: {text!r} is not a policy; known: {', '.join(names())}."
        )
    return policy


def resolve(
    policy: Policy | str, num_workers: int, where: str = "policies.resolve"
) -> Policy:
    """A policy, or the one that a text describes, if it can decide for N workers.

    Args:
      policy: what was given.
      num_workers: number of workers N.
      where: the caller's name, for messages.

    Raises:
      TypeError: if it is neither.
      ValueError: as `parse`; for a policy that is made for another N, cannot be traced,
        or answers anything else than its state and a `Decision`.

    Example:
      >>> policies.resolve("ssp(s=3)", num_workers=4)
      <Policy ssp(s=3)>
    """
    if isinstance(policy, str):
        policy = parse(policy, num_workers)
    example = f"policies.ssp({num_workers}, s=3) or the text 'ssp(s=3)'"
    checks.kind(where, "policy", policy, Policy, example)
    require_fit(where, policy, num_workers)
    return policy


@functools.cache  # the same constructor again, which knows what it made
def _load(name: str, where: str) -> Callable[..., Any]:
    # Known by its module, so that a trace's header can be read back.
    return constructor(literals.load(name, where), name=name)
