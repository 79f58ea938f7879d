"""Mixtral and (with ``qk_norm``) Qwen3-MoE as plain JAX functions.

Experts are stacked in one tensor, every expert is computed for every token, and the router's choice is applied as
weights that are zero elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
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
    experts: int
    vocab: int
    top_k: int
    normalise_top_k: bool = True
    qk_norm: bool = False
    qk_norm_after_rope: bool = False
    norm_epsilon: float = 1e-6
    rope_theta: float = 10000.0
    attention_scale: float = 1.0
    activation: str = "silu"
    causal: bool = True
    logits_dtype: str = "float32"


def attention(p: dict[str, Any], x: Array, positions: Array, mask: Array, d: Definition) -> Array:
    """``x`` and the result are ``[batch, length, embed]``."""

    def prepare(name: str) -> Array:
        part = jnp.einsum("btm,mhd->bthd", x, p[name]["kernel"])
        rotate = partial(rope_half, positions=positions, theta=d.rope_theta)
        if not d.qk_norm:
            return rotate(part)
        norm = partial(rms_norm, scale=p[f"{name}_norm"]["scale"], epsilon=d.norm_epsilon)
        return norm(rotate(part)) if d.qk_norm_after_rope else rotate(norm(part))

    value = jnp.einsum("btm,mhd->bthd", x, p["value"]["kernel"])
    query, key = prepare("query"), prepare("key")
    mixed = attend(query, key, value, mask, scale=d.attention_scale * query.shape[-1] ** -0.5)
    return jnp.einsum("bthd,hdm->btm", mixed, p["out"]["kernel"])


def experts(p: dict[str, Any], x: Array, d: Definition) -> Array:
    """``wi_0`` and ``wi_1`` are ``[expert, embed, mlp]``, ``wo`` is ``[expert, mlp, embed]``."""
    odds = jax.nn.softmax(jnp.einsum("btm,me->bte", x, p["gate"]["kernel"]).astype(jnp.float32), axis=-1)
    weight, chosen = jax.lax.top_k(odds, d.top_k)
    if d.normalise_top_k:
        weight = weight / jnp.sum(weight, axis=-1, keepdims=True)
    dense = jnp.sum(weight[..., None] * jax.nn.one_hot(chosen, odds.shape[-1]), axis=-2)
    gate = ACTIVATIONS[d.activation](jnp.einsum("btm,emf->btef", x, p["wi_0"]))
    each = jnp.einsum("btef,efm->btem", gate * jnp.einsum("btm,emf->btef", x, p["wi_1"]), p["wo"])
    return jnp.sum(each * dense[..., None].astype(x.dtype), axis=2)


def apply(p: dict[str, Any], inputs: dict[str, Array], d: Definition) -> Array:
    """Logits ``[batch, length, vocab]``, float32."""
    tokens = inputs["input_ids"]
    positions = positions_of(tokens, inputs.get("position_ids"))
    mask = attention_mask(tokens.shape[1], inputs.get("attention_mask"), causal=d.causal)
    decoder = p["decoder"]
    x = p["token_embedder"]["embedding"][tokens]
    for index in range(d.layers):
        block = decoder[f"layers_{index}"]
        normed = rms_norm(x, block["pre_self_attention_layer_norm"]["scale"], d.norm_epsilon)
        x = x + attention(block["self_attention"], normed, positions, mask, d)
        normed = rms_norm(x, block["post_self_attention_layer_norm"]["scale"], d.norm_epsilon)
        x = x + experts(block["moe"], normed, d)
    x = rms_norm(x, decoder["decoder_norm"]["scale"], d.norm_epsilon)
    return (x.astype(d.logits_dtype) @ decoder["logits_dense"]["kernel"].astype(d.logits_dtype)).astype(jnp.float32)


def shapes(d: Definition) -> dict[str, Any]:
    """Names and shapes of all parameters."""
    scale = {"scale": (d.embed,)}
    norms = {f"{name}_norm": {"scale": (d.head_dim,)} for name in ("query", "key")} if d.qk_norm else {}
    block = {
        "pre_self_attention_layer_norm": scale,
        "self_attention": {
            "query": {"kernel": (d.embed, d.heads, d.head_dim)},
            "key": {"kernel": (d.embed, d.kv_heads, d.head_dim)},
            "value": {"kernel": (d.embed, d.kv_heads, d.head_dim)},
            "out": {"kernel": (d.heads, d.head_dim, d.embed)},
            **norms,
        },
        "post_self_attention_layer_norm": scale,
        "moe": {
            "gate": {"kernel": (d.embed, d.experts)},
            "wi_0": (d.experts, d.embed, d.mlp),
            "wi_1": (d.experts, d.embed, d.mlp),
            "wo": (d.experts, d.mlp, d.embed),
        },
    }
    blocks = {f"layers_{index}": block for index in range(d.layers)}
    head = {"decoder_norm": scale, "logits_dense": {"kernel": (d.embed, d.vocab)}}
    return {"token_embedder": {"embedding": (d.vocab, d.embed)}, "decoder": {**blocks, **head}}


def load(path: Path | None, *, dtype: str = "float32", **options: Any) -> JaxModel:
    """The function of ``Definition(**options)`` with the tensors at ``path``, or with zeros, in ``dtype``."""
    d = Definition(**options)
    params = zeros_tree(shapes(d)) if path is None else read_tree(path)
    return JaxModel(apply=partial(apply, d=d), params=jax.tree.map(lambda x: x.astype(dtype), params))
