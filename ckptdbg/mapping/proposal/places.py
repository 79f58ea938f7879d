"""Norms of a block by their place in it: ``input_layernorm`` and ``attention_norm`` share no word and are the same."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ckptdbg.mapping.proposal.families import Family
from ckptdbg.mapping.proposal.names import Concepts


def located(families: Sequence[Family]) -> list[Concepts]:
    """What each family's name says, a norm of a block by its place among those of its shape instead of by its words, a
    number that tells siblings apart by its rank."""
    said = [_ranked(family, families) for family in families]
    blocks: dict[tuple, list[int]] = {}
    for i, family in enumerate(families):
        if family.block is not None and "norm" in said[i] and not said[i] & {"query", "key", "value"}:
            key = (family.block, family.slots, family.shape, "bias" in said[i])
            blocks.setdefault(key, []).append(i)
    for members in blocks.values():
        ordered = sorted(members, key=lambda i: (_height(said[i]), families[i].order))
        for place, i in enumerate(ordered):
            kept = said[i] & {"norm", "bias", "vision", "audio", "encoder", "decoder", "cross"}
            said[i] = kept | {f"place:{place + 1} of {len(members)}"}
    return said


def _height(said: Concepts) -> float:
    """How far up in a block a norm stands, by its words: attention lies at 1, the feed-forward part at 3."""
    rank = next((int(c.removeprefix("rank:")) for c in said if c.startswith("rank:")), None)
    if rank is not None:
        return 4.0 * rank
    layer = 1.0 if "attention" in said else 3.0 if said & {"mlp", "moe"} else None
    if said & {"after", "out", "down", "final"}:
        return 4.0 if layer is None else layer + 1.0
    if "before" in said:
        return 0.0 if layer is None else layer - 0.5
    return 2.0 if layer is None else layer


def _ranked(family: Family, families: Sequence[Family]) -> Concepts:
    """Numbers that are part of a name as ranks among its siblings: ``norm1`` and ``LayerNorm_0`` are both the first."""
    rest = _without_numbers(family.said)
    if rest == family.said:
        return rest
    siblings = {_numbers(f) for f in families if f.slots == family.slots and _without_numbers(f.said) == rest}
    rank = sorted(siblings).index(_numbers(family))
    if "mlp" in rest and "norm" not in rest and len(siblings) == 2:  # matrices are numbered in the order of their use
        return rest | {("up", "down")[rank]}
    return rest | {f"rank:{rank}"} if len(siblings) > 1 else rest


def _without_numbers(said: Concepts) -> Concepts:
    return frozenset(c for c in said if not c.startswith("number:"))


def _numbers(family: Family) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", family.filled(["" for _ in family.slots]))))
