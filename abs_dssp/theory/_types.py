"""Annotations that the functions of this package share."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Array, Float, Real

# One number: a Python, NumPy or JAX scalar.
Scalar = Real[Array | np.ndarray, ""] | np.floating | np.integer | float

# A number or an array. All arguments of one call broadcast against each other.
Numbers = Real[Array | np.ndarray, "*#batch"] | np.floating | np.integer | float

# What is computed from `Numbers`, in their broadcast shape. Python floats give a
# Python float where no JAX function is involved.
Result = Float[Array | np.ndarray, "*batch"] | np.floating | float

# One positive number per worker; lists do as well as arrays.
PerWorker = Real[Array | np.ndarray, " N"] | Sequence[Scalar]

# An integer that determines shapes, so it cannot be traced by JAX.
Static = int | np.integer
