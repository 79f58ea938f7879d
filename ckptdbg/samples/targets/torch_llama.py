"""Llama in torch, in Meta's conventions: neighbouring rotary pairs, ``wqkv`` and ``w13`` fused, a fused norm.

The query, key and value heads lie one after another in ``wqkv`` and share one order of features within a head, so the
values are interleaved like the queries and ``wo`` follows them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

ACTIVATIONS = {"silu": F.silu, "gelu": F.gelu, "gelu_tanh": lambda x: F.gelu(x, approximate="tanh")}


@dataclass(frozen=True)
class Definition:
    """Sizes, and what the code rather than the weights decides."""

    layers: int
    embed: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    vocab: int
    norm_epsilon: float = 1e-6
    rope_theta: float = 10000.0
    rope_fraction: float = 1.0
    attention_scale: float = 1.0
    activation: str = "silu"
    causal: bool = True
    logits_dtype: str = "float32"


class Norm(nn.Module):
    def __init__(self, size: int, epsilon: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.epsilon)


def rotate(x: Tensor, positions: Tensor, theta: float, fraction: float) -> Tensor:
    """Rotate neighbours of the first ``fraction`` of each head. ``x`` is ``[batch, length, heads, head_dim]``."""
    width = 2 * round(fraction * x.shape[-1] / 2)
    frequency = 1.0 / theta ** (torch.arange(0, width, 2, dtype=torch.float32) / width)
    angle = positions[..., None, None].float() * frequency
    cos, sin = angle.cos(), angle.sin()
    even, odd = x[..., :width].unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2)
    return torch.cat([turned.to(x.dtype), x[..., width:]], dim=-1)


class Attention(nn.Module):
    def __init__(self, d: Definition):
        super().__init__()
        self.definition = d
        self.wqkv = nn.Linear(d.embed, (d.heads + 2 * d.kv_heads) * d.head_dim, bias=False)
        self.wo = nn.Linear(d.heads * d.head_dim, d.embed, bias=False)

    def forward(self, x: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        d = self.definition
        heads = self.wqkv(x).unflatten(-1, (-1, d.head_dim))
        q, k, v = heads.split([d.heads, d.kv_heads, d.kv_heads], dim=2)
        q, k = (rotate(part, positions, d.rope_theta, d.rope_fraction) for part in (q, k))
        k, v = (part.repeat_interleave(d.heads // d.kv_heads, dim=2) for part in (k, v))
        scale = d.attention_scale * d.head_dim**-0.5
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
        return self.wo(mixed.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, d: Definition):
        super().__init__()
        self.activation = ACTIVATIONS[d.activation]
        self.w13 = nn.Linear(d.embed, 2 * d.mlp, bias=False)
        self.w2 = nn.Linear(d.mlp, d.embed, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.w13(x).chunk(2, dim=-1)
        return self.w2(self.activation(gate) * up)


class Layer(nn.Module):
    def __init__(self, d: Definition):
        super().__init__()
        self.attention_norm = Norm(d.embed, d.norm_epsilon)
        self.attention = Attention(d)
        self.ffn_norm = Norm(d.embed, d.norm_epsilon)
        self.feed_forward = FeedForward(d)

    def forward(self, x: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x), positions, mask)
        return x + self.feed_forward(self.ffn_norm(x))


class Llama(nn.Module):
    def __init__(self, d: Definition):
        super().__init__()
        self.definition = d
        self.tok_embeddings = nn.Embedding(d.vocab, d.embed)
        self.layers = nn.ModuleList(Layer(d) for _ in range(d.layers))
        self.norm = Norm(d.embed, d.norm_epsilon)
        self.output = nn.Linear(d.embed, d.vocab, bias=False)

    def forward(self, tokens: Tensor, positions: Tensor | None = None, attention_mask: Tensor | None = None) -> Tensor:
        """Logits ``[batch, length, vocab]``, in the dtype of the parameters."""
        length = tokens.shape[1]
        mask = torch.ones(length, length, dtype=torch.bool)
        mask = (mask.tril() if self.definition.causal else mask)[None, None]
        if attention_mask is not None:
            mask = mask & (attention_mask[:, None, None, :] != 0)
        if positions is None:
            positions = torch.arange(length).expand(tokens.shape)
        x = self.tok_embeddings(tokens)
        for layer in self.layers:
            x = layer(x, positions, mask)
        dtype = getattr(torch, self.definition.logits_dtype)
        return F.linear(self.norm(x).to(dtype), self.output.weight.to(dtype)).to(x.dtype)


def load(path: Path | None, *, dtype: str = "float32", **options: Any) -> Llama:
    """The model of ``Definition(**options)`` in ``dtype`` with the tensors at ``path``, or with random ones."""
    model = Llama(Definition(**options)).to(getattr(torch, dtype)).eval()
    if path is not None:
        model.load_state_dict(load_file(path))
    return model
