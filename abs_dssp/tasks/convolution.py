"""Convolution and pooling as matrix products, for a CPU.

XLA's convolutions are slow there, and another ten times slower inside a loop; its
matrix products are neither. On other devices XLA's convolution computes.

Images lie as (B, h, w, c), or with the batch last as (c, h, w, B), which is faster
where channels are few.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


class Conv(nn.Module):
    """`flax.linen.Conv` over images: same parameters, same function ("SAME" padding).

    Example:
      >>> import jax
      >>> image = jnp.ones((1, 4, 4, 3))
      >>> variables = Conv(8, (3, 3), strides=(2, 2)).init(jax.random.key(0), image)
      >>> variables["params"]["kernel"].shape, variables["params"]["bias"].shape
      ((3, 3, 3, 8), (8,))
    """

    features: int
    kernel_size: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    use_bias: bool = True
    kernel_init: Callable[..., Any] = nn.initializers.lecun_normal()
    batch_last: bool = False  # whether images lie as (c, h, w, B), here and afterwards

    @nn.compact
    def __call__(
        self, x: Float[Array | np.ndarray, "B h w c"] | Float[Array, "c h w B"]
    ) -> Float[Array, "B H W {self.features}"] | Float[Array, "{self.features} H W B"]:
        channels = x.shape[0 if self.batch_last else -1]
        shape = (*self.kernel_size, channels, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        if jax.default_backend() == "cpu":
            y = convolve(x, kernel, self.strides, self.batch_last)
        else:
            axes = "CHWN" if self.batch_last else "NHWC"
            y = jax.lax.conv_general_dilated(
                jnp.asarray(x),
                kernel,
                self.strides,
                "SAME",
                dimension_numbers=(axes, "HWIO", axes),
            )
        if not self.use_bias:
            return y
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return y + bias.reshape((-1, 1, 1, 1) if self.batch_last else (1, 1, 1, -1))


def prefers_batch_last(channels: Sequence[int]) -> bool:
    """Whether a network is faster with the batch last.

    On a CPU, gradients of networks that begin with 8 channels take 0.65 to 0.75 times
    as long. From 16 on it is 0.8 to 0.9 times on one thread, and on two threads up to
    1.1 times, without the gradient 1.4 times.

    Args:
      channels: of its convolutions.

    Example:
      >>> prefers_batch_last([32, 64])
      False
    """
    return jax.default_backend() == "cpu" and min(channels) <= 8


def convolve(
    x: Float[Array | np.ndarray, "B h w c"] | Float[Array, "c h w B"],
    kernel: Float[Array, "k l c d"],
    strides: tuple[int, int] = (1, 1),
    batch_last: bool = False,
) -> Float[Array, "B H W d"] | Float[Array, "d H W B"]:
    """A convolution of images as one product: shifted copies times the kernel.

    Args:
      x: images.
      kernel: k x l pixels, c channels to d.
      strides: pixels between two outputs, down and across.
      batch_last: whether images lie as (c, h, w, B).

    Example:
      >>> ones = jnp.ones((1, 3, 3, 1))
      >>> convolve(ones, jnp.ones((3, 3, 1, 1)))[0, :, :, 0].tolist()
      [[4.0, 6.0, 4.0], [6.0, 9.0, 6.0], [4.0, 6.0, 4.0]]
    """
    rows, columns, _, features = kernel.shape
    shape = tuple(
        -(-size // stride) for size, stride in zip(x.shape[1:3], strides, strict=True)
    )
    sides = map(_padding, x.shape[1:3], shape, strides, (rows, columns))
    padded = jnp.pad(x, ((0, 0), *sides, (0, 0)))
    channels = 0 if batch_last else 3

    def copy(row: int, column: int) -> Array:
        """What the kernel's pixel sees, for every output."""
        corner: tuple[slice, ...] = (slice(None),)
        for start, count, stride in zip((row, column), shape, strides, strict=True):
            corner += (slice(start, start + (count - 1) * stride + 1, stride),)
        return padded[corner]

    copies = [copy(i, j) for i in range(rows) for j in range(columns)]
    joined = jnp.concatenate(copies, axis=channels)
    matrix = kernel.reshape(-1, features)
    if batch_last:
        product = matrix.T @ joined.reshape(len(matrix), -1)
        return product.reshape(features, *shape, -1)
    return (joined.reshape(-1, len(matrix)) @ matrix).reshape(-1, *shape, features)


def max_pool(x: Float[Array, "B h w c"]) -> Float[Array, "B H W c"]:
    """The largest of 2 x 2 pixels; an odd last row or column is left out.

    Images may lie as (c, h, w, B), too. Where several are the largest, they share the
    gradient.

    Example:
      >>> max_pool(jnp.arange(16.0).reshape(1, 4, 4, 1))[0, :, :, 0].tolist()
      [[5.0, 7.0], [13.0, 15.0]]
    """
    batch, height, width, channels = x.shape
    shape = (batch, height // 2, 2, width // 2, 2, channels)
    x = x[:, : 2 * shape[1], : 2 * shape[3]]
    return jnp.max(x.reshape(shape), axis=(2, 4))


def _padding(size: int, outputs: int, stride: int, kernel: int) -> tuple[int, int]:
    """Pixels before and after, as "SAME" has them."""
    total = max((outputs - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2
