"""Which parameters and statistics of a model each fragment has.

A fragment is a run of whole arrays in the order in which a model names them, so that an
optimiser sees every array whole; the runs are as equal in size as such runs can be.
Streaming DiLoCo (Douillard et al., 2025, arXiv 2501.18512) makes its fragments of whole
layers likewise.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from abs_dssp import checks
from abs_dssp.tasks.base import Task

VALUE_BYTES = 4  # parameters and statistics are float32


class Fragments(NamedTuple):
    """What each of F fragments has. Static.

    Attributes:
      names: of its arrays, in the order in which they lie in its vector: parameters,
        such as `"params.Dense_0.kernel"`, and then statistics, such as
        `"stats.BatchNorm_0.mean"`.
      sizes: its values.
    """

    names: tuple[tuple[str, ...], ...]
    sizes: tuple[int, ...]


def of_task(task: Task, count: int) -> Fragments:
    """The fragments of a task's parameters and statistics; nothing is computed.

    Parameters are divided into runs for which the sum of squared sizes is least. The
    statistics are divided by their number, in the same order.

    Args:
      task: model and data.
      count: F; at least 1.

    Raises:
      ValueError: if there are fewer arrays than fragments.

    Example:
      >>> from abs_dssp import tasks
      >>> task = tasks.digits(num_workers=2)
      >>> of_task(task, 2).sizes
      (4160, 650)
      >>> of_task(tasks.quadratic(num_workers=2), 4)
      Traceback (most recent call last):
      ValueError: fragments must be at most 1 for quadratic, whose parameters are 1 \
whole arrays, got 4.
    """
    count = checks.whole("train", "fragments", count, least=1)
    variables = jax.eval_shape(task.init, jax.random.key(0))
    params, stats = jax.tree.leaves(variables.params), jax.tree.leaves(variables.stats)
    if count > len(params):
        raise ValueError(
            f"fragments must be at most {len(params)} for {task.name}, whose "
            f"parameters are {len(params)} whole arrays, got {count}."
        )
    owners = [*runs([math.prod(leaf.shape) for leaf in params], count)]
    owners += [number * count // len(stats) for number in range(len(stats))]
    names: list[list[str]] = [[] for _ in range(count)]
    sizes = [0] * count
    named = jax.tree_util.tree_leaves_with_path(variables)
    for owner, (path, leaf) in zip(owners, named, strict=True):
        names[owner].append(jax.tree_util.keystr(path, simple=True, separator="."))
        sizes[owner] += math.prod(leaf.shape)
    return Fragments(tuple(map(tuple, names)), tuple(sizes))


def runs(sizes: Sequence[int], count: int) -> list[int]:
    """To which of `count` runs each size belongs; the sum of squares is least.

    Args:
      sizes: at least `count`.
      count: of runs, none of them empty.

    Example:
      >>> runs([4, 1, 1, 1, 1], 2)
      [0, 1, 1, 1, 1]
    """
    ends = np.concatenate([[0], np.cumsum(sizes, dtype=float)])
    total = len(sizes)
    best = np.full(total + 1, np.inf)  # of the first j sizes, in the runs so far
    best[0] = 0.0
    cuts = []
    for _ in range(count):
        after, cut = np.full(total + 1, np.inf), np.zeros(total + 1, int)
        for j in range(1, total + 1):
            costs = best[:j] + (ends[j] - ends[:j]) ** 2
            cut[j] = int(np.argmin(costs))
            after[j] = costs[cut[j]]
        best = after
        cuts.append(cut)
    owners, end = [0] * total, total
    for run in reversed(range(count)):
        start = int(cuts[run][end])
        owners[start:end] = [run] * (end - start)
        end = start
    return owners
