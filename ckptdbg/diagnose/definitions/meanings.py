"""What settings mean, by the names that configurations and modules use for them. Data: nothing here knows a model."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Meaning:
    """Something that two models may define differently."""

    name: str
    """For people."""
    fields: str
    """Names it goes by, as a regular expression over a whole field name in lower case."""
    mixes_positions: bool = False
    """Whether it cannot matter at the first position of a causal model: that token sees nothing but itself."""
    absent: bool = False
    """Whether a model may do without it (null in its configuration)."""
    saturates: bool = False
    """Whether one other value may change nothing on a short probe where yet another does."""
    normal: Callable[[object], object] = lambda value: value
    """A value in the form in which two sides are compared."""


def _activation(value: object) -> object:
    """One name for each activation function."""
    text = str(value).lower()
    if text in ("gelu_pytorch_tanh", "gelu_tanh", "gelu_new", "gelu_fast", "gelu_approx", "gelu_approximate"):
        return "gelu by tanh"
    return {"swish": "silu", "swiglu": "silu", "quick_gelu": "gelu by sigmoid", "relu2": "relu squared"}.get(text, text)


_PARTS = r"(?:embeddings?_|emb_|scaling_)?"

BASE = Meaning("the rotary base", rf"(rope|rotary)_{_PARTS}(theta|base|max_timescale)|theta|rope_local_base_freq", True)
FRACTION = Meaning(
    "the rotated part of each head",
    r"partial_rotary_factor|(rope|rotary)_(pct|percent(age)?|fraction|factor|dims?|ndims)",
    True,
    saturates=True,
)
STRETCH = Meaning("the scaling of rotary positions", r"rope_(scaling_)?(factor|scale|linear_factor)|factor", True)
ROPE_TYPE = Meaning("the kind of rotary scaling", r"rope_(type|scaling_type)", True, saturates=True)
EPSILON = Meaning("the epsilon of the norms", r"(?!router_).*(eps|epsilon)")
ACTIVATION = Meaning(
    "the activation function",
    r"(hidden_|mlp_|ffn_)?(act|activation)s?(_fn|_func|_function|_type)?",
    normal=_activation,
)
SCALE = Meaning(
    "the scale of the attention scores",
    r"(attn_|attention_|softmax_|score_|qk_|query_)?(scale|scaling|multiplier|norm_factor|scale_factor)",
    True,
)
QUERY_SCALAR = Meaning("the number whose root divides the queries", r"query_pre_attn_scalar", True)
SCORE_CAP = Meaning(
    "the soft cap of the attention scores",
    r"att(ention|n)_(logits?_|scores?_)?(soft_?)?cap(ping)?|soft_?cap|logits?_soft_?cap(ping)?",
    True,
    absent=True,
)
FINAL_CAP = Meaning("the soft cap of the logits", r"(final|output|lm_head)_(logits?_)?(soft_?)?cap(ping)?", absent=True)
WINDOW = Meaning(
    "the sliding window",
    r"(sliding_|local_|att(ention|n)_)?window(_size|_length)?|local_attention",
    True,
    absent=True,
    saturates=True,
)
CAUSAL = Meaning("the causal mask", r"(is_)?causal|use_causal_mask|is_decoder")
ORDER = Meaning("the order of rotation with query/key norm", r"qk_?norm_(after|before)_rope|(rope|rotary)_first", True)
EMBEDDING_SCALE = Meaning(
    "the scale of the embedding",
    r"(scalar_)?embed(ding|dings|_tokens)?_(scale|multiplier|scaling)|scale_emb(eddings?)?|normalize_embeddings",
)
EXPERTS = Meaning(
    "the number of experts per token",
    r"num_experts_per_tok(en)?|(router_|moe_|num_)?top_?k(_experts)?|num_selected_experts|experts_per_token",
)
ROUTER_NORM = Meaning(
    "the normalisation of the experts' weights",
    r"(re)?normali[sz]e_top_?k.*|norm_top_?k_prob|(re)?normali[sz]e_router.*",
)
POSITIONS = Meaning("the first position", r"position_offset|(position|pos)_(start|base)|padding_offset")
TIED = Meaning(
    "a head of its own, or the embedding as the head", r"tied?_(word_)?embeddings|tied?_head|logits_via_embedding"
)
NORM_OFFSET = Meaning(
    "what is added to the norm scales", r"norm_offset|(rms_?)?norm_(plus_one|add_unit_offset)|unit_offset"
)

MEANINGS = (
    BASE, FRACTION, STRETCH, ROPE_TYPE, EPSILON, ACTIVATION, QUERY_SCALAR, SCORE_CAP, FINAL_CAP, WINDOW, CAUSAL, ORDER,
    EMBEDDING_SCALE, EXPERTS, ROUTER_NORM, POSITIONS, TIED, NORM_OFFSET, SCALE,
)  # fmt: skip
FACTORS = (SCALE, QUERY_SCALAR, EMBEDDING_SCALE, NORM_OFFSET)
"""What a mapping may fold into a tensor as well."""


def meaning_of(field: str) -> Meaning | None:
    """What a field or an attribute (the last part of its path) means; None where nothing here knows."""
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", field.rpartition(".")[2]).lower()
    return next((m for m in MEANINGS if re.fullmatch(m.fields, name)), None)
