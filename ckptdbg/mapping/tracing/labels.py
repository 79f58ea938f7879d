"""The places of a target's elements, read from the recorded ops that make it: exact, and in next to no memory.

Each source is labelled with the index along one axis at a time, which is constant along all others, and the ops are
done on those labels in float64. Random values along one axis at a time tell what the ops do to values, in the dtypes
that they really have.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.checkpoint.dtypes import as_dtype
from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.mapping.tracing.joining import Places, Unfactored
from ckptdbg.mapping.tracing.origins import CONSTANT, NOT_AFFINE, NOT_FINITE, NOT_LINEAR, rounded_like
from ckptdbg.mapping.tracing.recorded import Program
from ckptdbg.mapping.tracing.spread import Spread, together

Array = NDArray[Any]
# Rounds of random values where the function scales: some 10 to 60 times as many as the longest axis has indices.
_ROUNDS = 64
_WHOLE = 1e-3  # a decoded label is whole up to the rounding of a scale in float64


def read_places(program: Program, specs: Sequence[TensorSpec]) -> Places:
    """The places of every element in tensors of ``specs``, one for each of the program's sources. Raises Unfactored
    where it is no affine index map."""
    if not specs:
        raise Unfactored(CONSTANT)
    zero = _filled(program, specs, lambda _: 0.0)
    scale = _binary(np.subtract, _filled(program, specs, lambda _: 1.0), zero)
    if not (np.isfinite(zero.base).all() and np.isfinite(scale.base).all()):
        raise Unfactored(NOT_FINITE)
    decode = _Decoder(zero, scale)
    ordinal = decode(_filled(program, specs, float), -1)
    if ordinal.base.max(initial=-1) >= len(specs):
        raise Unfactored(NOT_AFFINE)
    axes = range(max(1, *(len(s.shape) for s in specs)))
    terms = tuple(decode(program.spread(lambda i, a=a: _steps(specs[i], a), exact=True), 0) for a in axes)
    pairs = [
        _constant_pair(program, specs, ordinal),
        *(_random_pair(program, specs, ordinal, terms, a, 0) for a in axes),
    ]
    if not _only_moved(scale, zero):  # a factor and its rounding are told by more values than an axis is long
        longest = max(axes, key=lambda axis: max(s.shape[axis] if axis < len(s.shape) else 0 for s in specs))
        pairs += [_random_pair(program, specs, ordinal, terms, longest, i) for i in range(1, _ROUNDS)]
    before, after = zip(*pairs, strict=True)
    places = Places(ordinal, terms, scale, zero, before, after)
    for one, other in pairs:
        values, made, factor, shift = together([one, other, scale, zero])
        if not rounded_like(values * factor + shift, made.astype(np.float64), factor):
            raise Unfactored(NOT_LINEAR)
    if not (ordinal.base >= 0).any():
        raise Unfactored(CONSTANT)
    return places


def _only_moved(scale: Spread, shift: Spread) -> bool:
    return not shift.base.any() and bool(np.isin(scale.base, (0, 1)).all())


def _filled(program: Program, specs: Sequence[TensorSpec], value: Callable[[int], float]) -> Spread:
    return program.spread(lambda i: _constant(specs[i], value(i)), exact=True).each(lambda b: b.astype(np.float64))


def _constant(spec: TensorSpec, value: float) -> Spread:
    return Spread(np.full([1] * len(spec.shape), value), spec.shape)


def _steps(spec: TensorSpec, axis: int) -> Spread:
    """What the index along one axis adds to the flat index."""
    if axis >= len(spec.shape):
        return _constant(spec, 0.0)
    stride = float(np.prod(spec.shape[axis + 1 :], dtype=np.int64))
    return _along(spec, axis, stride * np.arange(spec.shape[axis]))


def _along(spec: TensorSpec, axis: int, line: Array) -> Spread:
    """One value for each index of an axis; a line of one value where there is no such axis."""
    return Spread(line.reshape([-1 if a == axis else 1 for a in range(len(spec.shape))]), spec.shape)


class _Decoder:
    def __init__(self, zero: Spread, scale: Spread) -> None:
        self.zero, self.scale = zero, scale

    def __call__(self, pushed: Spread, dead: int) -> Spread:
        """Whole numbers from what a label became; ``dead`` where nothing of a source is left."""
        value, zero, scale = together([pushed, self.zero, self.scale])
        alive = scale != 0
        exact = np.where(alive, (value.astype(np.float64) - zero) / np.where(alive, scale, 1.0), dead)
        whole = np.rint(exact)
        wrong = ~(np.abs(exact - whole) <= _WHOLE * np.maximum(1, np.abs(whole) * 1e-9)) | (alive & (whole < 0))
        if wrong.any():
            raise Unfactored(NOT_AFFINE)
        return Spread(whole.astype(np.int64), pushed.shape)


def _constant_pair(program: Program, specs: Sequence[TensorSpec], ordinal: Spread) -> tuple[Spread, Spread]:
    """The same for a random number of its own in each source: what two of them make together shows."""
    numbers = [np.random.default_rng([37, i]).standard_normal(1).astype(as_dtype(s.dtype)) for i, s in enumerate(specs)]
    after = program.spread(lambda i: Spread(numbers[i].reshape([1] * len(specs[i].shape)), specs[i].shape), exact=False)
    of = np.array([0.0, *(n.astype(np.float64)[0] for n in numbers)])
    return ordinal.each(lambda base: of[base + 1]), after


def _random_pair(
    program: Program, specs: Sequence[TensorSpec], ordinal: Spread, terms: Sequence[Spread], axis: int, again: int
) -> tuple[Spread, Spread]:
    """Random values along one axis of every source, as they lie in the target, and what the program made of them.
    Sources whose axis is equally long have the same ones: joined, they are still constant along other axes."""
    lines = [_random_line(spec, axis, again) for spec in specs]
    after = program.spread(lambda i: _along(specs[i], axis, lines[i]), exact=False)
    which, offset = together([ordinal, terms[axis]])
    before = np.zeros(which.shape)
    for i in np.unique(which[which >= 0]):
        here = which == i
        rest = np.prod(specs[i].shape[axis + 1 :], dtype=np.int64)
        at = offset[here] // rest if axis < len(specs[i].shape) else 0
        before[here] = lines[i].astype(np.float64)[at]
    return Spread(before, ordinal.shape), after


def _random_line(spec: TensorSpec, axis: int, again: int) -> Array:
    """One value for every index of an axis; one for all where there is no such axis."""
    size = spec.shape[axis] if axis < len(spec.shape) else 1
    return np.random.default_rng([31, axis, again]).standard_normal(size).astype(as_dtype(spec.dtype))


def _binary(op: Callable[[Array, Array], Array], a: Spread, b: Spread) -> Spread:
    return Spread(op(*together([a, b])), a.shape)
