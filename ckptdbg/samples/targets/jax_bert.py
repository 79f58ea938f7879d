"""BERT's encoder as plain JAX functions: norms after the residual sum, exact GELU, no causal mask, no head."""

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
    types: int
    norm_epsilon: float = 1e-12
    activation: str = "gelu"
    attention_scale: float = 1.0
    position_offset: int = 0
    causal: bool = False


def norm(p: dict[str, Array], x: Array, d: Definition) -> Array:
    """LayerNorm with its own parameters ``p``."""
    return layer_norm(x, p["scale"], p["bias"], d.norm_epsilon)


def dense(p: dict[str, Array], x: Array) -> Array:
    """``x @ kernel + bias``."""
    return x @ p["kernel"] + p["bias"]


def layer(p: dict[str, Any], x: Array, mask: Array, d: Definition) -> Array:
    """One block; ``p`` are its parameters."""
    heads = p["attention"]
    q, k, v = (
        jnp.einsum("btm,mhd->bthd", x, heads[name]["kernel"]) + heads[name]["bias"]
        for name in ("query", "key", "value")
    )
    mixed = attend(q, k, v, mask, scale=d.attention_scale * q.shape[-1] ** -0.5)
    mixed = jnp.einsum("bthd,hdm->btm", mixed, heads["out"]["kernel"]) + heads["out"]["bias"]
    x = norm(heads["norm"], x + mixed, d)
    hidden = dense(p["mlp"]["down"], ACTIVATIONS[d.activation](dense(p["mlp"]["up"], x)))
    return norm(p["mlp"]["norm"], x + hidden, d)


def apply(p: dict[str, Any], inputs: dict[str, Array], d: Definition) -> Array:
    """The last hidden state ``[batch, length, embed]``, float32."""
    tokens = inputs["input_ids"]
    positions = positions_of(tokens, inputs.get("position_ids")) + d.position_offset
    types = inputs.get("token_type_ids", jnp.zeros_like(tokens))
    tables = p["embeddings"]
    x = tables["word"]["embedding"][tokens] + tables["type"]["embedding"][types]
    x = norm(tables["norm"], x + tables["position"]["embedding"][positions], d)
    mask = attention_mask(tokens.shape[1], inputs.get("attention_mask"), causal=d.causal)
    for index in range(d.layers):
        x = layer(p["encoder"][f"layer_{index}"], x, mask, d)
    return x


def shapes(d: Definition) -> dict[str, Any]:
    """Names and shapes of all parameters."""
    norm_shapes = {"scale": (d.embed,), "bias": (d.embed,)}
    head_dim = d.embed // d.heads
    into_heads = {"kernel": (d.embed, d.heads, head_dim), "bias": (d.heads, head_dim)}
    block = {
        "attention": {
            **dict.fromkeys(("query", "key", "value"), into_heads),
            "out": {"kernel": (d.heads, head_dim, d.embed), "bias": (d.embed,)},
            "norm": norm_shapes,
        },
        "mlp": {
            "up": {"kernel": (d.embed, d.mlp), "bias": (d.mlp,)},
            "down": {"kernel": (d.mlp, d.embed), "bias": (d.embed,)},
            "norm": norm_shapes,
        },
    }
    rows = {"word": d.vocab, "position": d.positions, "type": d.types}
    tables = {name: {"embedding": (size, d.embed)} for name, size in rows.items()}
    return {
        "embeddings": {**tables, "norm": norm_shapes},
        "encoder": {f"layer_{index}": block for index in range(d.layers)},
    }


def load(path: Path | None, **options: Any) -> JaxModel:
    """The function of ``Definition(**options)`` with the tensors at ``path``, or with zeros."""
    d = Definition(**options)
    return JaxModel(apply=partial(apply, d=d), params=zeros_tree(shapes(d)) if path is None else read_tree(path))
