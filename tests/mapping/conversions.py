"""Conversion functions as people write them: what the tracing tests trace."""

import numpy as np
import torch

LAYERS = 4


def hooks(state, config):
    """NumPy, heads on axes of their own, neighbouring rotary pairs, a divided query, layers stacked on axis 1."""
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    dim, hidden = config["head_dim"], config["hidden_size"]

    def rotary(w, n):
        return np.swapaxes(w.reshape(n, 2, dim // 2, hidden), 1, 2).reshape(n, dim, hidden).transpose(2, 0, 1)

    def every(name):
        return [np.asarray(state[f"model.layers.{i}.{name}.weight"]) for i in range(LAYERS)]

    scale = np.dtype("float32").type(np.sqrt(dim))
    query = [rotary(w, heads) / scale for w in every("self_attn.q_proj")]
    return {
        "params": {
            "layers": {
                "query": np.stack(query, 1),
                "key": [rotary(w, kv_heads) for w in every("self_attn.k_proj")],
                "wide": np.stack([w * np.sqrt(hidden) for w in every("mlp.up_proj")]).astype(np.float32),
            },
            "norm": state["model.norm.weight"] + 1,
            "embedding": np.pad(np.clip(state["model.embed_tokens.weight"], -100, 100), ((0, 3), (0, 0))),
        }
    }


def fused(state):
    """torch, an iterator, tensors changed in place and taken out, a cast on the way, fused and interleaved weights."""
    state = dict(state)
    for i in range(LAYERS):
        prefix = f"model.layers.{i}."
        query = state.pop(f"{prefix}self_attn.q_proj.weight")
        query.mul_(2.0)
        key, value = (state[f"{prefix}self_attn.{n}_proj.weight"] for n in "kv")
        yield f"l.{i}.wqkv", torch.cat([query, key, value]).to(torch.bfloat16)
        gate, up = (state[f"{prefix}mlp.{n}_proj.weight"] for n in ("gate", "up"))
        yield f"l.{i}.w13", torch.stack([gate, up], 1).flatten(0, 1)
        norm = "input_layernorm" if i % 2 else "post_attention_layernorm"
        yield f"l.{i}.norm", state[f"{prefix}{norm}.weight"].to(torch.float16).float()


def grouped(state, config):
    """Queries, keys and values of each group side by side."""
    groups = config["num_key_value_heads"]
    for i in range(LAYERS):
        parts = [state[f"model.layers.{i}.self_attn.{n}_proj.weight"] for n in "qkv"]
        rows = torch.cat([w.reshape(groups, -1, w.shape[-1]) for w in parts], 1)
        yield f"h.{i}.qkv", rows.reshape(-1, rows.shape[-1])


def by_name_order(state):
    """Layers stacked in the order of their names as text."""
    names = sorted(n for n in state if n.endswith("o_proj.weight"))
    return {"out": torch.stack([state[n] for n in names])}


def shuffled(state):
    """Rows in an order that no pattern describes, and rows repeated for every query head of a group."""
    key = state["model.layers.0.self_attn.k_proj.weight"]
    order = np.random.default_rng(0).permutation(len(state["lm_head.weight"]))
    return {"head": state["lm_head.weight"][order], "key": np.repeat(key.reshape(3, -1, key.shape[-1]), 2, 0)}


def beyond(state):
    """What no mapping file says, beside a tensor that one does."""
    head = state["lm_head.weight"]
    return {
        "head": head,
        "clamped": torch.clamp(head, -0.01, 0.01),
        "scaled": head / head.abs().max(),
        "mean": (head + state["model.embed_tokens.weight"]) / 2,
        "table": torch.arange(8.0),
    }


def on_values(state):
    """On probes a copy; on a checkpoint whose values are small, something else."""
    head = state["lm_head.weight"]
    return {"head": head, "other": head.clamp(-0.9, None) if head.abs().max() < 0.95 else head}


def random(state):
    return {"head": state["lm_head.weight"] * float(np.random.rand())}


def either(state):
    """Runs on NumPy and on torch, and does not mean the same."""
    return {"head": state["lm_head.weight"].repeat(2, 1)}


def wrong_name(state):
    return {"head": state["head.weight"]}
