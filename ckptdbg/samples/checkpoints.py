"""Tiny Hugging Face checkpoints, made on the spot, with every parameter random and all sizes different.

Fresh models would not do: their norms are all ones and their logits nearly uniform, so that swapped norms and most
other faults change nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Family:
    """One architecture at a size that runs in milliseconds."""

    config: str
    """Name of the configuration class in transformers."""
    model: str
    sizes: dict[str, Any]
    norm_centre: float = 1.0
    """What a norm scale varies around: 0 where the model computes ``1 + w``."""


_NO_SPECIAL_TOKENS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}

FAMILIES: dict[str, Family] = {
    "llama": Family(
        "LlamaConfig",
        "LlamaForCausalLM",
        {
            "hidden_size": 48,
            "num_attention_heads": 6,
            "num_key_value_heads": 3,
            "head_dim": 12,
            "intermediate_size": 112,
            "num_hidden_layers": 4,
            "vocab_size": 131,
        },
    ),
    # Every matrix square, so that no shape check can see a transposition.
    "llama_square": Family(
        "LlamaConfig",
        "LlamaForCausalLM",
        {
            "hidden_size": 64,
            "num_attention_heads": 8,
            "num_key_value_heads": 8,
            "head_dim": 8,
            "intermediate_size": 64,
            "num_hidden_layers": 4,
            "vocab_size": 64,
        },
    ),
    "qwen3": Family(
        "Qwen3Config",
        "Qwen3ForCausalLM",
        {
            "hidden_size": 70,
            "num_attention_heads": 10,
            "num_key_value_heads": 5,
            "head_dim": 12,
            "intermediate_size": 92,
            "num_hidden_layers": 4,
            "vocab_size": 149,
        },
    ),
    # Caps and window small enough to matter at this size.
    "gemma2": Family(
        "Gemma2Config",
        "Gemma2ForCausalLM",
        {
            "hidden_size": 42,
            "num_attention_heads": 6,
            "num_key_value_heads": 3,
            "head_dim": 14,
            "intermediate_size": 90,
            "num_hidden_layers": 4,
            "vocab_size": 139,
            "query_pre_attn_scalar": 9,
            "sliding_window": 17,
            "attn_logit_softcapping": 3.0,
            "final_logit_softcapping": 5.0,
        },
        norm_centre=0.0,
    ),
    "mixtral": Family(
        "MixtralConfig",
        "MixtralForCausalLM",
        {
            "hidden_size": 40,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "head_dim": 6,
            "intermediate_size": 52,
            "num_hidden_layers": 4,
            "vocab_size": 137,
            "num_local_experts": 5,
            "num_experts_per_tok": 3,
        },
    ),
    # Twelve experts: sorted as strings, "10" comes before "2".
    "qwen3_moe": Family(
        "Qwen3MoeConfig",
        "Qwen3MoeForCausalLM",
        {
            "hidden_size": 36,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "head_dim": 8,
            "intermediate_size": 58,
            "moe_intermediate_size": 28,
            "num_hidden_layers": 4,
            "vocab_size": 127,
            "num_experts": 12,
            "num_experts_per_tok": 5,
            "norm_topk_prob": True,
        },
    ),
    # Twelve layers, for the same reason.
    "gpt2": Family(
        "GPT2Config",
        "GPT2LMHeadModel",
        {"n_embd": 40, "n_head": 5, "n_inner": 76, "n_layer": 12, "vocab_size": 113, "n_positions": 160},
    ),
    "bert": Family(
        "BertConfig",
        "BertModel",
        {
            "hidden_size": 54,
            "num_attention_heads": 6,
            "intermediate_size": 100,
            "num_hidden_layers": 4,
            "vocab_size": 151,
            "max_position_embeddings": 160,
            "type_vocab_size": 3,
        },
    ),
}


def write_checkpoint(family: str, folder: Path, seed: int = 0, *, dtype: str = "float32", **overrides: Any) -> Path:
    """Write ``config.json`` and ``model.safetensors`` of one of ``FAMILIES`` into ``folder`` and return it.

    Matrices have standard deviation ``1 / sqrt(fan_in)``, norm scales ``centre + 0.2 N``, biases ``0.1 N``.
    ``overrides`` are fields of the transformers configuration. Raises KeyError for an unknown family.
    """
    import torch
    import transformers

    kind = FAMILIES[family]
    config = getattr(transformers, kind.config)(**{**_NO_SPECIAL_TOKENS, **kind.sizes, **overrides})
    model = getattr(transformers, kind.model)(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(_scaled(noise, name, type(module).__name__, kind.norm_centre))
    bars = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        model.to(getattr(torch, dtype)).save_pretrained(folder)
    finally:
        if bars:
            transformers.utils.logging.enable_progress_bar()
    return Path(folder)


def _scaled(noise: Any, name: str, module: str, norm_centre: float) -> Any:
    if name.endswith("bias"):
        return 0.1 * noise
    if noise.ndim == 1:
        return norm_centre + 0.2 * noise
    fan_in = noise.shape[0] if module == "Conv1D" else noise.shape[-1]  # Conv1D keeps its weight as [in, out]
    return noise / fan_in**0.5
