"""Indices along one axis as digits of a mixed radix, each with a stride in the source: cut, split, in one form."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

Base = tuple[int, ...]


class TooManyPieces(ValueError):
    """What would have to be kept in more pieces than is sensible."""


@dataclass(frozen=True)
class Digit:
    """One factor of an index: ``size`` steps, each ``stride`` further along ``axis`` of the source; axis -1 goes
    nowhere."""

    size: int
    axis: int
    stride: int


Digits = tuple[Digit, ...]


@dataclass(frozen=True)
class Run:
    """A part of an axis: ``offset`` in it, its digits (outermost first), and the source's coordinates at its start."""

    offset: int
    digits: Digits
    base: Base

    @property
    def length(self) -> int:
        return length(self.digits)


def length(digits: Sequence[Digit]) -> int:
    """How many indices digits count."""
    return math.prod(digit.size for digit in digits)


def moved(base: Base, digit: Digit, steps: int) -> Base:
    """Coordinates ``steps`` of a digit further."""
    if digit.axis < 0 or not steps:
        return base
    return (*base[: digit.axis], base[digit.axis] + steps * digit.stride, *base[digit.axis + 1 :])


def cut(digits: Digits, base: Base, start: int, stop: int) -> Iterator[Run]:
    """The indices ``start`` to ``stop`` (not included) as runs, in their order; offsets count from ``start``."""
    if start >= stop:
        return
    if not digits:
        yield Run(0, (), base)
        return
    first, rest = digits[0], digits[1:]
    inner = length(rest)
    head = min(stop, -(-start // inner) * inner)
    if start < head:  # within one value of the first digit
        outer = start // inner
        yield from cut(rest, moved(base, first, outer), start - outer * inner, head - outer * inner)
    whole = (stop - head) // inner
    if whole > 0:
        kept = (Digit(whole, first.axis, first.stride),) if whole > 1 else ()
        yield Run(head - start, (*kept, *rest), moved(base, first, head // inner))
    tail = head + max(whole, 0) * inner
    if tail < stop:
        for run in cut(rest, moved(base, first, tail // inner), 0, stop - tail):
            yield Run(tail - start + run.offset, run.digits, run.base)


def parted(digits: Digits, inner: int) -> tuple[Digits, Digits] | None:
    """Digits in two, the second counting ``inner``; None where a digit does not divide so."""
    right: list[Digit] = []
    for i in range(len(digits) - 1, -1, -1):
        have = length(right)
        if have == inner:
            return digits[: i + 1], tuple(right)
        digit = digits[i]
        if inner % (have * digit.size) == 0:
            right.insert(0, digit)
            continue
        need, rest = divmod(inner, have)
        if rest or digit.size % need:
            return None
        right.insert(0, Digit(need, digit.axis, digit.stride))
        outer = Digit(digit.size // need, digit.axis, digit.stride * need)
        return (*digits[:i], outer), tuple(right)
    return ((), tuple(right)) if length(right) == inner else None


def normal(digits: Digits) -> Digits:
    """The same with neighbours that count on from each other as one: equal for equal maps."""
    found: list[Digit] = []
    for digit in digits:
        if digit.size == 1:
            continue
        last = found[-1] if found else None
        if last is not None and last.axis == digit.axis and last.stride == digit.stride * digit.size:
            found[-1] = Digit(last.size * digit.size, digit.axis, digit.stride)
        else:
            found.append(digit)
    return tuple(found)
