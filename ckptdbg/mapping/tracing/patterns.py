"""From digits to the ops of a mapping file: a slice, an einops pattern, a repetition."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from string import ascii_lowercase
from typing import Any

from ckptdbg.mapping.tracing.digits import Digit, Factored
from ckptdbg.mapping.tracing.spread import Shape

Ops = list[dict[str, Any]]


@dataclass(frozen=True)
class _Axis:
    """A source axis in digits, outermost first: ``(size, target digit or None)``; None is left out by picking one
    index, ``pick``."""

    parts: tuple[tuple[int, Digit | None, int], ...]
    cut: tuple[int, int] | None
    """``start, stop`` of the part of the axis that is used, where it is not all."""


def ops_of(factored: Factored, source: Shape, target: Shape, names: Mapping[int, str]) -> Ops | None:
    """The ops that turn a source of this shape into a target of this shape; None where no pattern says it (flipped
    axes, elements used twice by overlapping strides). ``names``: axis sizes that have a name, such as 16: head_dim."""
    axes = [_source_axis(axis, factored) for axis in range(len(factored.shape))]
    if any(axis is None for axis in axes):
        return None
    before: Ops = [] if factored.shape == source else [{"reshape": list(factored.shape)}]
    known = [axis for axis in axes if axis is not None]
    before += [{"slice": i, "start": axis.cut[0], "stop": axis.cut[1]} for i, axis in enumerate(known) if axis.cut]
    return shortened(before + _Pattern(known, factored, target, names).ops())


def shortened(ops: Ops) -> Ops:
    """Two reshapes in a row are one."""
    return [op for i, op in enumerate(ops) if not ("reshape" in op and i + 1 < len(ops) and "reshape" in ops[i + 1])]


def _source_axis(axis: int, factored: Factored) -> _Axis | None:
    size, start = factored.shape[axis], factored.start[axis]
    digits = [d for line in factored.axes for d in line if d.axis == axis and d.stride and d.size > 1]
    if any(d.stride < 0 for d in digits):
        return None
    digits.sort(key=lambda d: -d.stride)
    parts: list[tuple[int, Digit | None, int]] = []
    outer = size  # how many indices one step of the digit above spans
    cut = None
    for i, digit in enumerate(digits):
        span = digit.stride * digit.size
        if span < outer and i == 0:
            begin = start - start % digit.stride
            if begin + span > size:
                return None
            cut, start = (begin, begin + span), start - begin
        elif span != outer:
            if outer % span:
                return None
            parts.append((outer // span, None, start // span))
            start %= span
        parts.append((digit.size, digit, 0))
        if start // digit.stride:
            return None
        outer = digit.stride
    if not digits:
        return _Axis(((1, None, 0),), None if size == 1 else (start, start + 1))
    if outer > 1:
        parts.append((outer, None, start))
    return _Axis(tuple(parts), cut)


class _Pattern:
    """One rearrangement: source digits to target digits, with picks and repetitions between."""

    def __init__(self, axes: list[_Axis], factored: Factored, target: Shape, names: Mapping[int, str]) -> None:
        self.axes, self.factored, self.target = axes, factored, target
        self.labels: dict[int, str] = {}
        self.picks: list[tuple[str, int]] = []
        self._names, self._free, self._used = names, ascii_lowercase, set[str]()

    def ops(self) -> Ops:
        left = [self._source(axis) for axis in self.axes]
        moved = [d for line in self.factored.axes for d in line if d.size > 1]
        repeats = [d for d in moved if not d.stride]
        if not self.picks and not repeats:
            return self._tidy(left, [[self.labels[id(d)] for d in line if d.size > 1] for line in self.factored.axes])
        flat = [self.labels[id(d)] for d in moved if d.stride]
        ops = self._rearranged(left, [[name] for name in [*(n for n, _ in self.picks), *flat]])
        for _, index in self.picks:
            ops += [{"slice": 0, "start": index, "stop": index + 1}, {"squeeze": 0}]
        for place, digit in enumerate(moved):
            if not digit.stride:
                ops.append({"expand": place, "size": digit.size})
        sizes = tuple(d.size for d in moved)
        return ops if sizes == self.target else [*ops, {"reshape": list(self.target)}]

    def _source(self, axis: _Axis) -> list[tuple[str, int]]:
        parts = [part for part in axis.parts if part[0] > 1]
        group = []
        for place, (size, digit, index) in enumerate(parts):
            # a size in the middle of an axis is a number of its own: two halves are no two heads
            name = self._label(size, named=place == 0 or len(parts) == 2)
            group.append((name, size))
            if digit is None:
                self.picks.append((name, index))
            else:
                self.labels[id(digit)] = name
        return group

    def _label(self, size: int, named: bool) -> str:
        wanted = [self._names.get(size) if named else None, "two" if size == 2 else None]
        name = next((n for n in [*wanted, *self._free] if n and n not in self._used), "")
        self._used.add(name)
        return name

    def _tidy(self, left: list[list[tuple[str, int]]], right: list[list[str]]) -> Ops:
        """The plainest spelling: nothing, a transpose, a reshape, else a pattern."""
        flat_left, flat_right = [n for group in left for n, _ in group], [n for group in right for n in group]
        if flat_left == flat_right:
            shape = tuple(math.prod(s for _, s in group) for group in left)
            return [] if shape == self.target else [{"reshape": list(self.target)}]
        if len(left) == len(right) == 2 and all(len(g) == 1 for g in [*left, *right]):
            return [{"transpose": [1, 0]}]
        return self._rearranged(left, right)

    def _rearranged(self, left: list[list[tuple[str, int]]], right: list[list[str]]) -> Ops:
        before = " ".join(map(_group, [[n for n, _ in group] for group in left]))
        after = " ".join(map(_group, right))
        if before == after:
            return []
        sizes = {n: s for group in left for n, s in group[:-1]}
        return [{"rearrange": f"{before} -> {after}", **sizes}]


def _group(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"({' '.join(names)})" if names else "1"
