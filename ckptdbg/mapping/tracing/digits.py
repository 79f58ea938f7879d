"""From an index map to axes: each line of a map along a target axis is read as mixed-radix digits of source axes.

The map of one target tensor over one source tensor gives flat source indices, as a sum of terms. Where it is a
rearrangement, it is a sum of one line per target axis, and each line counts in digits: so many steps of one stride
along one source axis, then so many of the next. The lines alone are factored; that they add up to the whole map is
checked by broadcasting.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.mapping.tracing.spread import Shape, Spread

Array = NDArray[Any]
# A map that does not part into lines along axes is looked at as a whole, up to so many elements: some 1 GB on the way.
MOST_ELEMENTS = 2**25
_SLAB = 2**18  # elements held against their lines at a time


@dataclass(frozen=True)
class Digit:
    """``size`` steps of ``stride`` along the source axis ``axis``; a stride of 0 is a repetition."""

    size: int
    axis: int
    stride: int


@dataclass(frozen=True)
class Factored:
    """An index map over a source of ``shape`` (its own, or flat): the digits of each target axis, outermost first."""

    shape: Shape
    start: tuple[int, ...]
    """Where on each source axis the first element lies."""
    axes: tuple[tuple[Digit, ...], ...]


def factor(index: Sequence[Spread], source: Shape) -> Factored | None:
    """The digits of a map in the target's shape: terms (int64) whose sum is a flat index into ``source``.

    Tried against the source's own axes first, then against the source as one flat axis. None where the map is no sum
    of lines or a line does not count in digits: the caller cuts it, or views the target flat.
    """
    if index[0].size == 0:
        return None
    lines = lines_of(index)
    if lines is None:
        return None
    for shape in dict.fromkeys([source, (math.prod(source),)]):
        found = _factor_lines(sum(int(term.first) for term in index), lines, shape)
        if found is not None:
            return found
    return None


def lines_of(index: Sequence[Spread]) -> list[Array] | None:
    """The offset of each step along each axis; None unless they add up to the whole map."""
    found = [_lines_of_term(term) for term in index]
    if all(lines is not None for lines in found):
        return [sum(lines[1:], lines[0]) for lines in zip(*found, strict=True)]  # type: ignore[arg-type]
    if len(index) == 1:
        return None
    whole = flat(index)  # terms that are no sums of lines may add up to one
    return None if whole is None else _lines_of_term(whole)


def flat(index: Sequence[Spread]) -> Spread | None:
    """The sum of terms; None where it would take too much memory."""
    shape = np.broadcast_shapes(*(term.base.shape for term in index))
    if math.prod(shape) > MOST_ELEMENTS:
        return None
    return Spread(sum(term.base for term in index[1:]) + index[0].base, index[0].shape)


def _lines_of_term(term: Spread) -> list[Array] | None:
    first, ndim = term.first, term.base.ndim
    lines = [term.line(axis) - first for axis in range(ndim)]
    total = np.asarray(first)
    for axis in range(1, ndim):
        along = lines[axis][: term.base.shape[axis]]
        total = total + along.reshape(-1, *[1] * (ndim - axis - 1))
    # along the first axis some at a time: the sum of all would be another whole map
    outer = lines[0][: len(term.base)].reshape(-1, *[1] * (ndim - 1)) if ndim else np.zeros(())
    some = max(1, _SLAB // max(total.size, 1))
    parts = [slice(i, i + some) for i in range(0, len(term.base), some)] if ndim else [()]
    alike = (np.array_equal(np.broadcast_to(total + outer[p], term.base[p].shape), term.base[p]) for p in parts)
    return lines if all(alike) else None


def _factor_lines(first: int, lines: Sequence[Array], shape: Shape) -> Factored | None:
    start = np.unravel_index(first, shape) if shape else ()
    axes = []
    for line in lines:
        if shape and (first + line.min() < 0 or first + line.max() >= math.prod(shape)):
            return None
        steps = np.stack(np.unravel_index(first + line, shape), -1) if shape else np.zeros((len(line), 0), np.int64)
        digits = _digits(steps - np.asarray(start, np.int64))
        if digits is None:
            return None
        axes.append(tuple(digits))
    return Factored(shape, tuple(int(s) for s in start), tuple(axes))


def _digits(steps: Array) -> list[Digit] | None:
    """Innermost digit first while reading, outermost first in the result. ``steps``: ``[n, source axes]``."""
    found: list[Digit] = []
    while len(steps) > 1:
        step = steps[1]
        moving = np.flatnonzero(step)
        if len(moving) > 1:
            return None
        expected = np.arange(len(steps))[:, None] * step
        off = np.flatnonzero((steps != expected).any(axis=1))
        size = int(off[0]) if len(off) else len(steps)
        size = _fitting(steps, size, step)
        if size < 2:
            return None
        axis = int(moving[0]) if len(moving) else 0
        found.append(Digit(size, axis, int(step[axis]) if len(moving) else 0))
        steps = steps[::size]
    return found[::-1]


def _fitting(steps: Array, most: int, step: Array) -> int:
    """The longest run, at most ``most``, that the whole line repeats."""
    for size in range(most, 1, -1):
        if len(steps) % size == 0:
            blocks = steps.reshape(-1, size, steps.shape[1])
            if (blocks - blocks[:, :1] == np.arange(size)[:, None] * step).all():
                return size
    return 1
