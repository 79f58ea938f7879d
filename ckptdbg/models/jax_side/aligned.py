"""Groups (experts) that stay apart: along which axis of a value the groups of an earlier anchor still lie.

Stacked experts are one equation, but expert 3 of the second matrix is fed by expert 3 of the first alone. Without this
every expert would seem to feed every other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from ckptdbg.models.jax_side.program import Atom, Op, Var
from ckptdbg.models.jax_side.sites import AnchorSite

_MIXES = frozenset({
    "sort", "rev", "gather", "dynamic_slice", "dynamic_update_slice", "concatenate", "dot_general", "fft", "cumsum",
    "cumprod", "cummax", "cummin", "cumlogsumexp", "conv_general_dilated", "scan", "cond", "while",
})  # fmt: skip
"""Results of the operands' shape whose elements do not come from the same place (and all scatters)."""


@dataclass(frozen=True)
class Aligned:
    """The anchors ``first`` to ``first + count - 1`` lie in this order along ``axis``."""

    first: int
    count: int
    axis: int
    sizes: Atom | None = None
    """The group sizes of a grouped matmul: groups of rows along ``axis``; None where each index is a group."""

    @property
    def anchors(self) -> range:
        return range(self.first, self.first + self.count)


def of_anchor(site: AnchorSite, first: int) -> frozenset[Aligned]:
    """How the groups of an anchor lie in its result."""
    if site.ragged is not None:
        return frozenset([Aligned(first, site.groups, 0, site.op.ins[site.ragged])])
    axes = site.output.groups[0]
    return frozenset([Aligned(first, site.groups, axes[0])]) if len(axes) == 1 else frozenset()


def feeds(site: AnchorSite, group: int, all_feeds: frozenset[int], aligned: Iterable[Aligned]) -> frozenset[int]:
    """The feeds of one group of an anchor: of those that lie along its own group axis, only the one of that group."""
    if site.input is None:
        return all_feeds
    axes, sizes = (site.input.groups[1], site.op.ins[site.ragged]) if site.ragged else (site.input.groups[0], None)
    others = all_feeds
    for a in aligned:
        if (a.axis,) == axes and a.count == site.groups and a.sizes is sizes:
            others = others - set(a.anchors) | {a.first + group}
    return others


def follow(op: Op, ins: Iterable[tuple[Atom, frozenset[int], frozenset[Aligned]]], out: Var) -> frozenset[Aligned]:
    """What stays apart in ``out``; ``ins`` are the activations: value, feeds, and what lies apart in it."""
    inputs = list(ins)
    moved = [
        frozenset(m for a in aligned if (m := _move(op, tuple(atom.aval.shape), a, out))) for atom, _, aligned in inputs
    ]
    every = frozenset().union(*moved)
    # A group that also comes in by a way along which it is mixed is not apart any more.
    return frozenset(
        a for a in every if all(a in own or a.first not in fed for own, (_, fed, _) in zip(moved, inputs, strict=True))
    )


def _move(op: Op, shape: tuple[int, ...], a: Aligned, out: Var) -> Aligned | None:
    target = tuple(out.aval.shape)
    match op.name:
        case "transpose":
            return replace(a, axis=op.params["permutation"].index(a.axis))
        case "broadcast_in_dim":
            return replace(a, axis=op.params["broadcast_dimensions"][a.axis])
        case "squeeze":
            gone = op.params["dimensions"]
            return None if a.axis in gone else replace(a, axis=a.axis - sum(axis < a.axis for axis in gone))
        case "reshape":
            before = math.prod(shape[: a.axis])
            found = [i for i, n in enumerate(target) if n == shape[a.axis] and math.prod(target[:i]) == before]
            return replace(a, axis=found[-1]) if found else None
        case "slice" | "split":
            return a if target[a.axis] == shape[a.axis] else None
        case name if name.startswith("reduce_") and "axes" in op.params:
            gone = op.params["axes"]
            return None if a.axis in gone else replace(a, axis=a.axis - sum(axis < a.axis for axis in gone))
    if op.name in _MIXES or op.name.startswith("scatter") or target != shape:
        return None
    return a
