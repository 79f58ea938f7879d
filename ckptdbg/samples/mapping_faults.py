"""Faults in the mapping file: the target is made with it, so tensors and mapping agree and both are wrong."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

from ckptdbg.errors import ConfigError
from ckptdbg.samples.fault import LLAMA, MOE, NNX, NNX_LLAMA, Fault, fault_table, split_name

Node = dict[str, Any]


def mapping_fault(
    name: str, description: str, pairs: tuple[str, ...], entries: tuple[str, ...], edit: Callable[..., None]
) -> Fault:
    """A fault of kind ``mapping``."""
    return Fault(name=name, description=description, kind="mapping", pairs=pairs, edit=edit, entries=entries)


def ops(*new: Node) -> Callable[..., None]:
    """An edit: these ops instead, in every entry."""

    def edit(*nodes: Node) -> None:
        for node in nodes:
            node["ops"] = deepcopy(list(new))

    return edit


def also(*new: Node) -> Callable[..., None]:
    """An edit: these ops after the others."""

    def edit(*nodes: Node) -> None:
        for node in nodes:
            node["ops"] = [*node.get("ops", []), *deepcopy(new)]

    return edit


def without(kind: str) -> Callable[..., None]:
    """An edit: no op of this kind."""

    def edit(*nodes: Node) -> None:
        for node in nodes:
            node["ops"] = [op for op in node["ops"] if kind not in op]
            if not node["ops"]:
                del node["ops"]

    return edit


def pattern(new: str) -> Callable[..., None]:
    """An edit: another rearrange pattern, with those axis sizes that still occur in it."""

    def edit(*nodes: Node) -> None:
        for node in nodes:
            for op in node["ops"]:
                if "rearrange" in op:
                    op["rearrange"] = new
                    for size in [key for key in op if key != "rearrange" and key not in new]:
                        del op[size]

    return edit


def source(template: str) -> Callable[[Node], None]:
    """An edit: another source."""

    def edit(node: Node) -> None:
        node["source"] = template

    return edit


def swap_sources(first: Node, second: Node) -> None:
    """An edit: each entry takes the other's source."""
    first["source"], second["source"] = second["source"], first["source"]


def reverse_sources(node: Node) -> None:
    """An edit: the sources in the opposite order."""
    node["source"] = list(reversed(node["source"]))


def swap_neighbours(node: Node) -> None:
    """An edit: layers 0 and 1, 2 and 3, ... take each other's source."""
    node["source"] = node["source"].replace("{layer}", "{layer + 1 - 2 * (layer % 2)}")
    node.setdefault("for", {"layer": "0 .. num_hidden_layers"})


def order_experts_as_text(*nodes: Node) -> None:
    """An edit: experts 0, 1, 10, 11, 2, ..."""
    for node in nodes:
        node["for"] = {"expert": [int(name) for name in sorted(map(str, range(12)))]}


def split_layers(nodes: list[Any], name: str, layers: tuple[int, ...], count: int) -> Node:
    """Give some layers an entry of their own, to be changed; the others keep the entry. Returns the new node.

    Raises ConfigError where the layers are stacked in one tensor, which one entry must make.
    """
    index = next(i for i, node in enumerate(nodes) if node["name"] == name)
    node = nodes[index]
    if "{layer}" not in str(node["target"]):
        raise ConfigError(
            f"entry {name} makes one tensor for all layers",
            hint="plant it in every layer, or plant a fault of kind weights",
        )
    node["for"], others = {"layer": list(layers)}, [i for i in range(count) if i not in layers]
    special = deepcopy(node)
    special["name"] = split_name(name, layers)
    node["for"] = {"layer": others}
    nodes.insert(index + 1, special)
    if not others:
        del nodes[index]
    return special


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
    ),
    mapping_fault(
        "key-not-interleaved",
        "the key keeps the half-split rotary order of the source; the target rotates neighbours",
        NNX,
        ("attention.key",),
        pattern(_UNPERMUTED),
    ),
    mapping_fault(
        "query-key-not-interleaved",
        "query and key both keep the half-split rotary order of the source",
        NNX,
        ("attention.query", "attention.key"),
        pattern(_UNPERMUTED),
    ),
    mapping_fault(
        "query-interleaved-backwards",
        "the query is permuted with the inverse of the rotary permutation",
        NNX,
        ("attention.query",),
        pattern("(h d two) m -> m h (two d)"),
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
    ),
    mapping_fault(
        "qkv-not-interleaved",
        "the fused query-key-value keeps the half-split rotary order of the source",
        _TORCH,
        ("attention.qkv",),
        without("rearrange"),
    ),
    mapping_fault(
        "query-norm-not-interleaved",
        "the query's norm scale does not follow the query's rotary permutation",
        _QWEN3,
        ("attention.query_norm",),
        without("rearrange"),
    ),
    mapping_fault(
        "query-scale-missing",
        "1/sqrt(head_dim) is not folded into the query",
        NNX_LLAMA,
        ("attention.query",),
        without("scale"),
    ),
    mapping_fault(
        "query-scale-twice",
        "1/sqrt(head_dim) is folded into the query twice",
        NNX_LLAMA,
        ("attention.query",),
        also({"scale": "head_dim ** -0.5"}),
    ),
    mapping_fault(
        "query-scale-inverted",
        "the query is multiplied by sqrt(head_dim) where it should be divided",
        NNX_LLAMA,
        ("attention.query",),
        lambda node: (without("scale")(node), also({"scale": "head_dim ** 0.5"})(node))[0],
    ),
    mapping_fault(
        "value-dim-major",
        "the value's features are split as (head_dim heads) where they are (heads head_dim)",
        (*NNX, *MOE),
        ("attention.value",),
        pattern("(d h) m -> m h d"),
    ),
    mapping_fault(
        "out-dim-major",
        "the attention output's inputs are split as (head_dim heads) where they are (heads head_dim)",
        (*NNX, "gemma2_to_jax", *MOE, "bert_to_jax"),
        ("attention.out",),
        pattern("m (d h) -> h d m"),
    ),
    mapping_fault(
        "key-value-swapped",
        "key and value take each other's tensor",
        (*NNX, *MOE),
        ("attention.key", "attention.value"),
        swap_sources,
    ),
    mapping_fault(
        "key-value-order",
        "the fused key-value is stacked as value, key",
        _GEMMA2,
        ("attention.key_value",),
        reverse_sources,
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
    ),
    mapping_fault(
        "qkv-bias-per-head",
        "the bias of query-key-value is taken as interleaved per head; its weight is not",
        _GPT2,
        ("attention.qkv_bias",),
        ops({"rearrange": "(h three d) -> (three h) d", "three": 3, "h": "heads"}, {"split": 0}),
    ),
    mapping_fault(
        "biases-swapped",
        "the biases of query and value take each other's tensor",
        _BERT,
        ("attention.query_bias", "attention.value_bias"),
        swap_sources,
    ),
    mapping_fault("gate-up-swapped", "gate and up projections take each other's tensor", NNX, _GATE_UP, swap_sources),
    mapping_fault(
        "gate-up-order",
        "the fused gate-up is put together as up, gate",
        ("llama_to_torch", "gemma2_to_jax"),
        ("mlp.gate_up",),
        reverse_sources,
    ),
    mapping_fault(
        "gate-up-interleaved",
        "gate and up rows alternate where the target takes halves",
        _TORCH,
        ("mlp.gate_up",),
        also({"rearrange": "(two f) m -> (f two) m", "two": 2}),
    ),
    mapping_fault(
        "expert-gate-up-swapped",
        "gate and up projections of the experts take each other's tensors",
        MOE,
        ("moe.gate", "moe.up"),
        swap_sources,
    ),
    mapping_fault(
        "experts-sorted-as-text",
        "experts are stacked in the order 0, 1, 10, 11, 2, ...; the router's order is numeric",
        ("qwen3_moe_to_jax",),
        ("moe.gate", "moe.up", "moe.down"),
        order_experts_as_text,
    ),
    mapping_fault(
        "norms-swapped",
        "the norms before attention and before the MLP take each other's tensor",
        (*LLAMA, "qwen3_to_nnx", "gemma2_to_jax", *MOE, "gpt2_to_jax", "bert_to_jax"),
        (_ATTENTION_NORM, _MLP_NORM),
        swap_sources,
    ),
    mapping_fault(
        "norm-plus-one",
        "1 is added to a norm scale that the target uses as it is",
        (*LLAMA, "qwen3_to_nnx", *MOE),
        (_MLP_NORM,),
        also({"add": 1}),
    ),
    mapping_fault(
        "norm-plus-one-missing",
        "1 is not added to a norm weight that is stored around zero",
        _GEMMA2,
        (_ATTENTION_NORM,),
        without("add"),
    ),
    mapping_fault(
        "norm-plus-one-twice",
        "1 is added twice to a norm weight",
        _GEMMA2,
        ("mlp.norm_after",),
        also({"add": 1}),
    ),
    mapping_fault(
        "layers-in-pairs-swapped",
        "the down projections of layers 0 and 1, 2 and 3, ... are taken from each other",
        NNX_LLAMA,
        ("mlp.down",),
        swap_neighbours,
    ),
    mapping_fault(
        "down-not-transposed",
        "a square matrix is not transposed",
        _SQUARE,
        ("mlp.down",),
        without("rearrange"),
    ),
    mapping_fault(
        "head-wrongly-tied",
        "the head is made from the embedding; the source has a head of its own",
        LLAMA,
        ("head",),
        source("model.embed_tokens.weight"),
    ),
)
