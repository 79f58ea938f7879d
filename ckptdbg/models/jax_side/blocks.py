"""Where the residual stream leaves a layer, told from parameters and the flow of values.

A program has no modules. But where all that is still to be read of what the anchors gave is a single value of the
residual stream's shape, that value is the output of everything before it. A numbered layer's block is the first such
value after the last of its parameters was used, and before any other parameter is. Where there is none, there is no
block: with two streams, or where later layers read values from inside earlier ones.

A scan over layers makes one block per iteration, whatever its parameters are called: the one value of the residual
stream's shape that it carries on. Where its body is several numbered layers, each of them is one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

import jax.numpy as jnp

from ckptdbg.models.jax_side.program import Atom, Block, Op, Var, dtype_of
from ckptdbg.models.jax_side.walk import Walk

_NUMBERED = re.compile(r"(.*\D)?\d+")
Shape = tuple[int, ...]


@dataclass(frozen=True)
class BlockSite:
    """The output of one layer: a result of the equation ``key``, in one iteration of the scans around it."""

    name: str
    """Path that the layer's parameters have in common, and the iteration: ``decoder/layers_3``, ``layers[3]``."""
    anchors: frozenset[int]
    """Those that ran inside."""
    key: int
    var: Var
    iteration: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Use:
    """A parameter where an anchor or a meeting reads it."""

    place: int
    """Among the equations of the block."""
    layer: str | None
    name: str
    iteration: tuple[int, ...]
    """Of the scans around the block."""
    anchor: int | None


def find_blocks(walk: Walk, tokens: tuple[int, ...]) -> tuple[BlockSite, ...]:
    """The blocks of a walked program, in execution order. ``tokens``: (batch, length)."""
    lookups = [anchor for anchor in walk.anchors if anchor.kind == "lookup"]
    if not lookups:
        return ()
    found = _blocks(walk, walk.root, (), (*tokens, lookups[0].features))
    return tuple(sorted(found, key=lambda site: max(site.anchors)))


def _blocks(walk: Walk, block: Block, scans: tuple[Op, ...], stream: Shape) -> list[BlockSite]:
    """The blocks inside of ``scans``, those of further scans inside included."""
    inner: list[BlockSite] = []
    loops: set[int] = set()
    for place, op in enumerate(block.ops):
        if op.name == "scan" and (found := _blocks(walk, op.bodies[0], (*scans, op), stream)):
            inner += found
            loops.add(place)
    carried = _carried(walk, scans[-1], stream) if scans else None
    if scans and carried is None:
        return inner
    uses = list(_uses(walk, block, len(scans), loops))
    layers = [*inner, *_numbered(walk, block, uses, stream)]
    whole = {use.anchor for use in uses} - {None} == frozenset().union(*(site.anchors for site in layers))
    if carried is None or whole:
        return layers
    return inner or _sites(_common(uses), uses, block, carried)


def _uses(walk: Walk, block: Block, depth: int, loops: set[int]) -> Iterator[_Use]:
    """What is used in a block. Where a loop has blocks of its own, what it uses belongs to no other layer."""
    place = {inner.key: i for i, op in enumerate(block.ops) for inner in _inside(op)}
    anchors = [(slot, anchor, anchor.index) for slot, anchor in zip(walk.anchor_slots, walk.anchors, strict=True)]
    meetings = [(slot, meeting, None) for slot, meeting in zip(walk.meeting_slots, walk.meetings, strict=True)]
    for slot, use, anchor in (*anchors, *meetings):
        if slot.key in place:
            at = place[slot.key]
            for name in use.parameters:
                yield _Use(at, None if at in loops else layer_of(name), name, slot.iteration[:depth], anchor)


def _inside(op: Op) -> list[Op]:
    return [op, *(inner for body in op.bodies for inner in body.every_op())]


def _numbered(walk: Walk, block: Block, uses: Sequence[_Use], stream: Shape) -> list[BlockSite]:
    """Numbered layers, one after the other."""
    last = {use.layer: use.place for use in sorted(uses, key=lambda use: use.place)}
    lone, found = _lone(walk, block), []
    for layer, begin in last.items():
        end = min((use.place for use in uses if use.place > begin), default=len(block.ops))
        var = next((v for v in lone[begin:end] if v is not None and _is_stream(v, stream)), None)
        alone = all(use.layer == layer for use in uses if use.place == begin)
        if layer is not None and var is not None and alone:
            found += _sites(layer, [use for use in uses if use.layer == layer], block, var)
    return found


def _carried(walk: Walk, scan: Op, shape: Shape) -> Var | None:
    """The residual stream that a scan carries on: the only value of that shape, and it enters the scan's anchors."""
    (body,) = scan.bodies
    first, carries = scan.params["num_consts"], scan.params["num_carry"]
    made = {var for op in body.ops for var in op.outs}
    pairs = zip(body.ins[first : first + carries], body.outs[:carries], strict=True)
    changed = [(entering, var) for entering, var in pairs if isinstance(var, Var) and var in made]
    streams = [(entering, var) for entering, var in changed if walk.feeds(var) and _is_stream(var, shape)]
    return streams[0][1] if len(streams) == 1 and _reaches_anchor(walk, body, streams[0][0]) else None


def _reaches_anchor(walk: Walk, body: Block, var: Var) -> bool:
    """Whether an anchor reads what comes of a value: not so of a sum to which an expert after the other is added."""
    keys, reached = {slot.key for slot in walk.anchor_slots}, {var}
    for op in body.ops:
        if not reached.isdisjoint(op.ins):
            if any(inner.key in keys for inner in _inside(op)):
                return True
            reached.update(op.outs)
    return False


def _sites(name: str, uses: Sequence[_Use], block: Block, var: Var) -> list[BlockSite]:
    """One block per iteration of the scans around; none without an anchor."""
    key = next(op.key for op in block.ops if var in op.outs)
    anchors: dict[tuple[int, ...], set[int]] = {}
    for use in uses:
        if use.anchor is not None:
            anchors.setdefault(use.iteration, set()).add(use.anchor)
    return [
        BlockSite(f"{name}{list(iteration) or ''}", frozenset(inside), key, var, iteration)
        for iteration, inside in anchors.items()
    ]


def _common(uses: Sequence[_Use]) -> str:
    """The path that the parameters have in common."""
    levels = zip(*(use.name.split("/") for use in uses), strict=False)
    return "/".join(parts[0] for parts in takewhile(lambda parts: len(set(parts)) == 1, levels))


def layer_of(name: str) -> str | None:
    """The path up to its first part that ends in a number: ``decoder/layers_3``, ``layers/3``."""
    parts = name.split("/")
    numbered: Sequence[int] = [i for i, part in enumerate(parts[:-1]) if _NUMBERED.fullmatch(part)]
    return "/".join(parts[: numbered[0] + 1]) if numbered else None


def _lone(walk: Walk, block: Block) -> list[Var | None]:
    """After each equation: the only value fed by an anchor that is still to be read, if it is the only one."""
    last: dict[Atom, int] = {atom: i for i, op in enumerate(block.ops) for atom in op.ins}
    last |= dict.fromkeys(block.outs, len(block.ops))
    live = {var for var in block.ins if walk.feeds(var)}
    found: list[Var | None] = []
    for i, op in enumerate(block.ops):
        live = {var for var in [*live, *op.outs] if last.get(var, -1) > i and walk.feeds(var)}
        found.append(next(iter(live)) if len(live) == 1 else None)
    return found


def _is_stream(var: Var, shape: Shape) -> bool:
    dtype = dtype_of(var)
    return tuple(var.aval.shape) == shape and dtype is not None and jnp.issubdtype(dtype, jnp.floating)
