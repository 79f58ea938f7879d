"""Configurations of torchtitan's mixtures of experts at sizes that differ from each other."""

from __future__ import annotations

from typing import Any

from torch import nn

_INIT = {"weight": nn.init.normal_, "bias": nn.init.zeros_}
_EXPERTS = dict.fromkeys(("w1_EFD", "w2_EDF", "w3_EFD"), nn.init.normal_)

DEEPSEEK = {
    "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "vocab_size": 61, "hidden_size": 24,
    "intermediate_size": 40, "moe_intermediate_size": 16, "num_hidden_layers": 12, "num_attention_heads": 4,
    "num_key_value_heads": 4, "n_routed_experts": 12, "n_shared_experts": 1, "num_experts_per_tok": 3, "n_group": 3,
    "topk_group": 2, "first_k_dense_replace": 2, "q_lora_rank": 14, "kv_lora_rank": 18, "qk_nope_head_dim": 6,
    "qk_rope_head_dim": 4, "head_dim": 4, "v_head_dim": 7,
    "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
}  # fmt: skip
"""Hugging Face's config of the same model."""


def deepseek_v3(*, q_lora_rank: int = 14) -> Any:
    """torchtitan's configuration of the model that ``DEEPSEEK`` describes; a rank of 0 is a plain query projection."""
    # Importing torchtitan warns, which is let pass in the tests alone, not while they are collected.
    from torchtitan.models.common import Embedding, Linear, RMSNorm
    from torchtitan.models.common.rope import ComplexRoPE
    from torchtitan.models.deepseek_v3 import DeepSeekV3Model, build_mla_moe_layers

    dim, vocab = DEEPSEEK["hidden_size"], DEEPSEEK["vocab_size"]
    layers = build_mla_moe_layers(
        n_layers=DEEPSEEK["num_hidden_layers"],
        n_dense_layers=DEEPSEEK["first_k_dense_replace"],
        dim=dim,
        n_heads=DEEPSEEK["num_attention_heads"],
        q_lora_rank=q_lora_rank,
        **{key: DEEPSEEK[key] for key in ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")},
        mscale=1.0,
        dense_hidden_dim=DEEPSEEK["intermediate_size"],
        moe_hidden_dim=DEEPSEEK["moe_intermediate_size"],
        num_experts=DEEPSEEK["n_routed_experts"],
        num_shared_experts=DEEPSEEK["n_shared_experts"],
        router_top_k=DEEPSEEK["num_experts_per_tok"],
        router_score_func="sigmoid",
        attn_backend="flex",
        moe_comm_backend="standard",
        non_blocking_capacity_factor=None,
        linear_init=_INIT,
        norm_init=_INIT,
        depth_init=lambda _: _INIT,
        depth_experts_init=lambda _: _EXPERTS,
        rope=ComplexRoPE.Config(dim=DEEPSEEK["qk_rope_head_dim"], max_seq_len=64, theta=10000.0),
    )
    return DeepSeekV3Model.Config(
        vocab_size=vocab,
        dim=dim,
        tok_embeddings=Embedding.Config(num_embeddings=vocab, embedding_dim=dim, param_init=_INIT),
        norm=RMSNorm.Config(normalized_shape=dim, param_init=_INIT),
        lm_head=Linear.Config(in_features=dim, out_features=vocab, param_init=_INIT),
        layers=layers,
    )
