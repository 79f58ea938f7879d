"""Llama (and, with ``qk_norm``, Qwen3) in flax NNX, in MaxText's conventions.

Kernels are ``[embed, heads, head_dim]`` and ``[heads, head_dim, embed]``, rotary pairs are neighbours, and the
attention scale ``1 / sqrt(head_dim)`` is folded into the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array

from ckptdbg.samples.targets.ops import ACTIVATIONS, attend, attention_mask, positions_of, rms_norm, rope_interleaved
from ckptdbg.samples.targets.tree import read_tree


@dataclass(frozen=True)
class Definition:
    """Sizes, and what the code rather than the weights decides."""

    layers: int
    embed: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    vocab: int
    norm_epsilon: float = 1e-6
    rope_theta: float = 10000.0
    rope_fraction: float = 1.0
    attention_scale: float = 1.0
    activation: str = "silu"
    causal: bool = True
    qk_norm: bool = False
    qk_norm_after_rope: bool = False
    logits_dtype: str = "float32"


class Norm(nnx.Module):
    def __init__(self, size: int, epsilon: float):
        self.scale = nnx.Param(jnp.ones(size))
        self.epsilon = epsilon

    def __call__(self, x: Array) -> Array:
        return rms_norm(x, self.scale[...], self.epsilon)


class Dense(nnx.Module):
    """Contracts the last ``axes`` axes of its input with the first of its kernel."""

    def __init__(self, *shape: int, axes: int = 1, dtype: str = "float32"):
        self.kernel = nnx.Param(jnp.zeros(shape))
        self.axes, self.dtype = axes, dtype

    def __call__(self, x: Array) -> Array:
        return jnp.tensordot(x.astype(self.dtype), self.kernel[...].astype(self.dtype), self.axes)


class Attention(nnx.Module):
    def __init__(self, d: Definition):
        self.definition = d
        self.query = Dense(d.embed, d.heads, d.head_dim)
        self.key = Dense(d.embed, d.kv_heads, d.head_dim)
        self.value = Dense(d.embed, d.kv_heads, d.head_dim)
        self.out = Dense(d.heads, d.head_dim, d.embed, axes=2)
        if d.qk_norm:
            self.query_norm = Norm(d.head_dim, d.norm_epsilon)
            self.key_norm = Norm(d.head_dim, d.norm_epsilon)

    def __call__(self, x: Array, positions: Array, mask: Array) -> Array:
        d = self.definition

        def rotate(x: Array) -> Array:
            return rope_interleaved(x, positions, d.rope_theta, d.rope_fraction)

        q, k = self.query(x), self.key(x)
        if not d.qk_norm:
            q, k = rotate(q), rotate(k)
        elif d.qk_norm_after_rope:
            q, k = self.query_norm(rotate(q)), self.key_norm(rotate(k))
        else:
            q, k = rotate(self.query_norm(q)), rotate(self.key_norm(k))
        return self.out(attend(q, k, self.value(x), mask, scale=d.attention_scale))


class Mlp(nnx.Module):
    def __init__(self, d: Definition):
        self.activation = d.activation
        self.wi_0 = Dense(d.embed, d.mlp)
        self.wi_1 = Dense(d.embed, d.mlp)
        self.wo = Dense(d.mlp, d.embed)

    def __call__(self, x: Array) -> Array:
        return self.wo(ACTIVATIONS[self.activation](self.wi_0(x)) * self.wi_1(x))


class Layer(nnx.Module):
    def __init__(self, d: Definition):
        self.pre_self_attention_layer_norm = Norm(d.embed, d.norm_epsilon)
        self.self_attention = Attention(d)
        self.post_self_attention_layer_norm = Norm(d.embed, d.norm_epsilon)
        self.mlp = Mlp(d)

    def __call__(self, x: Array, positions: Array, mask: Array) -> Array:
        x = x + self.self_attention(self.pre_self_attention_layer_norm(x), positions, mask)
        return x + self.mlp(self.post_self_attention_layer_norm(x))


class Decoder(nnx.Module):
    def __init__(self, d: Definition):
        self.definition = d
        for index in range(d.layers):
            setattr(self, f"layers_{index}", Layer(d))
        self.decoder_norm = Norm(d.embed, d.norm_epsilon)
        self.logits_dense = Dense(d.embed, d.vocab, dtype=d.logits_dtype)

    def __call__(self, x: Array, positions: Array, mask: Array) -> Array:
        for index in range(self.definition.layers):
            x = getattr(self, f"layers_{index}")(x, positions, mask)
        return self.logits_dense(self.decoder_norm(x)).astype(jnp.float32)


class Embedding(nnx.Module):
    def __init__(self, d: Definition):
        self.embedding = nnx.Param(jnp.zeros((d.vocab, d.embed)))

    def __call__(self, tokens: Array) -> Array:
        return self.embedding[...][tokens]


class Llama(nnx.Module):
    def __init__(self, d: Definition):
        self.causal = d.causal
        self.token_embedder = Embedding(d)
        self.decoder = Decoder(d)

    def __call__(
        self,
        decoder_input_tokens: Array,
        decoder_positions: Array | None = None,
        attention_mask: Array | None = None,
    ) -> Array:
        """Logits ``[batch, length, vocab]``, float32."""
        positions = positions_of(decoder_input_tokens, decoder_positions)
        mask = _mask(decoder_input_tokens.shape[1], attention_mask, causal=self.causal)
        return self.decoder(self.token_embedder(decoder_input_tokens), positions, mask)


_mask = attention_mask  # the input has the same name


def load(path: Path | None, **options: Any) -> Llama:
    """The model of ``Definition(**options)`` with the tensors at ``path``, or with none of its own."""
    model = Llama(Definition(**options))
    if path is not None:
        state = nnx.state(model)
        nnx.replace_by_pure_dict(state, read_tree(path))
        nnx.update(model, state)
    return model
