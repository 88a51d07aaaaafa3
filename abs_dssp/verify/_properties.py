"""What is checked of a rule beside what every policy must keep, and example rules."""

import inspect
from collections.abc import Mapping
from typing import Any

from abs_dssp import policies
from abs_dssp.policies import Properties

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
    "deadline": ("deadline(k=1.0)",),
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
    "quorum": ("quorum(k=1)", "quorum(k=2,grace=1.0)"),
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
        texts += _EXAMPLES.get(name) or (_with_defaults(name),)
    return (*texts, *_COMBINED)


def _with_defaults(name: str) -> str:
    parameters = list(inspect.signature(policies.rule(name)).parameters.values())[1:]
    needed = [p.name for p in parameters if p.default is p.empty]
    return f"{name}({','.join(f'{each}=2' for each in needed)})"


def properties(
    policy: policies.Policy | str, num_workers: int, *, joins: int = 0
) -> Properties:
    """What a policy states, where workers may join again `joins` times.

    Args:
      policy: the rule or its text.
      num_workers: N.
      joins: how often a worker may join again after it has left.
    """
    if isinstance(policy, str):
        policy = policies.parse(policy, num_workers)
    return policy.properties.after_joins(joins)


def stated(known: Properties, given: Mapping[str, Any]) -> Properties:
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
        given.update(min_commit=size, max_commit=size, commit_field="")
    return known._replace(**given)
