"""Gemma 2 as plain JAX functions: fused kv and gate-up, scale in the norms as it is (``1 + w`` is made by the mapping),
soft caps, every other layer with a sliding window, a tied head.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jax import Array

from ckptdbg.models.jax_model import JaxModel
from ckptdbg.samples.targets.ops import ACTIVATIONS, attend, attention_mask, positions_of, rms_norm, rope_half
from ckptdbg.samples.targets.tree import read_tree, zeros_tree


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
    query_pre_attn_scalar: float
    window: int | None
    attention_cap: float | None
    final_cap: float | None
    attention_scale: float = 1.0
    embedding_scale: bool = True
    norm_epsilon: float = 1e-6
    norm_offset: float = 0.0
    rope_theta: float = 10000.0
    activation: str = "gelu_tanh"
    logits_dtype: str = "float32"


def layer(p: dict[str, Any], x: Array, positions: Array, mask: Array, d: Definition) -> Array:
    """One block; ``p`` are its parameters."""

    def norm(name: str, x: Array) -> Array:
        return rms_norm(x, p[name]["scale"] + d.norm_offset, d.norm_epsilon)

    normed = norm("pre_attention_norm", x)
    q = jnp.einsum("btm,hmd->bthd", normed, p["attn"]["q_einsum"]["w"])
    k, v = jnp.einsum("btm,ckmd->cbtkd", normed, p["attn"]["kv_einsum"]["w"])
    q, k = (rope_half(part, positions, d.rope_theta) for part in (q, k))
    scale = d.attention_scale * d.query_pre_attn_scalar**-0.5
    mixed = attend(q, k, v, mask, scale=scale, soft_cap=d.attention_cap)
    x = x + norm("post_attention_norm", jnp.einsum("bthd,hdm->btm", mixed, p["attn"]["attn_vec_einsum"]["w"]))
    gate, up = jnp.einsum("btm,cmf->cbtf", norm("pre_ffw_norm", x), p["mlp"]["gating_einsum"]["w"])
    hidden = ACTIVATIONS[d.activation](gate) * up
    return x + norm("post_ffw_norm", hidden @ p["mlp"]["linear"]["w"])


def apply(p: dict[str, Any], inputs: dict[str, Array], d: Definition) -> Array:
    """Logits ``[batch, length, vocab]``, float32."""
    tokens = inputs["input_ids"]
    positions = positions_of(tokens, inputs.get("position_ids"))
    table = p["embedder"]["input_embedding"]
    x = table[tokens]
    if d.embedding_scale:
        x = x * jnp.sqrt(jnp.float32(x.shape[-1]))
    for index in range(d.layers):
        window = d.window if index % 2 == 0 else None
        mask = attention_mask(tokens.shape[1], inputs.get("attention_mask"), window=window)
        x = layer(p[f"layer_{index}"], x, positions, mask, d)
    x = rms_norm(x, p["final_norm"]["scale"] + d.norm_offset, d.norm_epsilon)
    logits = (x.astype(d.logits_dtype) @ table.T.astype(d.logits_dtype)).astype(jnp.float32)
    return logits if d.final_cap is None else d.final_cap * jnp.tanh(logits / d.final_cap)


def shapes(d: Definition) -> dict[str, Any]:
    """Names and shapes of all parameters."""
    scale = {"scale": (d.embed,)}
    block = {
        "pre_attention_norm": scale,
        "attn": {
            "q_einsum": {"w": (d.heads, d.embed, d.head_dim)},
            "kv_einsum": {"w": (2, d.kv_heads, d.embed, d.head_dim)},
            "attn_vec_einsum": {"w": (d.heads, d.head_dim, d.embed)},
        },
        "post_attention_norm": scale,
        "pre_ffw_norm": scale,
        "mlp": {"gating_einsum": {"w": (2, d.embed, d.mlp)}, "linear": {"w": (d.mlp, d.embed)}},
        "post_ffw_norm": scale,
    }
    blocks = {f"layer_{index}": block for index in range(d.layers)}
    return {"embedder": {"input_embedding": (d.vocab, d.embed)}, **blocks, "final_norm": scale}


def load(path: Path | None, **options: Any) -> JaxModel:
    """The function of ``Definition(**options)`` with the tensors at ``path``, or with zeros."""
    d = Definition(**options)
    return JaxModel(apply=partial(apply, d=d), params=zeros_tree(shapes(d)) if path is None else read_tree(path))
