"""Llama in flax linen with its layers scanned and rematerialised: one stacked tensor for all layers, on axis 1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from ckptdbg.samples.targets.nnx_llama import Definition
from ckptdbg.samples.targets.ops import ACTIVATIONS, attend, attention_mask, positions_of, rms_norm, rope_interleaved
from ckptdbg.samples.targets.tree import read_tree


class Norm(nn.Module):
    epsilon: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return rms_norm(x, self.param("scale", nn.initializers.ones, (x.shape[-1],)), self.epsilon)


class Dense(nn.Module):
    """Contracts the last ``axes`` axes of its input; ``features`` are those of its output."""

    features: tuple[int, ...]
    axes: int = 1
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", nn.initializers.zeros, (*x.shape[-self.axes :], *self.features))
        return jnp.tensordot(x.astype(self.dtype), kernel.astype(self.dtype), self.axes)


class Attention(nn.Module):
    definition: Definition

    @nn.compact
    def __call__(self, x: Array, positions: Array, mask: Array) -> Array:
        d = self.definition
        q = Dense((d.heads, d.head_dim), name="query")(x)
        k = Dense((d.kv_heads, d.head_dim), name="key")(x)
        v = Dense((d.kv_heads, d.head_dim), name="value")(x)
        q, k = (rope_interleaved(part, positions, d.rope_theta, d.rope_fraction) for part in (q, k))
        return Dense((d.embed,), axes=2, name="out")(attend(q, k, v, mask, scale=d.attention_scale))


class Mlp(nn.Module):
    definition: Definition

    @nn.compact
    def __call__(self, x: Array) -> Array:
        d = self.definition
        gate = Dense((d.mlp,), name="wi_0")(x)
        up = Dense((d.mlp,), name="wi_1")(x)
        return Dense((d.embed,), name="wo")(ACTIVATIONS[d.activation](gate) * up)


class Layer(nn.Module):
    definition: Definition

    @nn.compact
    def __call__(self, x: Array, positions: Array, mask: Array) -> tuple[Array, None]:
        d = self.definition
        normed = Norm(d.norm_epsilon, name="pre_self_attention_layer_norm")(x)
        x = x + Attention(d, name="self_attention")(normed, positions, mask)
        normed = Norm(d.norm_epsilon, name="post_self_attention_layer_norm")(x)
        return x + Mlp(d, name="mlp")(normed), None


class Decoder(nn.Module):
    definition: Definition

    @nn.compact
    def __call__(self, x: Array, positions: Array, mask: Array) -> Array:
        d = self.definition
        layers = nn.scan(
            nn.remat(Layer, prevent_cse=False),
            variable_axes={"params": 1},
            split_rngs={"params": True},
            in_axes=nn.broadcast,  # pyright: ignore[reportArgumentType]
            length=d.layers,
        )
        x, _ = layers(d, name="layers")(x, positions, mask)
        x = Norm(d.norm_epsilon, name="decoder_norm")(x)
        return Dense((d.vocab,), dtype=d.logits_dtype, name="logits_dense")(x).astype(jnp.float32)


class Embedding(nn.Module):
    definition: Definition

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        d = self.definition
        return self.param("embedding", nn.initializers.zeros, (d.vocab, d.embed))[tokens]


class Llama(nn.Module):
    definition: Definition

    @nn.compact
    def __call__(
        self, input_ids: Array, position_ids: Array | None = None, attention_mask: Array | None = None
    ) -> Array:
        """Logits ``[batch, length, vocab]``, float32."""
        d = self.definition
        mask = _mask(input_ids.shape[1], attention_mask, causal=d.causal)
        x = Embedding(d, name="token_embedder")(input_ids)
        return Decoder(d, name="decoder")(x, positions_of(input_ids, position_ids), mask)


_mask = attention_mask  # the input has the same name


def load(path: Path | None, **options: Any) -> tuple[nn.Module, dict[str, Any]]:
    """The module of ``Definition(**options)`` and its variables, from ``path`` or without values."""
    module = Llama(Definition(**options))
    if path is not None:
        return module, {"params": read_tree(path)}
    return module, dict(jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32)))
