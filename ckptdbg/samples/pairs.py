"""The sample conversions: which checkpoint becomes which target, and where the target's options come from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

_SIZES = {
    "layers": "num_hidden_layers",
    "embed": "hidden_size",
    "heads": "num_attention_heads",
    "mlp": "intermediate_size",
    "vocab": "vocab_size",
}
_ROTARY = {
    **_SIZES,
    "kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "norm_epsilon": "rms_norm_eps",
    "rope_theta": "rope_parameters.rope_theta",
}
_GEMMA2 = {
    **_ROTARY,
    "query_pre_attn_scalar": "query_pre_attn_scalar",
    "window": "sliding_window",
    "attention_cap": "attn_logit_softcapping",
    "final_cap": "final_logit_softcapping",
}
_MIXTRAL = {**_ROTARY, "experts": "num_local_experts", "top_k": "num_experts_per_tok"}
_QWEN3_MOE = {**_MIXTRAL, "mlp": "moe_intermediate_size", "normalise_top_k": "norm_topk_prob"}
_GPT2 = {
    "layers": "n_layer",
    "embed": "n_embd",
    "heads": "n_head",
    "mlp": "n_inner",
    "vocab": "vocab_size",
    "positions": "n_positions",
    "norm_epsilon": "layer_norm_epsilon",
}
_BERT = {
    **_SIZES,
    "positions": "max_position_embeddings",
    "types": "type_vocab_size",
    "norm_epsilon": "layer_norm_eps",
}


@dataclass(frozen=True)
class Pair:
    """One source family and one target. Its config and mapping are ``sample_configs/<config>.yaml``."""

    family: str
    config: str
    options: dict[str, str]
    """The target's option, and the key of the source's config.json (dotted) that says its value."""

    def options_from(self, config: dict[str, Any]) -> dict[str, Any]:
        """The target's options for a source with this ``config.json``."""
        return {
            name: reduce(lambda node, key: node[key], path.split("."), config) for name, path in self.options.items()
        }


PAIRS: dict[str, Pair] = {
    "llama_to_nnx": Pair("llama", "llama_to_nnx", _ROTARY),
    "llama_square_to_nnx": Pair("llama_square", "llama_to_nnx", _ROTARY),
    "llama_to_scan": Pair("llama", "llama_to_scan", _ROTARY),
    "llama_to_torch": Pair("llama", "llama_to_torch", _ROTARY),
    "qwen3_to_nnx": Pair("qwen3", "qwen3_to_nnx", _ROTARY),
    "gemma2_to_jax": Pair("gemma2", "gemma2_to_jax", _GEMMA2),
    "mixtral_to_jax": Pair("mixtral", "mixtral_to_jax", _MIXTRAL),
    "qwen3_moe_to_jax": Pair("qwen3_moe", "qwen3_moe_to_jax", _QWEN3_MOE),
    "gpt2_to_jax": Pair("gpt2", "gpt2_to_jax", _GPT2),
    "bert_to_jax": Pair("bert", "bert_to_jax", _BERT),
}


def list_pairs() -> list[str]:
    """Names of the sample conversions; the first is the one the demo shows."""
    return list(PAIRS)


def sample_configs() -> Path:
    """The folder ``sample_configs``: inside an installed package, else at the root of the checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "sample_configs"
    return installed if installed.is_dir() else package.parent / "sample_configs"
