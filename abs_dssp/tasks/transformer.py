"""A small decoder-only transformer, in Flax linen.

Layers normalise before they compute (Xiong et al., ICML 2020, arXiv 2002.04745), as in
GPT-2; positions are learned, and the first map of the tokens is not shared with the
last. There is no dropout: what is studied is optimisation.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

_small = nn.initializers.normal(0.02)


class Attention(nn.Module):
    """Causal self-attention: position i sees positions 0..i."""

    heads: int
    out: jax.nn.initializers.Initializer

    @nn.compact
    def __call__(self, x: Float[Array, "B L W"]) -> Float[Array, "B L W"]:
        batch, length, width = x.shape
        shape = (batch, length, 3, self.heads, width // self.heads)
        parts = nn.Dense(3 * width, kernel_init=_small)(x).reshape(shape)
        query, key, value = (parts[:, :, i] for i in range(3))
        mixed = jax.nn.dot_product_attention(query, key, value, is_causal=True)
        return nn.Dense(width, kernel_init=self.out)(mixed.reshape(x.shape))


class Transformer(nn.Module):
    """Logits of the next token at every position."""

    num_classes: int  # tokens of the vocabulary
    width: int
    depth: int
    heads: int
    context: int | None = None  # learned positions; as many as the first inputs have

    @nn.compact
    def __call__(
        self, tokens: Int[Array | np.ndarray, "B L"]
    ) -> Float[Array, "B L {self.num_classes}"]:
        length = tokens.shape[1]
        shape = (self.context or length, self.width)
        if length > shape[0]:
            raise ValueError(
                f"transformer: samples have {length} tokens, but there are only "
                f"context={shape[0]} positions."
            )
        positions = self.param("positions", _small, shape)
        x = nn.Embed(self.num_classes, self.width, embedding_init=_small)(tokens)
        x = x + positions[None, :length]
        # As in GPT-2: the residual stream does not grow with the depth.
        out = nn.initializers.normal(0.02 / np.sqrt(2 * self.depth))
        for _ in range(self.depth):
            x = x + Attention(self.heads, out)(nn.LayerNorm()(x))
            y = nn.Dense(4 * self.width, kernel_init=_small)(nn.LayerNorm()(x))
            x = x + nn.Dense(self.width, kernel_init=out)(nn.gelu(y))
        logits = nn.Dense(self.num_classes, kernel_init=_small)(nn.LayerNorm()(x))
        return logits.astype(jnp.float32)
