"""In which other order a tensor holds the right values: slices that changed places, or a pattern of axes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from string import ascii_lowercase
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Digit(NamedTuple):
    """A factor of an index: how many values it has, and how far apart they lie in the tensor that is due."""

    size: int
    stride: int


def order_of(expected: Array, actual: Array, axis_names: Mapping[int, str]) -> str | None:
    """One phrase, where ``actual`` holds exactly the values of ``expected`` in another order; None where it does not.

    ``axis_names`` says of stacked axes what they run over.
    """
    moved = [(axis, order) for axis in range(expected.ndim) if (order := _along(expected, actual, axis)) is not None]
    for axis, order in moved:
        if (plain := _plain(order, axis_names.get(axis, "index"), axis)) is not None:
            return plain
    if not np.array_equal(np.sort(expected, axis=None), np.sort(actual, axis=None)):
        return None
    pattern = _pattern(expected, actual)
    if pattern is not None:
        return f"permuted: {pattern} of what the mapping makes"
    if moved:
        axis, order = moved[0]
        some = ", ".join(map(str, order[:6]))
        return f"axis {axis} is in another order: {some}{', ...' if len(order) > 6 else ''}"
    return "the same values in another order"


def _along(expected: Array, actual: Array, axis: int) -> list[int] | None:
    """Which slice along an axis of ``expected`` each slice of ``actual`` is; None where one is none of them."""
    due, found = (np.moveaxis(x, axis, 0) + 0.0 for x in (expected, actual))  # -0.0 is 0.0
    place: dict[bytes, list[int]] = {}
    for i, part in enumerate(due):
        place.setdefault(part.tobytes(), []).append(i)
    order = []
    for part in found:
        same = place.get(part.tobytes())
        if not same:
            return None
        order.append(same.pop(0))
    return order


def _plain(order: Sequence[int], name: str, axis: int) -> str | None:
    """The usual ways in which slices change places."""
    count, moved = len(order), [i for i, j in enumerate(order) if i != j]
    if len(moved) == 2:
        return f"{name} {moved[0]} and {name} {moved[1]} of axis {axis} are exchanged"
    if len(moved) == count and all(j == (i + order[0]) % count for i, j in enumerate(order)):
        steps = (count - order[0]) if order[0] > count // 2 else -order[0]
        return f"axis {axis} is rolled by {steps:+d}"
    if list(order) == list(range(count))[::-1]:
        return f"axis {axis} is reversed"
    if moved and list(order) == sorted(range(count), key=str):
        return f"axis {axis} is in the order of numbers sorted as text: 0, 1, 10, ..."
    return None


def _pattern(expected: Array, actual: Array) -> str | None:
    """The permutation as an einops pattern, where it is one of factors of the axes."""
    taken = np.empty(actual.size, np.int64)
    taken[np.argsort(actual, axis=None, kind="stable")] = np.argsort(expected, axis=None, kind="stable")
    digits = _digits(taken)
    if digits is None or len(digits) < 2:
        return None
    bounds = [math.prod(expected.shape[axis:]) for axis in range(1, expected.ndim)]
    whole = _split(_split(digits, bounds, by_stride=False), bounds, by_stride=True)
    if whole is None or len(whole) > len(ascii_lowercase):
        return None
    due = sorted(whole, key=lambda digit: -digit.stride)
    names = dict(zip(due, ascii_lowercase, strict=False))
    left, right = _grouped(due, names, expected.shape), _grouped(whole[::-1], names, expected.shape)
    sizes = ", ".join(f"{names[digit]} {digit.size}" for digit in due)
    return f'"{left} -> {right}" ({sizes})'


def _digits(taken: Array) -> list[Digit] | None:
    """The factors of an index map, innermost first; None where it is no permutation of factors."""
    digits, block = [], 1
    while block < len(taken):
        steps = taken[::block]
        stride = int(steps[1])
        off = np.flatnonzero(steps != np.arange(len(steps)) * stride)
        size = int(off[0]) if len(off) else len(steps)
        if taken[0] != 0 or size < 2 or len(taken) % (block * size):
            return None
        digits.append(Digit(size, stride))
        block *= size
    made = np.zeros(1, np.int64)
    for size, stride in digits:
        made = (np.arange(size)[:, None] * stride + made).reshape(-1)
    return digits if np.array_equal(made, taken) else None


def _split(digits: list[Digit] | None, bounds: Sequence[int], *, by_stride: bool) -> list[Digit] | None:
    """The same factors, none of which reaches over the end of an axis; None where an end divides no factor."""
    for bound in bounds:
        below, result = 1, []
        for size, stride in digits or []:
            start = stride if by_stride else below
            inner, rest = divmod(bound, start)
            if start < bound < start * size:
                if rest or size % inner:
                    return None
                result += [Digit(inner, stride), Digit(size // inner, stride * inner)]
            else:
                result.append(Digit(size, stride))
            below *= size
        digits = result
    return digits


def _grouped(digits: Sequence[Digit], names: Mapping[Digit, str], shape: Sequence[int]) -> str:
    """One side of a pattern: factors, outermost first, in brackets by axis."""
    groups, rest = [], list(digits)
    for size in shape:
        group: list[str] = []
        while size > 1:
            digit = rest.pop(0)
            size //= digit.size
            group.append(names[digit])
        groups.append(group[0] if len(group) == 1 else f"({' '.join(group)})" if group else "1")
    return " ".join(groups)
