"""Where the residual stream leaves a numbered part of a model (a layer), told from parameters and the flow of values.

A program has no modules. But where all that is still to be read of what the anchors gave is a single value of the
residual stream's shape, that value is the output of everything before it. A layer's block is the first such value
after the last of its parameters was used, and before any other parameter is. Where there is none, there is no block:
with two streams, or where later layers read values from inside earlier ones.

Iterations of a scan share their parameters' names, so that nothing would tell their blocks apart: they have none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp

from ckptdbg.models.jax_side.program import Block, Op, Var, dtype_of
from ckptdbg.models.jax_side.walk import Walk

_NUMBERED = re.compile(r"(.*\D)?\d+")


@dataclass(frozen=True)
class BlockSite:
    """The output of one layer: a result of the equation ``key``."""

    name: str
    """Path that the layer's parameters have in common, up to the number."""
    parameters: tuple[str, ...]
    key: int
    var: Var


def find_blocks(walk: Walk, tokens: tuple[int, ...]) -> tuple[BlockSite, ...]:
    """The blocks of a walked program, in execution order. ``tokens``: (batch, length)."""
    lookups = [anchor for anchor in walk.anchors if anchor.kind == "lookup"]
    if not lookups:
        return ()
    shape, root = (*tokens, lookups[0].features), walk.root
    layers = _layers(walk)
    last = {layer: place for place, layer in layers}
    lone = _lone(walk, root)
    found = []
    for layer, begin in last.items():
        end = min((place for place, _ in layers if place > begin), default=len(root.ops))
        var = next((v for v in lone[begin:end] if v is not None and _is_stream(v, shape)), None)
        if layer is not None and var is not None:
            key = next(op.key for op in root.ops if var in op.outs)
            names = tuple(name for name in walk.names if name.startswith(f"{layer}/"))
            found.append((begin, BlockSite(layer, names, key, var)))
    return tuple(site for _, site in sorted(found, key=lambda each: each[0]))


def _layers(walk: Walk) -> list[tuple[int, str | None]]:
    """Place among the program's equations and layer, of each anchor and meeting."""
    place = {inner.key: i for i, op in enumerate(walk.root.ops) for inner in _inside(op)}
    uses = [*zip(walk.anchor_slots, walk.anchors, strict=True), *zip(walk.meeting_slots, walk.meetings, strict=True)]
    found = [(place[slot.key], layer_of(name)) for slot, use in uses if not slot.iteration for name in use.parameters]
    scans = [(place[slot.key], None) for slot, _ in uses if slot.iteration]
    return sorted({*found, *scans}, key=lambda each: each[0])


def _inside(op: Op) -> list[Op]:
    return [op, *(inner for body in op.bodies for inner in body.every_op())]


def layer_of(name: str) -> str | None:
    """The path up to its first part that ends in a number: ``decoder/layers_3``, ``layers/3``."""
    parts = name.split("/")
    numbered: Sequence[int] = [i for i, part in enumerate(parts[:-1]) if _NUMBERED.fullmatch(part)]
    return "/".join(parts[: numbered[0] + 1]) if numbered else None


def _lone(walk: Walk, root: Block) -> list[Var | None]:
    """After each equation: the only value fed by an anchor that is still to be read, if it is the only one."""
    live: set[Var] = set()
    found: list[Var | None] = []
    for op in root.ops:
        live.update(var for var in op.outs if walk.feeds(var))
        live.difference_update(root.last_uses[op.key])
        found.append(next(iter(live)) if len(live) == 1 else None)
    return found


def _is_stream(var: Var, shape: tuple[int, ...]) -> bool:
    dtype = dtype_of(var)
    return tuple(var.aval.shape) == shape and dtype is not None and jnp.issubdtype(dtype, jnp.floating)
