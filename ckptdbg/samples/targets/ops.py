"""What the JAX samples have in common: norms, rotary embedding, attention."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

ACTIVATIONS = {
    "silu": jax.nn.silu,
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
}


def rms_norm(x: Array, scale: Array, epsilon: float) -> Array:
    """Root-mean-square norm over the last axis, computed in float32."""
    wide = x.astype(jnp.float32)
    wide = wide * jax.lax.rsqrt(jnp.mean(wide**2, axis=-1, keepdims=True) + epsilon)
    return scale * wide.astype(x.dtype)


def layer_norm(x: Array, scale: Array, bias: Array, epsilon: float) -> Array:
    """Layer norm over the last axis."""
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(centred**2, axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(variance + epsilon) * scale + bias


def _angles(positions: Array, width: int, theta: float) -> tuple[Array, Array]:
    """cos and sin, ``[batch, length, 1, width / 2]``."""
    frequency = 1.0 / theta ** (jnp.arange(0, width, 2, dtype=jnp.float32) / width)
    angle = positions[..., None, None].astype(jnp.float32) * frequency
    return jnp.cos(angle), jnp.sin(angle)


def rope_interleaved(x: Array, positions: Array, theta: float, fraction: float = 1.0) -> Array:
    """Rotate neighbours ``(0, 1), (2, 3), ...`` of the first ``fraction`` of each head.

    ``x`` is ``[batch, length, heads, head_dim]``.
    """
    width = 2 * round(fraction * x.shape[-1] / 2)
    cos, sin = _angles(positions, width, theta)
    pairs = x[..., :width].reshape(*x.shape[:-1], -1, 2)
    even, odd = pairs[..., 0], pairs[..., 1]
    turned = jnp.stack([even * cos - odd * sin, odd * cos + even * sin], axis=-1)
    turned = turned.reshape(*x.shape[:-1], width).astype(x.dtype)
    return jnp.concatenate([turned, x[..., width:]], axis=-1)


def rope_half(x: Array, positions: Array, theta: float, fraction: float = 1.0) -> Array:
    """Rotate the first half of each head (of its first ``fraction``) against the second half."""
    width = 2 * round(fraction * x.shape[-1] / 2)
    cos, sin = _angles(positions, width, theta)
    low, high = x[..., : width // 2], x[..., width // 2 : width]
    turned = jnp.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1).astype(x.dtype)
    return jnp.concatenate([turned, x[..., width:]], axis=-1)


def attention_mask(length: int, padding: Array | None, *, causal: bool = True, window: int | None = None) -> Array:
    """True where a query may look, broadcastable to ``[batch, heads, query, key]``."""
    query, key = jnp.arange(length)[:, None], jnp.arange(length)[None, :]
    mask = jnp.broadcast_to(key <= query, (length, length)) if causal else jnp.ones((length, length), bool)
    if window is not None:
        mask = mask & (query - key < window)
    mask = mask[None, None]
    return mask if padding is None else mask & (padding[:, None, None, :] != 0)


def attend(q: Array, k: Array, v: Array, mask: Array, *, scale: float = 1.0, soft_cap: float | None = None) -> Array:
    """Grouped-query attention: ``q [batch, length, heads, head_dim]``, ``k`` and ``v`` with ``kv_heads``."""
    batch, length, heads, head_dim = q.shape
    kv_heads = k.shape[2]
    grouped = q.reshape(batch, length, kv_heads, heads // kv_heads, head_dim)
    scores = jnp.einsum("btkgd,bskd->bkgts", grouped, k) * scale
    if soft_cap is not None:
        scores = soft_cap * jnp.tanh(scores / soft_cap)
    scores = jnp.where(mask[:, :, None], scores, jnp.finfo(scores.dtype).min)
    weights = jax.nn.softmax(scores.astype(jnp.float32), axis=-1).astype(q.dtype)
    return jnp.einsum("bkgts,bskd->btkgd", weights, v).reshape(batch, length, heads, head_dim)


def positions_of(tokens: Array, positions: Array | None) -> Array:
    """``positions``, or 0, 1, 2, ... for every row of ``tokens``."""
    return jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape) if positions is None else positions
