"""Faults in the mapping file: the target is made with it, so tensors and mapping agree and both are wrong."""

from __future__ import annotations

from collections.abc import Callable

from ckptdbg.samples.fault import LLAMA, MOE, NNX, NNX_LLAMA, Difference, Fault, fault_table
from ckptdbg.samples.mapping_edits import (
    also,
    ops,
    order_experts_as_text,
    pattern,
    reverse_sources,
    source,
    swap_neighbours,
    swap_sources,
    without,
)


def mapping_fault(
    name: str,
    description: str,
    pairs: tuple[str, ...],
    entries: tuple[str, ...],
    edit: Callable[..., None],
    difference: Difference,
) -> Fault:
    """A fault of kind ``mapping``."""
    return Fault(name, description, "mapping", pairs, edit, difference, entries)


_UNPERMUTED = "(h d) m -> m h d"
_ATTENTION_NORM, _MLP_NORM = "attention.norm", "mlp.norm"
_GEMMA2, _GPT2, _BERT = ("gemma2_to_jax",), ("gpt2_to_jax",), ("bert_to_jax",)
_QWEN3, _TORCH, _SQUARE = ("qwen3_to_nnx",), ("llama_to_torch",), ("llama_square_to_nnx",)
_GATE_UP = ("mlp.gate", "mlp.up")

MAPPING_FAULTS = fault_table(
    mapping_fault(
        "query-not-interleaved",
        "the query keeps the half-split rotary order of the source; the target rotates neighbours",
        NNX,
        ("attention.query",),
        pattern(_UNPERMUTED),
        Difference("permuted"),
    ),
    mapping_fault(
        "key-not-interleaved",
        "the key keeps the half-split rotary order of the source; the target rotates neighbours",
        NNX,
        ("attention.key",),
        pattern(_UNPERMUTED),
        Difference("permuted"),
    ),
    mapping_fault(
        "query-key-not-interleaved",
        "query and key both keep the half-split rotary order of the source",
        NNX,
        ("attention.query", "attention.key"),
        pattern(_UNPERMUTED),
        Difference("permuted"),
    ),
    mapping_fault(
        "query-interleaved-backwards",
        "the query is permuted with the inverse of the rotary permutation",
        NNX,
        ("attention.query",),
        pattern("(h d two) m -> m h (two d)"),
        Difference("permuted"),
    ),
    mapping_fault(
        "key-permuted-with-query-heads",
        "the rotary permutation of the key takes the number of query heads",
        ("llama_to_nnx", "llama_to_scan"),
        ("attention.key",),
        ops(
            {"rearrange": "(h two d) m -> (h d two) m", "two": 2, "h": "heads"},
            {"rearrange": _UNPERMUTED, "h": "kv_heads"},
        ),
        Difference("permuted"),
    ),
    mapping_fault(
        "qkv-not-interleaved",
        "the fused query-key-value keeps the half-split rotary order of the source",
        _TORCH,
        ("attention.qkv",),
        without("rearrange"),
        Difference("permuted"),
    ),
    mapping_fault(
        "query-norm-not-interleaved",
        "the query's norm scale does not follow the query's rotary permutation",
        _QWEN3,
        ("attention.query_norm",),
        without("rearrange"),
        Difference("permuted"),
    ),
    mapping_fault(
        "query-scale-missing",
        "1/sqrt(head_dim) is not folded into the query",
        NNX_LLAMA,
        ("attention.query",),
        without("scale"),
        Difference("scaled"),
    ),
    mapping_fault(
        "query-scale-twice",
        "1/sqrt(head_dim) is folded into the query twice",
        NNX_LLAMA,
        ("attention.query",),
        also({"scale": "head_dim ** -0.5"}),
        Difference("scaled"),
    ),
    mapping_fault(
        "query-scale-inverted",
        "the query is multiplied by sqrt(head_dim) where it should be divided",
        NNX_LLAMA,
        ("attention.query",),
        lambda node: (without("scale")(node), also({"scale": "head_dim ** 0.5"})(node))[0],
        Difference("scaled"),
    ),
    mapping_fault(
        "value-dim-major",
        "the value's features are split as (head_dim heads) where they are (heads head_dim)",
        (*NNX, *MOE),
        ("attention.value",),
        pattern("(d h) m -> m h d"),
        Difference("permuted"),
    ),
    mapping_fault(
        "out-dim-major",
        "the attention output's inputs are split as (head_dim heads) where they are (heads head_dim)",
        (*NNX, "gemma2_to_jax", *MOE, "bert_to_jax"),
        ("attention.out",),
        pattern("m (d h) -> h d m"),
        Difference("permuted"),
    ),
    mapping_fault(
        "key-value-swapped",
        "key and value take each other's tensor",
        (*NNX, *MOE),
        ("attention.key", "attention.value"),
        swap_sources,
        Difference("exchanged"),
    ),
    mapping_fault(
        "key-value-order",
        "the fused key-value is stacked as value, key",
        _GEMMA2,
        ("attention.key_value",),
        reverse_sources,
        Difference("exchanged"),
    ),
    mapping_fault(
        "qkv-per-head",
        "the fused query-key-value is taken as interleaved per head where its parts lie one after another",
        _GPT2,
        ("attention.qkv",),
        ops(
            {"rearrange": "m (h three d) -> m (three h) d", "three": 3, "h": "heads"},
            {"split": 1},
        ),
        Difference("permuted"),
    ),
    mapping_fault(
        "qkv-bias-per-head",
        "the bias of query-key-value is taken as interleaved per head; its weight is not",
        _GPT2,
        ("attention.qkv_bias",),
        ops({"rearrange": "(h three d) -> (three h) d", "three": 3, "h": "heads"}, {"split": 0}),
        Difference("permuted"),
    ),
    mapping_fault(
        "biases-swapped",
        "the biases of query and value take each other's tensor",
        _BERT,
        ("attention.query_bias", "attention.value_bias"),
        swap_sources,
        Difference("exchanged"),
    ),
    mapping_fault(
        "gate-up-swapped",
        "gate and up projections take each other's tensor",
        NNX,
        _GATE_UP,
        swap_sources,
        Difference("exchanged"),
    ),
    mapping_fault(
        "gate-up-order",
        "the fused gate-up is put together as up, gate",
        ("llama_to_torch", "gemma2_to_jax"),
        ("mlp.gate_up",),
        reverse_sources,
        Difference("exchanged"),
    ),
    mapping_fault(
        "gate-up-interleaved",
        "gate and up rows alternate where the target takes halves",
        _TORCH,
        ("mlp.gate_up",),
        also({"rearrange": "(two f) m -> (f two) m", "two": 2}),
        Difference("permuted"),
    ),
    mapping_fault(
        "expert-gate-up-swapped",
        "gate and up projections of the experts take each other's tensors",
        MOE,
        ("moe.gate", "moe.up"),
        swap_sources,
        Difference("exchanged"),
    ),
    mapping_fault(
        "experts-sorted-as-text",
        "experts are stacked in the order 0, 1, 10, 11, 2, ...; the router's order is numeric",
        ("qwen3_moe_to_jax",),
        ("moe.gate", "moe.up", "moe.down"),
        order_experts_as_text,
        Difference("permuted"),
    ),
    mapping_fault(
        "norms-swapped",
        "the norms before attention and before the MLP take each other's tensor",
        (*LLAMA, "qwen3_to_nnx", "gemma2_to_jax", *MOE, "gpt2_to_jax", "bert_to_jax"),
        (_ATTENTION_NORM, _MLP_NORM),
        swap_sources,
        Difference("exchanged"),
    ),
    mapping_fault(
        "norm-plus-one",
        "1 is added to a norm scale that the target uses as it is",
        (*LLAMA, "qwen3_to_nnx", *MOE),
        (_MLP_NORM,),
        also({"add": 1}),
        Difference("shifted", by=1.0),
    ),
    mapping_fault(
        "norm-plus-one-missing",
        "1 is not added to a norm weight that is stored around zero",
        _GEMMA2,
        (_ATTENTION_NORM,),
        without("add"),
        Difference("shifted", by=-1.0),
    ),
    mapping_fault(
        "norm-plus-one-twice",
        "1 is added twice to a norm weight",
        _GEMMA2,
        ("mlp.norm_after",),
        also({"add": 1}),
        Difference("shifted", by=1.0),
    ),
    mapping_fault(
        "layers-in-pairs-swapped",
        "the down projections of layers 0 and 1, 2 and 3, ... are taken from each other",
        NNX_LLAMA,
        ("mlp.down",),
        swap_neighbours,
        Difference("exchanged"),
    ),
    mapping_fault(
        "down-not-transposed",
        "a square matrix is not transposed",
        _SQUARE,
        ("mlp.down",),
        without("rearrange"),
        Difference("transposed"),
    ),
    mapping_fault(
        "head-wrongly-tied",
        "the head is made from the embedding; the source has a head of its own",
        LLAMA,
        ("head",),
        source("model.embed_tokens.weight"),
        Difference("exchanged"),
    ),
)
