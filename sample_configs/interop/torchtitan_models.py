"""torchtitan's own Llama 3 and Qwen 3, at any size, on the CPU. Written for torchtitan 0.3.0.

Importing torchtitan needs triton. Its attention backends for language models need an accelerator or compile at first
use; its own ``ScaledDotProductAttention``, causal and without packed documents, runs anywhere and takes their place.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import nn
from torchtitan.models.common import ComplexRoPE, Embedding, Linear, RMSNorm
from torchtitan.models.common.attention import ScaledDotProductAttention
from torchtitan.models.common.config_utils import make_ffn_config, make_gqa_config
from torchtitan.models.common.rope import CosSinRoPE
from torchtitan.models.llama3.model import Llama3Model, Llama3TransformerBlock
from torchtitan.models.qwen3.model import Qwen3Model, Qwen3TransformerBlock

_KINDS = {
    "llama3": (Llama3Model, Llama3TransformerBlock, ComplexRoPE),
    "qwen3": (Qwen3Model, Qwen3TransformerBlock, CosSinRoPE),
}
_INIT = {"weight": nn.init.normal_, "bias": nn.init.zeros_}


def configure(
    family: str,
    *,
    layers: int,
    dim: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    mlp: int,
    vocab: int,
    norm_epsilon: float,
    rope_theta: float,
    max_length: int,
    fuse_qkv: bool = True,
) -> Any:
    """torchtitan's configuration of one model, ``layers`` blocks all alike."""
    model, block, rope = _KINDS[family]

    def norm(size: int) -> Any:
        return RMSNorm.Config(normalized_shape=size, eps=norm_epsilon, param_init=_INIT)

    def layer() -> Any:
        attention = make_gqa_config(
            dim=dim,
            n_heads=heads,
            n_kv_heads=kv_heads,
            head_dim=head_dim,
            wqkv_param_init=_INIT,
            wo_param_init=_INIT,
            inner_attention=ScaledDotProductAttention.Config(),
            rope=rope.Config(dim=head_dim, max_seq_len=max_length, theta=rope_theta),
            fuse_qkv=fuse_qkv,
            qk_norm=norm(head_dim) if family == "qwen3" else None,
        )
        ffn = make_ffn_config(dim=dim, hidden_dim=mlp, w1_param_init=_INIT, w2w3_param_init=_INIT)
        return block.Config(attention=attention, feed_forward=ffn, attention_norm=norm(dim), ffn_norm=norm(dim))

    return model.Config(
        dim=dim,
        vocab_size=vocab,
        tok_embeddings=Embedding.Config(num_embeddings=vocab, embedding_dim=dim, param_init=_INIT),
        norm=norm(dim),
        lm_head=Linear.Config(in_features=dim, out_features=vocab, param_init=_INIT),
        layers=[layer() for _ in range(layers)],
    )


def load(path: Path | None, family: str, **options: Any) -> nn.Module:
    """The model with the tensors of the safetensors file ``path``, or with none of its own; float32.

    ``options`` are those of ``configure``. Tensors are named as in its ``state_dict()``: ``wq``, ``wk`` and ``wv`` also
    where the model holds one fused ``wqkv``. Raises RuntimeError where names or shapes do not fit.
    """
    model = configure(family, **options).build()
    if path is not None:
        model.load_state_dict(load_file(path))
    return model
