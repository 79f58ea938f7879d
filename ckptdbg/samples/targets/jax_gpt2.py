"""GPT-2 as plain JAX functions: query, key and value apart, learned positions, LayerNorm with bias, a tied head."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jax import Array

from ckptdbg.models.jax_model import JaxModel
from ckptdbg.samples.targets.ops import ACTIVATIONS, attend, attention_mask, layer_norm, positions_of
from ckptdbg.samples.targets.tree import read_tree, zeros_tree


@dataclass(frozen=True)
class Definition:
    """Sizes, and what the code rather than the weights decides."""

    layers: int
    embed: int
    heads: int
    mlp: int
    vocab: int
    positions: int
    norm_epsilon: float = 1e-5
    activation: str = "gelu_tanh"
    attention_scale: float = 1.0
    position_offset: int = 0
    causal: bool = True
    logits_dtype: str = "float32"


def layer(p: dict[str, Any], x: Array, mask: Array, d: Definition) -> Array:
    """One block; ``p`` are its parameters."""
    normed = layer_norm(x, p["ln_1"]["scale"], p["ln_1"]["bias"], d.norm_epsilon)
    q, k, v = (
        jnp.einsum("btm,mhd->bthd", normed, p["attn"][name]["kernel"]) + p["attn"][name]["bias"]
        for name in ("query", "key", "value")
    )
    mixed = attend(q, k, v, mask, scale=d.attention_scale * q.shape[-1] ** -0.5)
    x = x + jnp.einsum("bthd,hdm->btm", mixed, p["attn"]["out"]["kernel"]) + p["attn"]["out"]["bias"]
    normed = layer_norm(x, p["ln_2"]["scale"], p["ln_2"]["bias"], d.norm_epsilon)
    hidden = ACTIVATIONS[d.activation](normed @ p["mlp"]["fc"]["kernel"] + p["mlp"]["fc"]["bias"])
    return x + hidden @ p["mlp"]["proj"]["kernel"] + p["mlp"]["proj"]["bias"]


def apply(p: dict[str, Any], inputs: dict[str, Array], d: Definition) -> Array:
    """Logits ``[batch, length, vocab]``, float32."""
    tokens = inputs["input_ids"]
    positions = positions_of(tokens, inputs.get("position_ids")) + d.position_offset
    mask = attention_mask(tokens.shape[1], inputs.get("attention_mask"), causal=d.causal)
    table = p["wte"]["embedding"]
    x = table[tokens] + p["wpe"]["embedding"][positions]
    for index in range(d.layers):
        x = layer(p[f"h_{index}"], x, mask, d)
    x = layer_norm(x, p["ln_f"]["scale"], p["ln_f"]["bias"], d.norm_epsilon)
    return (x.astype(d.logits_dtype) @ table.T.astype(d.logits_dtype)).astype(jnp.float32)


def shapes(d: Definition) -> dict[str, Any]:
    """Names and shapes of all parameters."""
    norm = {"scale": (d.embed,), "bias": (d.embed,)}
    head_dim = d.embed // d.heads
    into_heads = {"kernel": (d.embed, d.heads, head_dim), "bias": (d.heads, head_dim)}
    block = {
        "ln_1": norm,
        "attn": {
            **dict.fromkeys(("query", "key", "value"), into_heads),
            "out": {"kernel": (d.heads, head_dim, d.embed), "bias": (d.embed,)},
        },
        "ln_2": norm,
        "mlp": {
            "fc": {"kernel": (d.embed, d.mlp), "bias": (d.mlp,)},
            "proj": {"kernel": (d.mlp, d.embed), "bias": (d.embed,)},
        },
    }
    tables = {"wte": {"embedding": (d.vocab, d.embed)}, "wpe": {"embedding": (d.positions, d.embed)}}
    return {**tables, **{f"h_{index}": block for index in range(d.layers)}, "ln_f": norm}


def load(path: Path | None, **options: Any) -> JaxModel:
    """The function of ``Definition(**options)`` with the tensors at ``path``, or with zeros."""
    d = Definition(**options)
    return JaxModel(apply=partial(apply, d=d), params=zeros_tree(shapes(d)) if path is None else read_tree(path))
