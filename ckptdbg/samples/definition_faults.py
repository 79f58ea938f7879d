"""Faults in the target's code: every tensor is right, the model around them is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ckptdbg.samples.fault import ALL, LLAMA, MOE, ROTARY, Difference, Effect, Fault, fault_table

Options = dict[str, Any]


def definition_fault(
    name: str,
    description: str,
    pairs: tuple[str, ...],
    edit: Callable[[Options], None] | None = None,
    *,
    difference: Difference,
    region: tuple[str, ...] = (),
    entries: tuple[str, ...] = (),
    effect: Effect = "diverges",
    **options: Any,
) -> Fault:
    """A fault of kind ``definition``: other values of the target's options. ``entries``: with which the mapping can
    make up for it."""

    def set_options(current: Options) -> None:
        current.update(options)

    return Fault(
        name,
        description,
        "definition",
        pairs,
        edit or set_options,
        difference,
        entries,
        effect=effect,
        region=region,
        mended_by=entries,
    )


def _defined(says: str, by: float | None = None) -> Difference:
    return Difference("defined", by=by, says=says)


def multiplied(option: str, factor: float) -> Callable[[Options], None]:
    """An edit: an option times ``factor``."""

    def edit(current: Options) -> None:
        current[option] *= factor

    return edit


def plus(option: str, step: int) -> Callable[[Options], None]:
    """An edit: an option plus ``step``."""

    def edit(current: Options) -> None:
        current[option] += step

    return edit


_GEMMA2 = ("gemma2_to_jax",)
_LEARNED_POSITIONS = ("gpt2_to_jax", "bert_to_jax")
_HALF_SPLIT_GELU = ("gemma2_to_jax", "gpt2_to_jax")
_QK_NORM = ("qwen3_to_nnx", "qwen3_moe_to_jax")
# Prefixes of entry names: what a definition lies next to.
_ROTATED, _MLP_OR_EXPERTS = ("attention.qkv", "attention.query", "attention.key"), ("mlp.", "moe.")
_SCORES = (*_ROTATED, "attention.value", "attention.out")
_RMS_NORMS = ("attention.norm", "mlp.norm", "final_norm", "attention.query_norm", "attention.key_norm")
_CAUSAL = tuple(pair for pair in ALL if pair not in ("gemma2_to_jax", "bert_to_jax"))

DEFINITION_FAULTS = fault_table(
    definition_fault(
        "rope-theta",
        "the rotary base is 50 times that of the source",
        ROTARY,
        multiplied("rope_theta", 50.0),
        difference=_defined("rotary base|theta", by=50.0),
        region=_ROTATED,
    ),
    definition_fault(
        "rope-partial",
        "only half of each head is rotated",
        (*LLAMA, "qwen3_to_nnx"),
        difference=_defined("rotated part|fraction|partial"),
        region=_ROTATED,
        rope_fraction=0.5,
    ),
    definition_fault(
        "norm-epsilon",
        "the norms' epsilon is 100 times that of the source",
        ROTARY,
        multiplied("norm_epsilon", 100.0),
        difference=_defined("epsilon", by=100.0),
        region=_RMS_NORMS,
    ),
    definition_fault(
        "layer-norm-epsilon",
        "LayerNorm's epsilon is 1e-3",
        _LEARNED_POSITIONS,
        difference=_defined("epsilon"),
        region=("attention.norm", "mlp.norm", "final_norm", "embedding.norm"),
        norm_epsilon=1e-3,
    ),
    definition_fault(
        "gelu-for-silu",
        "GELU where the source has SiLU",
        (*LLAMA, *MOE),
        difference=_defined("silu.*gelu|gelu.*silu"),
        region=_MLP_OR_EXPERTS,
        activation="gelu",
    ),
    definition_fault(
        "gelu-tanh",
        "GELU by tanh where the source has the exact one",
        ("bert_to_jax",),
        difference=_defined("gelu by tanh"),
        region=_MLP_OR_EXPERTS,
        activation="gelu_tanh",
    ),
    definition_fault(
        "gelu-exact",
        "exact GELU where the source has the one by tanh",
        _HALF_SPLIT_GELU,
        difference=_defined("gelu by tanh"),
        region=_MLP_OR_EXPERTS,
        activation="gelu",
    ),
    definition_fault(
        "attention-scale",
        "attention scores are halved",
        ALL,
        difference=_defined("scale of the attention|attention scale", by=0.5),
        region=_SCORES,
        attention_scale=0.5,
    ),
    definition_fault(
        "no-causal-mask", "tokens look ahead", _CAUSAL, difference=_defined("causal|mask"), region=_SCORES, causal=False
    ),
    definition_fault(
        "causal-mask",
        "tokens do not look ahead where they should",
        ("bert_to_jax",),
        difference=_defined("causal|mask"),
        region=_SCORES,
        causal=True,
    ),
    definition_fault(
        "qk-norm-after-rope",
        "query and key are normed after the rotation",
        _QK_NORM,
        difference=_defined("before the rotation|order of"),
        region=_ROTATED,
        qk_norm_after_rope=True,
    ),
    definition_fault(
        "attention-cap-missing",
        "no soft cap on attention scores",
        _GEMMA2,
        difference=_defined("cap"),
        region=_SCORES,
        attention_cap=None,
    ),
    definition_fault(
        "final-cap-missing",
        "no soft cap on the logits",
        _GEMMA2,
        difference=_defined("cap"),
        region=("embedding", "head"),
        final_cap=None,
    ),
    definition_fault(
        "window-missing", "no sliding window", _GEMMA2, difference=_defined("window"), region=_SCORES, window=None
    ),
    definition_fault(
        "window-off-by-one",
        "the sliding window is one token wider",
        _GEMMA2,
        plus("window", 1),
        difference=_defined("window"),
        region=_SCORES,
    ),
    definition_fault(
        "embedding-scale-missing",
        "the embedding is not multiplied by sqrt(hidden)",
        _GEMMA2,
        difference=_defined("scale of the embedding|embedding.* (scaled|multiplied)"),
        region=("embedding",),
        embedding_scale=False,
    ),
    definition_fault(
        "norm-offset-in-both",
        "the target adds 1 to its norm scales, and so does the mapping",
        _GEMMA2,
        difference=Difference("shifted", by=1.0),
        norm_offset=1.0,
        entries=("attention.norm", "attention.norm_after", "mlp.norm", "mlp.norm_after", "final_norm"),
    ),
    definition_fault(
        "router-top-k",
        "the router picks one expert fewer",
        MOE,
        plus("top_k", -1),
        difference=_defined("experts per token|top.?k|chosen"),
        region=("moe.",),
    ),
    definition_fault(
        "router-not-normalised",
        "the chosen experts' weights do not add up to one",
        MOE,
        difference=_defined("normali"),
        region=("moe.",),
        normalise_top_k=False,
    ),
    definition_fault(
        "position-offset",
        "learned positions start at 1",
        _LEARNED_POSITIONS,
        difference=_defined("first position|position_offset|starts? at"),
        region=("positions", "embedding.position"),
        position_offset=1,
    ),
    definition_fault(
        "head-bfloat16",
        "the head computes in bfloat16: a floor, no fault",
        tuple(pair for pair in ALL if pair != "bert_to_jax"),
        difference=_defined("bfloat16"),
        region=("head", "embedding"),
        effect="rounding",
        logits_dtype="bfloat16",
    ),
)
