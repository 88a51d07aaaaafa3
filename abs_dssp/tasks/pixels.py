"""Images as arrays of bytes: how they are normalised and augmented."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, PRNGKeyArray, Shaped

_PAD = 4  # pixels around an image before it is cropped again


def augment(
    images: Shaped[Array, "B h w c"], key: PRNGKeyArray
) -> Shaped[Array, "B h w c"]:
    """Zero-pads by four pixels, crops at random, flips half of the images.

    Example:
      >>> import jax
      >>> from abs_dssp.tasks import pixels
      >>> pixels.augment(jnp.ones((2, 8, 8, 3), jnp.uint8), jax.random.key(0)).shape
      (2, 8, 8, 3)
    """
    count, height, width, channels = images.shape
    shift_key, flip_key = jax.random.split(key)
    padded = jnp.pad(images, ((0, 0), (_PAD, _PAD), (_PAD, _PAD), (0, 0)))
    shifts = jax.random.randint(shift_key, (count, 2), 0, 2 * _PAD + 1, jnp.int32)
    flips = jax.random.bernoulli(flip_key, 0.5, (count,))

    def one(image, shift, flip):
        corner = (shift[0], shift[1], jnp.int32(0))
        crop = jax.lax.dynamic_slice(image, corner, (height, width, channels))
        return jnp.where(flip, crop[:, ::-1], crop)

    return jax.vmap(one)(padded, shifts, flips)


def channels(
    inputs: Shaped[np.ndarray, "n ..."],
) -> tuple[Float32[np.ndarray, "..."], Float32[np.ndarray, "..."]]:
    """Mean and inverse deviation of each channel, the last axis, of uint8 inputs.

    For other inputs 0 and 1, which nothing is multiplied by.

    Example:
      >>> import numpy as np
      >>> from abs_dssp.tasks import pixels
      >>> mean, scale = pixels.channels(np.array([[0, 7], [4, 9]], np.uint8))
      >>> mean.tolist(), scale.tolist()
      ([[2.0, 8.0]], [[0.5, 1.0]])
    """
    if inputs.dtype != np.uint8:
        return np.zeros((), np.float32), np.ones((), np.float32)
    if inputs.ndim == 1:  # one number per sample: one channel
        mean, scale = channels(inputs[:, None])
        return mean[:, 0], scale[:, 0]
    shape = (1,) * (inputs.ndim - 1) + (inputs.shape[-1],)
    # From histograms: an array of floats would need eight times the memory.
    each = np.moveaxis(inputs, -1, 0)
    counts = np.stack([np.bincount(c.ravel(), minlength=256) for c in each])
    values = np.arange(256.0)
    mean = counts @ values / counts.sum(axis=1)
    variance = counts @ values**2 / counts.sum(axis=1) - mean**2
    scale = 1 / np.sqrt(np.maximum(variance, 1e-8))
    mean, scale = mean.reshape(shape), scale.reshape(shape)
    return mean.astype(np.float32), scale.astype(np.float32)
