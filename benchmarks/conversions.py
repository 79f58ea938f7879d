"""Conversion scripts as people write them, for checkpoints of real sizes: what ``benchmarks/tracing.py`` traces."""

from __future__ import annotations

from typing import Any

import torch

State = dict[str, torch.Tensor]
PROJECTIONS = {"gate": "wi_0", "up": "wi_1", "down": "wo"}
NORMS = {
    "input_layernorm": "pre_self_attention_layer_norm",
    "post_attention_layernorm": "post_self_attention_layer_norm",
}
TITAN = {
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.up_proj": "feed_forward.w3",
    "mlp.down_proj": "feed_forward.w2",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
}
TITAN_TOP = {"model.embed_tokens": "tok_embeddings", "model.norm": "norm", "lm_head": "output"}


def to_titan(state: State, config: dict[str, Any]) -> State:
    """Hugging Face Llama to torchtitan's names: rotary halves become neighbouring pairs."""
    out = {f"{theirs}.weight": state[f"{ours}.weight"] for ours, theirs in TITAN_TOP.items()}
    for i in range(config["num_hidden_layers"]):
        for ours, theirs in TITAN.items():
            weight = state[f"model.layers.{i}.{ours}.weight"]
            if "q_proj" in ours or "k_proj" in ours:
                rows = weight.view(-1, 2, config["head_dim"] // 2, weight.shape[1])
                weight = rows.transpose(1, 2).reshape(weight.shape)
            out[f"layers.{i}.{theirs}.weight"] = weight
    return out


def from_titan(state: State, config: dict[str, Any]) -> State:
    """And back."""
    out = {f"{ours}.weight": state[f"{theirs}.weight"] for ours, theirs in TITAN_TOP.items()}
    for i in range(config["num_hidden_layers"]):
        for ours, theirs in TITAN.items():
            weight = state[f"layers.{i}.{theirs}.weight"]
            if "q_proj" in ours or "k_proj" in ours:
                rows = weight.view(-1, config["head_dim"] // 2, 2, weight.shape[1])
                weight = rows.transpose(1, 2).reshape(weight.shape)
            out[f"model.layers.{i}.{ours}.weight"] = weight
    return out


def to_maxtext(state: State, config: dict[str, Any]) -> State:
    """Hugging Face Llama, or a Qwen 3 MoE, to one array for all layers and experts, the layers on axis 1."""
    out = {
        "token_embedder/embedding": state["model.embed_tokens.weight"],
        "decoder/decoder_norm/scale": state["model.norm.weight"],
        "decoder/logits_dense/kernel": state["lm_head.weight"].T.contiguous(),
    }
    layers, dim = range(config["num_hidden_layers"]), config["head_dim"]

    def each(name: str) -> list[torch.Tensor]:
        return [state[f"model.layers.{i}.{name}.weight"] for i in layers]

    def heads(weight: torch.Tensor, rotary: bool) -> torch.Tensor:
        rows = weight.view(-1, 2, dim // 2, weight.shape[1])
        rows = rows.transpose(1, 2) if rotary else rows
        return rows.reshape(-1, dim, weight.shape[1]).permute(2, 0, 1)

    attention = "decoder/layers/self_attention"
    query = [heads(w, True) / dim**0.5 for w in each("self_attn.q_proj")]
    out[f"{attention}/query/kernel"] = torch.stack(query, 1)
    out[f"{attention}/key/kernel"] = torch.stack([heads(w, True) for w in each("self_attn.k_proj")], 1)
    out[f"{attention}/value/kernel"] = torch.stack([heads(w, False) for w in each("self_attn.v_proj")], 1)
    outward = [w.T.reshape(-1, dim, w.shape[0]) for w in each("self_attn.o_proj")]
    out[f"{attention}/out/kernel"] = torch.stack(outward).transpose(0, 1).contiguous()
    for ours, theirs in NORMS.items():
        out[f"decoder/layers/{theirs}/scale"] = torch.stack(each(ours), 1)
    return out | (_experts(state, config) if "num_experts" in config else _mlp(each))


def _mlp(each: Any) -> State:
    return {
        f"decoder/layers/mlp/{theirs}/kernel": torch.stack([w.T for w in each(f"mlp.{ours}_proj")], 1)
        for ours, theirs in PROJECTIONS.items()
    }


def _experts(state: State, config: dict[str, Any]) -> State:
    """Written one expert after the other into an array that is made first."""
    out = {}
    layers, experts = config["num_hidden_layers"], config["num_experts"]
    for ours, theirs in PROJECTIONS.items():
        first = state[f"model.layers.0.mlp.experts.0.{ours}_proj.weight"]
        every = torch.empty(experts, layers, *first.shape[::-1], dtype=first.dtype)
        for layer in range(layers):
            stacked = [state[f"model.layers.{layer}.mlp.experts.{e}.{ours}_proj.weight"].T for e in range(experts)]
            every[:, layer] = torch.stack(stacked)
        out[f"decoder/layers/moe/{theirs}"] = every
    gates = [state[f"model.layers.{i}.mlp.gate.weight"].T for i in range(layers)]
    return out | {"decoder/layers/moe/gate/kernel": torch.stack(gates, 1)}


def from_maxtext(state: State, config: dict[str, Any]) -> State:
    """And back: every layer and every expert its own tensor."""
    out = {
        "model.embed_tokens.weight": state["token_embedder/embedding"],
        "model.norm.weight": state["decoder/decoder_norm/scale"],
        "lm_head.weight": state["decoder/logits_dense/kernel"].T.contiguous(),
    }
    dim = config["head_dim"]

    def rows(weight: torch.Tensor, rotary: bool) -> torch.Tensor:
        weight = weight.permute(1, 2, 0)
        if rotary:
            weight = weight.reshape(-1, dim // 2, 2, weight.shape[2]).transpose(1, 2)
        return weight.reshape(-1, weight.shape[-1]).contiguous()

    for i in range(config["num_hidden_layers"]):
        layer, attention = f"model.layers.{i}", "decoder/layers/self_attention"
        query = state[f"{attention}/query/kernel"][:, i] * dim**0.5
        out[f"{layer}.self_attn.q_proj.weight"] = rows(query, True)
        out[f"{layer}.self_attn.k_proj.weight"] = rows(state[f"{attention}/key/kernel"][:, i], True)
        out[f"{layer}.self_attn.v_proj.weight"] = rows(state[f"{attention}/value/kernel"][:, i], False)
        outward = state[f"{attention}/out/kernel"][:, i]
        out[f"{layer}.self_attn.o_proj.weight"] = outward.flatten(0, 1).T.contiguous()
        for ours, theirs in NORMS.items():
            out[f"{layer}.{ours}.weight"] = state[f"decoder/layers/{theirs}/scale"][:, i]
        for ours, theirs in PROJECTIONS.items():
            if "num_experts" not in config:
                kernel = state[f"decoder/layers/mlp/{theirs}/kernel"][:, i]
                out[f"{layer}.mlp.{ours}_proj.weight"] = kernel.T.contiguous()
            for e in range(config.get("num_experts", 0)):
                kernel = state[f"decoder/layers/moe/{theirs}"][e, i]
                out[f"{layer}.mlp.experts.{e}.{ours}_proj.weight"] = kernel.T.contiguous()
        if "num_experts" in config:
            out[f"{layer}.mlp.gate.weight"] = state["decoder/layers/moe/gate/kernel"][:, i].T.contiguous()
    return out
