"""Classification of images or vectors by any model that is a pure function."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import PRNGKeyArray

from abs_dssp.tasks.base import PyTree, Task, Variables
from abs_dssp.tasks.supervision import Apply, supervised


def classification(
    init: Callable[[PRNGKeyArray, PyTree], Variables],
    apply: Apply,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    num_workers: int,
    **settings: Any,
) -> Task:
    """Mean softmax cross entropy over labelled samples: `supervised` without a loss.

    Args:
      init: (key, sample) -> variables; the sample is a (1, ...) array of zeros.
      apply: (variables, inputs, train, key) -> (logits, statistics), for (B, ...)
        inputs and (B, K) logits.
      train: inputs (n, ...) and labels 0..K-1, (n,) or one-hot (n, K).
      test: the same, held out.
      num_workers: number of workers N.
      **settings: of `supervised`.

    Returns:
      A `Task` that evaluates `"loss"` and `"accuracy"` on the test split.

    Raises:
      ValueError: as `supervised`.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from abs_dssp import tasks
      >>> samples = np.eye(4), np.arange(4)
      >>> task = tasks.classification(
      ...     lambda key, sample: tasks.Variables(8.0 * jnp.eye(4), {}),
      ...     lambda variables, inputs, train, key: (inputs @ variables.params, {}),
      ...     samples, samples, num_workers=2, name="identity", batch_size=2)
      >>> variables = task.init(jax.random.key(0))
      >>> float(task.evaluate(task.data, variables)["accuracy"])
      1.0
    """
    return supervised(init, apply, train, test, num_workers, loss=None, **settings)
