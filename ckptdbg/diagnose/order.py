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
    digits = _factors(expected.reshape(-1), actual.reshape(-1))
    if (pattern := _pattern(digits, expected.shape)) is not None:
        return f"permuted: {pattern} of what the mapping makes"
    if (pattern := _pattern(digits, (expected.size,))) is not None:
        return f"permuted: {pattern} of all its elements in a row, as by a reshape where a transpose belongs"
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


def _factors(expected: Array, actual: Array) -> list[Digit]:
    """The factors that the permutation of all elements is one of; none where it is no such permutation."""
    digits = _digits(_taken(expected, actual)) or []
    return digits if digits and np.array_equal(expected[_made_by(digits)], actual) else []


def _pattern(digits: Sequence[Digit], shape: Sequence[int]) -> str | None:
    """The permutation as an einops pattern, where it is one of factors of the axes."""
    bounds = [math.prod(shape[axis:]) for axis in range(1, len(shape))]
    parts = _split(digits, bounds, by_stride=False)
    whole = None if parts is None else _split(parts, bounds, by_stride=True)
    if whole is None or not 1 < len(whole) <= len(ascii_lowercase):
        return None
    due = sorted(whole, key=lambda digit: -digit.stride)
    names = dict(zip(due, ascii_lowercase, strict=False))
    left, right = _grouped(due, names, shape), _grouped(whole[::-1], names, shape)
    sizes = ", ".join(f"{names[digit]} {digit.size}" for digit in due)
    return f'"{left} -> {right}" ({sizes})'


def _taken(expected: Array, actual: Array) -> Array:
    """Which element of ``expected`` each of ``actual`` is; -1 where several have its value, as in any large tensor."""
    due, found = np.argsort(expected, kind="stable"), np.argsort(actual, kind="stable")
    again = np.append(np.diff(expected[due]) == 0, False)
    alone = ~(again | np.roll(again, 1))
    taken = np.full(len(actual), -1)
    taken[found[alone]] = due[alone]
    return taken


def _digits(taken: Array) -> list[Digit] | None:
    """The factors of an index map, innermost first, as far as it is known (not -1); None where it is no permutation of
    factors."""
    digits, block = [], 1
    while block < len(taken):
        steps = taken[::block]
        known = np.flatnonzero(steps >= 0)
        first = next((int(i) for i in known if i), 0)
        if not first or steps[0] > 0 or steps[first] % first:
            return None
        stride = int(steps[first]) // first
        off = known[steps[known] != known * stride]
        most = int(off[0]) if len(off) else len(steps)
        size = next((n for n in range(most, 1, -1) if len(steps) % n == 0), 1)
        if size < 2:
            return None
        digits.append(Digit(size, stride))
        block *= size
    made = _made_by(digits)
    return digits if len(made) == len(taken) and np.all((taken < 0) | (made == taken)) else None


def _made_by(digits: Sequence[Digit]) -> Array:
    """The index map of these factors."""
    made = np.zeros(1, np.int64)
    for size, stride in digits:
        made = (np.arange(size)[:, None] * stride + made).reshape(-1)
    return made


def _split(digits: Sequence[Digit], bounds: Sequence[int], *, by_stride: bool) -> list[Digit] | None:
    """The same factors, none of which reaches over the end of an axis; None where an end divides no factor."""
    for bound in bounds:
        below, result = 1, []
        for size, stride in digits:
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
    return list(digits)


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
