"""Who takes part: every method with recommended parameters, and every other rule."""

import dataclasses
import re
from collections.abc import Sequence

from abs_dssp import policies, verify
from abs_dssp.experiment import methods
from abs_dssp.experiment.methods import Method

_SAME = ("local_sgd",)  # bsp() with one local step


def entries(n: int, ratio: float) -> list[Method]:
    """All of them, under names that do not depend on `ratio`.

    A rule of `policies` that no method is made of takes part with the parameters of its
    first example in `verify.examples`, so that a new rule enters with its own file.

    Args:
      n: workers.
      ratio: R = sigma^2 / eps.

    Example:
      >>> [method.label for method in entries(8, 4.0)][:3]
      ['BSP', 'ASP', 'SSP, s']
    """
    known = methods.recommended(n, ratio)
    used = {name for method in known for name in re.findall(r"(\w+)\(", method.text)}
    rest = [name for name in policies.names() if name not in used | set(_SAME)]
    return [*_renamed(known), *(_example(name, n) for name in rest)]


def _renamed(known: Sequence[Method]) -> list[Method]:
    made = []
    for method in known:
        label = re.sub(r" = \d+ to \d+", " grows", method.label)
        label = re.sub(r" = [\d.]+", "", label)
        if method.label.startswith("ABS"):  # two of them differ in K0 alone
            label = (
                "ABS, K0 = 1, a = 20" if "a = " in method.label else "ABS, K0 = N / 2"
            )
        made.append(dataclasses.replace(method, label=label))
    return made


def _example(name: str, n: int) -> Method:
    texts = [t for t in verify.examples() if t.partition("(")[0] == name]
    text = texts[0] if texts else f"{name}()"
    aggregate = policies.parse(text, n).properties.aggregate
    return Method(text, text, aggregate, basis=methods.GUESS)
