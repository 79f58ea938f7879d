"""Orders of an axis that no einops pattern describes: a rotary order of a part of each head, numbers sorted as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ckptdbg.diagnose.edit import ROTARY, TEXT_ORDER
from ckptdbg.mapping.ops import Op, Rearrange, Take

Shape = tuple[int, ...]
# The rotated part of a head: published models have these.
_PARTS = (0.25, 0.5, 0.75, 0.4)
# Fewer numbers than this are sorted alike as text and as numbers.
_TEXT_FROM = 11
# Longer lists are nothing to write into a mapping.
_MOST_LISTED = 512


def listed_orders(shape: Shape, sizes: Mapping[str, int]) -> Iterator[tuple[str, tuple[Op, ...], list[Any]]]:
    """Orders to be put in where an array has this shape: family, ops, and the ops as they are written."""
    for axis, size in enumerate(shape):
        for name, width in _widths(size, sizes):
            yield from _partly_rotary(shape, axis, name, width)
        if _TEXT_FROM <= size <= _MOST_LISTED and size in sizes.values():
            order = sorted(range(size), key=str)
            for indices in (order, np.argsort(order).tolist()):
                yield TEXT_ORDER, (Take(axis, tuple(indices)),), [{"take": axis, "indices": indices}]


def _widths(size: int, sizes: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    """What a head may measure on an axis of this size: a number with a name, so many times as another one says."""
    seen: set[int] = set()
    for name, width in sizes.items():
        count = size // width
        if (
            width <= _MOST_LISTED
            and size % width == 0
            and (count == 1 or count in sizes.values())
            and width not in seen
        ):
            seen.add(width)
            yield name, width


def _partly_rotary(shape: Shape, axis: int, name: str, width: int) -> Iterator[tuple[str, tuple[Op, ...], list[Any]]]:
    """The first part of every head from halves to neighbours or back; the rest stays."""
    names = [*"abcdefg"[: len(shape)]]
    parted = " ".join("h d" if i == axis else n for i, n in enumerate(names))
    joined = " ".join("(h d)" if i == axis else n for i, n in enumerate(names))
    for part in _PARTS:
        turned = round(part * width / 2) * 2
        if not 2 < turned < width:
            continue
        halves = np.arange(turned).reshape(2, -1).T.ravel()
        for order in (halves, np.argsort(halves)):
            indices = [*order.tolist(), *range(turned, width)]
            take = Take(axis + 1, tuple(indices))
            ops = (Rearrange(f"{joined} -> {parted}", {"d": width}), take, Rearrange(f"{parted} -> {joined}", {}))
            written = [
                {"rearrange": f"{joined} -> {parted}", "d": name},
                {"take": axis + 1, "indices": indices},
                {"rearrange": f"{parted} -> {joined}"},
            ]
            yield ROTARY, ops, written
