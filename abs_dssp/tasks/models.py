"""Built-in models, in Flax linen.

`alexnet` is a downsized AlexNet of 3 convolutional and 2 fully connected layers, as the
DSSP paper uses for CIFAR-10; its widths are not given there and are ours. `resnet` is
the CIFAR network of depth 6n + 2 of He et al., "Deep Residual Learning for Image
Recognition", CVPR 2016 (https://arxiv.org/abs/1512.03385).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from abs_dssp import checks, literals
from abs_dssp.tasks.convolution import Conv, max_pool, prefers_batch_last
from abs_dssp.tasks.transformer import Transformer

_he = nn.initializers.he_normal()
# How channels are normalised, by name: over a batch, with running statistics for
# evaluation, or over groups of eight channels of one sample.
_NORMS: dict[str, Callable[[bool], Callable[[], nn.Module]]] = {
    "batch": lambda train: partial(
        nn.BatchNorm, use_running_average=not train, momentum=0.9
    ),
    "group": lambda train: partial(nn.GroupNorm, num_groups=None, group_size=8),
}


class Mlp(nn.Module):
    """Fully connected layers with ReLU."""

    num_classes: int
    hidden: tuple[int, ...] = (64,)

    @nn.compact
    def __call__(
        self, x: Float[Array | np.ndarray, "B ..."], train: bool = False
    ) -> Float[Array, "B K"]:
        x = x.reshape(x.shape[0], -1)
        for width in self.hidden:
            x = nn.relu(nn.Dense(width, kernel_init=_he)(x))
        return nn.Dense(self.num_classes)(x)


class Convolutional(nn.Module):
    """3x3 convolutions, each with ReLU and 2x2 pooling, then fully connected layers."""

    num_classes: int
    channels: tuple[int, ...] = (32, 64)
    hidden: tuple[int, ...] = (64,)
    kernel: int = 3

    @nn.compact
    def __call__(
        self, x: Float[Array | np.ndarray, "B ..."], train: bool = False
    ) -> Float[Array, "B K"]:
        conv = partial(Conv, kernel_size=(self.kernel,) * 2, kernel_init=_he)
        batch_last = prefers_batch_last(self.channels)
        x = x.swapaxes(0, 3) if batch_last else x
        for width in self.channels:
            # ReLU after pooling: the same values, a quarter of the work.
            x = nn.relu(max_pool(conv(width, batch_last=batch_last)(x)))
        x = x.swapaxes(0, 3) if batch_last else x
        x = x.reshape(x.shape[0], -1)
        for width in self.hidden:
            x = nn.relu(nn.Dense(width, kernel_init=_he)(x))
        return nn.Dense(self.num_classes)(x)


class Block(nn.Module):
    """Two 3x3 convolutions with BatchNorm, around which the input is added."""

    channels: int
    stride: int
    shortcuts: str
    norm: str

    @nn.compact
    def __call__(
        self, x: Float[Array | np.ndarray, "B h w c"], train: bool
    ) -> Float[Array, "B H W C"]:
        norm = _NORMS[self.norm](train)
        conv = partial(Conv, use_bias=False, kernel_init=_he)
        stride = (self.stride, self.stride)
        y = nn.relu(norm()(conv(self.channels, (3, 3), strides=stride)(x)))
        y = norm()(conv(self.channels, (3, 3))(y))
        if x.shape != y.shape:
            if self.shortcuts == "A":  # subsample and pad with zero channels
                x = x[:, :: self.stride, :: self.stride]
                more = self.channels - x.shape[-1]
                x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (more // 2, more - more // 2)))
            else:
                x = norm()(conv(self.channels, (1, 1), strides=stride)(x))
        return nn.relu(x + y)


class ResNet(nn.Module):
    """A CIFAR residual network: three stages of n blocks."""

    num_classes: int
    blocks: int
    width: int = 16
    shortcuts: str = "A"
    norm: str = "batch"

    @nn.compact
    def __call__(
        self, x: Float[Array | np.ndarray, "B ..."], train: bool = False
    ) -> Float[Array, "B K"]:
        norm = _NORMS[self.norm](train)
        x = Conv(self.width, (3, 3), use_bias=False, kernel_init=_he)(x)
        x = nn.relu(norm()(x))
        for stage in range(3):
            for block in range(self.blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                width, kind = self.width * 2**stage, (self.shortcuts, self.norm)
                x = Block(width, stride, *kind)(x, train)
        return nn.Dense(self.num_classes)(jnp.mean(x, axis=(1, 2)))


Maker = Callable[[int], nn.Module]  # number of classes -> module


def mlp(hidden: Sequence[int] | int = (64,)) -> Maker:
    """Fully connected layers.

    Args:
      hidden: widths of the hidden layers.

    Raises:
      ValueError: for a width that is not a whole number above 0.

    Example:
      >>> from abs_dssp.tasks import models
      >>> models.mlp(hidden=8)(10).hidden
      (8,)
    """
    widths = (hidden,) if isinstance(hidden, int) else tuple(hidden)
    return partial(_build, Mlp, hidden=_widths("mlp", "hidden", widths))


def cnn(
    channels: Sequence[int] = (16, 32),
    hidden: Sequence[int] | int = 64,
    kernel: int = 3,
) -> Maker:
    """A small convolutional network.

    Images need at least 2^n pixels a side for n convolutions. That of STSyn's public
    code is `cnn(channels=[64,64],hidden=[384,192],kernel=5)`.

    Args:
      channels: of the convolutions.
      hidden: widths of the fully connected layers.
      kernel: side of the kernels, in pixels.

    Raises:
      ValueError: for a size that is not a whole number above 0.

    Example:
      >>> from abs_dssp.tasks import models
      >>> models.cnn(channels=[4])(10).channels
      (4,)
    """
    widths = (hidden,) if isinstance(hidden, int) else tuple(hidden)
    (size,) = _widths("cnn", "kernel", (kernel,))
    return partial(
        _build,
        Convolutional,
        channels=_widths("cnn", "channels", tuple(channels)),
        hidden=_widths("cnn", "hidden", widths),
        kernel=size,
    )


def alexnet() -> Maker:
    """The downsized AlexNet: 3 convolutional (5x5), 2 fully connected layers.

    Example:
      >>> from abs_dssp.tasks import models
      >>> models.alexnet()(10).channels
      (64, 128, 256)
    """
    return cnn((64, 128, 256), hidden=512, kernel=5)


def resnet(
    depth: int = 20, width: int = 16, shortcuts: str = "A", norm: str = "batch"
) -> Maker:
    """The CIFAR ResNet of depth 6n + 2.

    Args:
      depth: layers with weights: 8, 14, 20, ..., 50, ..., 110.
      width: channels of the first stage.
      shortcuts: `"A"` (zero-padded) or `"B"` (projections) where the shape changes.
      norm: `"batch"`, or `"group"` (of eight channels), which keeps no statistics;
        widths are then multiples of 8.

    Raises:
      ValueError: for another depth, kind of shortcut or norm.

    Example:
      >>> from abs_dssp.tasks import models
      >>> models.resnet(depth=20)(10).blocks  # of each of the three stages
      3
    """
    _widths("resnet", "depth", (depth,))
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"resnet: depth must be 6n + 2 (8, 14, 20, ...), got {depth}.")
    if shortcuts not in ("A", "B"):
        raise ValueError(f"resnet: shortcuts must be 'A' or 'B', got {shortcuts!r}.")
    if norm not in _NORMS:
        raise ValueError(f"resnet: norm must be 'batch' or 'group', got {norm!r}.")
    _widths("resnet", "width", (width,))
    if norm == "group" and width % 8:
        raise ValueError(f"resnet: norm 'group' needs a width of 8n, got {width}.")
    kind: dict[str, Any] = {"width": width, "shortcuts": shortcuts, "norm": norm}
    return partial(_build, ResNet, blocks=(depth - 2) // 6, **kind)


def transformer(
    width: int = 128, depth: int = 4, heads: int = 4, context: int | None = None
) -> Maker:
    """A decoder-only language model; of about 12 depth width^2 parameters.

    Args:
      width: of the residual stream, a multiple of `heads`.
      depth: layers, each of causal attention and a network of 4 `width` units.
      heads: of the attention.
      context: positions that are learned, at most as many tokens as a sample may have;
        as many as samples have, if None.

    Raises:
      ValueError: for a size that is not a whole number above 0, or heads that do not
        divide the width.

    Example:
      >>> from abs_dssp.tasks import models
      >>> models.transformer(width=64, depth=2)(256).heads
      4
    """
    sizes = _widths("transformer", "sizes", (width, depth, heads))
    if width % heads:
        raise ValueError(
            f"transformer: width must be a multiple of heads={heads}, got {width}."
        )
    if context is not None:
        _widths("transformer", "context", (context,))
    named = dict(zip(("width", "depth", "heads"), sizes, strict=True))
    return partial(_build, Transformer, context=context, **named)


MODELS: dict[str, Callable[..., Maker]] = {
    maker.__name__: maker for maker in (alexnet, cnn, mlp, resnet, transformer)
}


def parse(text: str, num_classes: int) -> nn.Module:
    """The model that `text` describes, e.g. `"cnn"` or `"resnet(depth=50)"`.

    Args:
      text: a call of one of `MODELS` with literal arguments.
      num_classes: number of classes.

    Raises:
      ValueError: for an unknown model or argument.

    Example:
      >>> from abs_dssp.tasks import models
      >>> models.parse("mlp(hidden=[8,4])", num_classes=10).hidden
      (8, 4)
    """
    checks.text("model", text, "'mlp' or 'cnn(hidden=64)'")
    return literals.build(text, "model", MODELS)(num_classes)


def _build(kind: Callable[..., nn.Module], num_classes: int, **settings: Any):
    return kind(num_classes=num_classes, **settings)


def _widths(name: str, argument: str, widths: tuple[int, ...]) -> tuple[int, ...]:
    for width in widths:
        if isinstance(width, bool) or not isinstance(width, int) or width < 1:
            raise ValueError(
                f"{name}: {argument} must be whole numbers above 0, got {width!r}."
            )
    return widths
