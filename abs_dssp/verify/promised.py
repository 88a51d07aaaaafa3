"""What each rule promises for every order of events."""

import inspect
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from abs_dssp import literals, policies


class Promises(NamedTuple):
    """Bounds beyond the generic promises; `None` where a rule promises nothing."""

    max_staleness: int | None = None  # versions; of an accepted push
    max_computing: int | None = None  # versions; of any computation after an event
    max_gap: int | None = None  # clocks; of a worker at its release
    least_commit: int | None = None  # pushes; fewer only if nobody else computes
    most_commit: int | None = None  # pushes
    growing: tuple[str, ...] = ()  # fields of the state that never decrease
    falling: tuple[str, ...] = ()  # fields of the state that never increase
    commit_field: str = ""  # field of the state that is the size of a commit


# At least one text per rule: small bounds, so that few events reach them.
_EXAMPLES: dict[str, tuple[str, ...]] = {
    "abs": (
        "abs(k0=1,a=2)",
        "abs(k0=1,tau_max=2)",
        'abs(k0=1,a=0.5,tau_max=1,growth="loss")',
    ),
    "adasync": (
        "adasync(k0=1,interval=2.0)",
        'adasync(k0=1,base="k_batch_sync",interval=2.0)',
    ),
    "asp": ("asp()",),
    "bsp": ("bsp()",),
    "dssp": (
        "dssp(s_lower=0,s_upper=2)",
        'dssp(s_lower=0,s_upper=2,variant="bounded")',
    ),
    "fedasync": ("fedasync()",),
    "fedbuff": ("fedbuff(k=2)",),
    "k_async": ("k_async(k=2)",),
    "k_batch_async": ("k_batch_async(k=2)",),
    "k_batch_sync": ("k_batch_sync(k=2)",),
    "k_sync": ("k_sync(k=2)",),
    "local_sgd": ("local_sgd()",),
    "m_sync": ("m_sync(m=2)",),
    "malenia": ("malenia(batch_size=3)",),
    "mindflayer": ("mindflayer(trials=1,seconds=2.0)",),
    "rennala": ("rennala(batch_size=2)",),
    "rescaled": ("rescaled()",),
    "ringleader": ("ringleader()",),
    "ringmaster": ("ringmaster(threshold=2)", "ringmaster(threshold=2,stop=True)"),
    "sa_adasync": ('sa_adasync(k0=1,base="k_sync",interval=2.0)',),
    "ssp": ("ssp(s=0)", "ssp(s=1)"),
    "sync_switch": ("sync_switch(at=2)",),
    "zipline": ("zipline(lookahead=2)",),
}
_COMBINED = (
    "weighted(k_async(k=2), polynomial(a=0.5))",
    "switch(bsp(), asp(), at=2)",
)


def examples() -> tuple[str, ...]:
    """Texts that cover every rule of `policies.names()`, and the combinators.

    A rule unknown here is tried with its defaults, and with 2 for what has none.
    """
    texts: list[str] = []
    for name in policies.names():
        texts += _EXAMPLES.get(name) or (_guess(name),)
    return (*texts, *_COMBINED)


def _guess(name: str) -> str:
    rule = getattr(policies, name, None)
    if rule is None:
        return f"{name}()"
    parameters = list(inspect.signature(rule).parameters.values())[1:]
    needed = [p.name for p in parameters if p.default is p.empty]
    return f"{name}({','.join(f'{each}=2' for each in needed)})"


def promises(
    policy: policies.Policy | str, num_workers: int, *, joins: int = 0
) -> Promises:
    """What a policy of the package promises; a rule of one's own says it itself.

    A rule's own promises are a `Promises`, or a dict of its fields, that its
    constructor sets as the attribute `promises` of its function `on_push`. What is
    not known promises no more than every policy must.

    Args:
      policy: the rule or its text.
      num_workers: N.
      joins: how often a worker may join. BSP's round may then have several pushes of
        a worker that died after the first; under SSP each life of a worker counts as
        one more worker in the bound on staleness.
    """
    if not isinstance(policy, str):
        own = getattr(policy.on_push, "promises", None)
        if own is not None:
            return own if isinstance(own, Promises) else Promises(**own)
        text = policies.describe(policy)
        if ":" in text:
            return Promises()
    else:
        text = policy
        if ":" in text.partition("(")[0]:
            return promises(policies.parse(text, num_workers), num_workers)
    try:
        call = literals.parse_call(text, "verify.promises")
    except ValueError:  # a schedule in Python is among the arguments
        return Promises()
    return _of_call(call, num_workers, joins)


def _of_call(call: literals.Call, n: int, joins: int) -> Promises:
    def argument(key: str, place: int, default: Any = None) -> Any:
        if key in call.kwargs:
            return call.kwargs[key]
        return call.args[place] if len(call.args) > place else default

    def sized(size: int, fresh: bool = False) -> Promises:
        bound = 0 if fresh else None
        return Promises(bound, bound, None, size, size)

    name = call.name
    if name == "weighted":
        inner = argument("policy", 0)
        return _of_call(inner, n, joins) if isinstance(inner, literals.Call) else _NONE
    if name in ("bsp", "local_sgd"):
        return Promises(0, 0, 0, n, n + joins)
    if name in ("asp", "fedasync", "rescaled", "zipline"):
        return sized(1)
    if name == "ssp":
        s = argument("s", 0)
        return sized(1)._replace(max_gap=s, max_staleness=(2 * s + 1) * (n - 1 + joins))
    if name == "dssp":
        if argument("variant", 2, "printed") == "printed":
            return sized(1)
        return sized(1)._replace(max_gap=argument("s_upper", 1, 15))
    if name in ("k_sync", "m_sync", "k_batch_sync"):
        return sized(argument("k", 0, argument("m", 0)), fresh=True)
    if name in ("k_async", "k_batch_async", "fedbuff"):
        return sized(argument("k", 0, 10))
    if name == "malenia":
        return Promises(max_staleness=0, least_commit=argument("batch_size", 0))
    if name == "mindflayer":
        return Promises(max_staleness=0)
    if name == "rennala":
        return sized(argument("batch_size", 0))._replace(max_staleness=0)
    if name == "ringmaster":
        most = argument("threshold", 0) - 1
        runs = most if argument("stop", 1, False) else None
        return sized(1)._replace(max_staleness=most, max_computing=runs)
    if name in ("adasync", "sa_adasync"):
        fresh = "async" not in argument("base", 1, "k_async")
        return sized(argument("k0", 0, 1), fresh)._replace(most_commit=n)
    if name == "abs_dssp":
        noise = argument("noise", 0)
        noise = n / 2 if noise is None else noise
        least = math.ceil(min(noise, n / 2) / 16)  # before it grows
        return Promises(4, 4, None, max(1, least), max(1, math.ceil(2 * noise)))
    if name == "abs":
        return _of_abs(argument("k0", 0, 1), argument("tau_max", 2), n)
    return _NONE


def _of_abs(k0: int, tau_max: float | None, n: int) -> Promises:
    most = -(-n // k0) if tau_max is None else math.floor(tau_max)
    return Promises(most, most, None, k0, n, ("k",), ("tau_max",), "k")


_NONE = Promises()


def stated(known: Promises, given: Mapping[str, Any]) -> Promises:
    """`known`, with what a user states; `commit_size` sets both bounds.

    Raises:
      ValueError: for a negative bound.
    """
    given = {key: value for key, value in given.items() if value is not None}
    for key, value in given.items():
        if value < 0:
            raise ValueError(f"verify: {key} must be at least 0, got {value}.")
    size = given.pop("commit_size", None)
    if size is not None:
        given.update(least_commit=size, most_commit=size, commit_field="")
    return known._replace(**given)
