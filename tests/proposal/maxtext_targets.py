"""Small decoders with MaxText's names and in MaxText's conventions for qwen3 and gemma3: halves are rotated, the scale
of the attention is in the code; for gemma3 norms multiply by their scales, the embedding's factor is in its table."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from ckptdbg.models.jax_model import JaxModel
from ckptdbg.samples.targets.ops import ACTIVATIONS, attend, attention_mask, positions_of, rms_norm, rope_half
from ckptdbg.samples.targets.tree import zeros_tree


def attention(p: dict[str, Any], x, positions, mask, theta: float, epsilon: float):
    q, k, v = (jnp.tensordot(x, p[name]["kernel"], 1) for name in ("query", "key", "value"))
    q, k = (rms_norm(a, p[f"{n}_norm"]["scale"], epsilon) for a, n in ((q, "query"), (k, "key")))
    q, k = (rope_half(a, positions, theta) for a in (q, k))
    return jnp.tensordot(attend(q, k, v, mask, scale=q.shape[-1] ** -0.5), p["out"]["kernel"], 2)


def mlp(p: dict[str, Any], x, activation: str):
    return (ACTIVATIONS[activation](x @ p["wi_0"]["kernel"]) * (x @ p["wi_1"]["kernel"])) @ p["wo"]["kernel"]


def qwen3(p: dict[str, Any], inputs: dict[str, Any], layers: int, theta: float, epsilon: float):
    """Logits ``[batch, length, vocab]``; the head is the embedding."""
    tokens, decoder, table = inputs["input_ids"], p["decoder"], p["token_embedder"]["embedding"]
    positions, mask = positions_of(tokens, inputs.get("position_ids")), attention_mask(tokens.shape[1], None)
    x = table[tokens]
    for i in range(layers):
        block = decoder[f"layers_{i}"]
        normed = rms_norm(x, block["pre_self_attention_layer_norm"]["scale"], epsilon)
        x = x + attention(block["self_attention"], normed, positions, mask, theta, epsilon)
        x = x + mlp(block["mlp"], rms_norm(x, block["post_self_attention_layer_norm"]["scale"], epsilon), "silu")
    return rms_norm(x, decoder["decoder_norm"]["scale"], epsilon) @ table.T


def gemma3(p: dict[str, Any], inputs: dict[str, Any], layers: int, thetas: list[float], windows: list, epsilon: float):
    """Logits ``[batch, length, vocab]``; every layer has a theta and a window of its own (None for none)."""
    tokens, decoder, table = inputs["input_ids"], p["decoder"], p["token_embedder"]["embedding"]
    positions = positions_of(tokens, inputs.get("position_ids"))
    x = table[tokens]
    for i in range(layers):
        block, mask = decoder[f"layers_{i}"], attention_mask(tokens.shape[1], None, window=windows[i])

        def norm(name: str, x, block=block):
            return rms_norm(x, block[name]["scale"], epsilon)

        mixed = attention(
            block["self_attention"], norm("pre_self_attention_norm", x), positions, mask, thetas[i], epsilon
        )
        x = x + norm("post_self_attention_norm", mixed)
        x = x + norm("post_ffw_norm", mlp(block["mlp"], norm("pre_ffw_norm", x), "gelu_tanh"))
    return rms_norm(x, decoder["decoder_norm"]["scale"], epsilon) @ table.T * table.shape[1] ** -0.5


def load(path: Path | None, *, model: str, shapes: dict[str, list[int]], **options: Any) -> JaxModel:
    """``qwen3`` or ``gemma3``, of these names and shapes."""
    assert path is None
    tree: dict[str, Any] = {}
    for name, shape in shapes.items():
        *folders, leaf = name.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[leaf] = tuple(shape)
    apply = {"qwen3": qwen3, "gemma3": gemma3}[model]
    return JaxModel(apply=partial(apply, **options), params=zeros_tree(tree))
