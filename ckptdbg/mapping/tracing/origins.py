"""Where every element that a conversion function returns came from: read by running it on numbers that count.

The function is run on zeros, on ones, on the tensor's ordinal and on the element's index, both written in digits that
the tensors' dtypes hold exactly, so that a script which casts to bfloat16 on its way is read as well. What is affine in
one source element decodes to that element; the rest is opaque.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.checkpoint.dtypes import as_dtype
from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.errors import MappingError

Array = NDArray[Any]
Convert = Callable[[dict[str, Array]], Mapping[str, Array]]
"""A conversion: named source tensors to named target tensors. It may change the arrays it is given."""
Run = Callable[[dict[str, Array]], dict[str, Array]]

# Digits are counted in the largest base whose numbers still come out whole where the function rounds to float32,
# float16, bfloat16 or float8 on its way, a scale applied and rounded too (which leaves two bits less than the
# significand has). Each is tried on what the one before could not read.
_BASES = (2**20, 2**9, 2**6, 4)
_LIMIT = {"float16": 2**9, "bfloat16": 2**6, "int8": 2**6, "uint8": 2**6, "int16": 2**9, "uint16": 2**9, "bool": 2}
_OFF = 0.45  # a decoded digit further than this from a whole number was rounded away


@dataclass
class Origin:
    """The elements of one target tensor."""

    name: str
    dtype: np.dtype
    ordinal: Array
    """int64, in the target's shape: which source tensor; -1 for a constant."""
    index: Array
    """int64, in the target's shape: the flat index there."""
    shift: Array
    """float64: the value where every source is zero."""
    scale: Array
    """float64: how much more where every source is one."""
    sample: Array
    """The target for random sources (``Origins.sample``), as the function returned it."""
    opaque: str = ""
    """Why this is no index map, where it is not."""


@dataclass
class Origins:
    """Everything read of one function."""

    specs: dict[str, TensorSpec]
    sample: dict[str, Array]
    """The random source tensors."""
    targets: dict[str, Origin] = field(default_factory=dict)


def read_origins(convert: Convert, specs: Mapping[str, TensorSpec]) -> Origins:
    """Run ``convert`` on probes of these shapes and dtypes. Raises MappingError where it is not deterministic or
    returns other tensors for other values."""
    specs = dict(specs)
    random = {n: random_tensor(s, i) for i, (n, s) in enumerate(specs.items())}
    run = running(convert)
    sample, again = run(random), run(random)
    for name, value in sample.items():
        if name not in again or again[name].shape != value.shape or again[name].tobytes() != value.tobytes():
            raise undetermined(name)
    zero = run({n: np.zeros(s.shape, as_dtype(s.dtype)) for n, s in specs.items()})
    one = run({n: np.ones(s.shape, as_dtype(s.dtype)) for n, s in specs.items()})
    found = Origins(specs, random)
    for name, value in sample.items():
        found.targets[name] = _begin(name, value, zero.get(name), one.get(name))
    for base in _BASES:
        waiting = [o for o in found.targets.values() if o.opaque in (_UNREAD, _WRONG) and o.scale.any()]
        if waiting:
            _read(run, specs, waiting, base)
        for origin in waiting:  # digits that the function clipped come out whole, and wrong
            if not origin.opaque and not _predicted(found, origin):
                origin.opaque = _WRONG
    for origin in found.targets.values():
        if origin.opaque == _UNREAD:
            origin.opaque = NOT_AFFINE
    return found


def undetermined(target: str) -> MappingError:
    """Of a function that makes something else each time."""
    return MappingError(
        f"the conversion gives another {target} when it is run again on the same tensors",
        hint="it must depend on the tensors alone: fix its random seed",
    )


def _predicted(origins: Origins, origin: Origin) -> bool:
    """Whether what was read predicts what the function made of random tensors, up to rounding in its lowest dtype."""
    predicted = gathered(origins, origin) * origin.scale + origin.shift
    return rounded_like(predicted, origin.sample.astype(np.float64), origin.scale)


def rounded_like(predicted: Array, made: Array, scale: Array) -> bool:
    """Whether what a function made is what was predicted, up to rounding in the lowest dtype there is."""
    most = float(np.abs(scale).max(initial=0.0)) or 1.0
    return bool(np.allclose(predicted, made, rtol=_ROUNDED, atol=0.01 * _ROUNDED * most))


_UNREAD = "not read yet"
NOT_AFFINE = "not an affine index map of the source tensors"
NOT_LINEAR = _WRONG = "a value-dependent or non-linear function of the source tensors"
UNSTEADY = "it is there, or has its shape, for some values only"
CONSTANT = "a constant: it comes from no source tensor"
NOT_FINITE = "not finite for zeros or ones"
_ROUNDED = 0.3  # of a value: float8 with two bits of significand, a factor rounded too


def _begin(name: str, sample: Array, zero: Array | None, one: Array | None) -> Origin:
    shape = sample.shape
    empty = np.full(shape, -1, np.int64)
    origin = Origin(name, sample.dtype, empty, empty.copy(), np.zeros(shape), np.zeros(shape), sample, _UNREAD)
    if zero is None or one is None or zero.shape != shape or one.shape != shape:
        origin.opaque = UNSTEADY
    elif sample.dtype.kind == "c":
        origin.opaque = "complex numbers"
    else:
        origin.shift = zero.astype(np.float64)
        origin.scale = one.astype(np.float64) - origin.shift
        if not (np.isfinite(origin.shift).all() and np.isfinite(origin.scale).all()):
            origin.opaque = NOT_FINITE
        elif not origin.scale.any():  # a constant, unless the function takes something away that zeros and ones have
            origin.opaque = "" if np.array_equal(sample.astype(np.float64), origin.shift) else _WRONG
    return origin


def _read(run: Run, specs: dict[str, TensorSpec], waiting: list[Origin], base: int) -> None:
    """Decode ordinal and index in digits of at most ``base``; what does not come out whole stays as it is."""
    bases = np.array([min(base, 4 if "float8" in s.dtype else _LIMIT.get(s.dtype, base)) for s in specs.values()])
    counts = np.array([math.prod(spec.shape) for spec in specs.values()])
    own = int(bases.min(initial=base))  # ordinals are read before it is known whose digits they are
    labels = (
        {n: np.full(s.shape, i // own**place % own, as_dtype(s.dtype)) for i, (n, s) in enumerate(specs.items())}
        for place in range(_digits_needed(len(specs), own))
    )
    ordinals = _counted(run, labels, waiting, lambda _: own)
    waiting = [o for o in waiting if o.name in ordinals and (ordinals[o.name] < len(specs)).all()]
    labels = (
        {n: _index_digit(s, int(b), place) for (n, s), b in zip(specs.items(), bases, strict=True)}
        for place in range(max(map(_digits_needed, counts, bases), default=0))
    )
    indices = _counted(run, labels, waiting, lambda o: bases[ordinals[o.name]])
    for origin in waiting:
        if origin.name in indices and (indices[origin.name] < counts[ordinals[origin.name]]).all():
            alive = origin.scale != 0
            origin.ordinal = np.where(alive, ordinals[origin.name], -1)
            origin.index = np.where(alive, indices[origin.name], -1)
            origin.opaque = ""


def _counted(
    run: Run, labels: Iterable[dict[str, Array]], waiting: list[Origin], base: Callable[[Origin], Any]
) -> dict[str, Array]:
    """The number at every element, by target, least digit first; targets with a digit that is none are left out."""
    numbers = {o.name: np.zeros(o.ordinal.shape, np.int64) for o in waiting}
    for place, label in enumerate(labels):
        out = run(label)
        for origin in waiting:
            digit = _digit(out.get(origin.name), origin, base(origin)) if origin.name in numbers else None
            if digit is None:
                numbers.pop(origin.name, None)
            else:
                numbers[origin.name] += digit * np.asarray(base(origin), np.int64) ** place
    return numbers


def _digit(value: Array | None, origin: Origin, base: Any) -> Array | None:
    """One digit of every element, 0 for constants; None where some element holds none."""
    if value is None or value.shape != origin.ordinal.shape:
        return None
    alive = origin.scale != 0
    with np.errstate(all="ignore"):
        exact = np.where(alive, (value.astype(np.float64) - origin.shift) / np.where(alive, origin.scale, 1.0), 0.0)
        whole = np.rint(exact)
        good = np.isfinite(exact) & (np.abs(exact - whole) <= _OFF) & (whole >= 0) & (whole < base)
    return whole.astype(np.int64) if good.all() else None


def _digits_needed(count: int, base: int) -> int:
    places = 1
    while int(base) ** places < count:
        places += 1
    return places


def _index_digit(spec: TensorSpec, base: int, place: int) -> Array:
    step = base**place
    if step >= math.prod(spec.shape):  # other tensors, in a lower base, have more digits
        return np.zeros(spec.shape, as_dtype(spec.dtype))
    flat = np.arange(math.prod(spec.shape), dtype=np.int64) // step % base
    return flat.reshape(spec.shape).astype(as_dtype(spec.dtype))


def random_tensor(spec: TensorSpec, ordinal: int, again: int = 0) -> Array:
    """The values of one source tensor; others for each ``again``."""
    generator = np.random.default_rng([23, ordinal, again] if again else [23, ordinal])
    dtype = as_dtype(spec.dtype)
    if dtype.kind in "iub":
        return generator.integers(0, 2 if dtype.kind == "b" else 100, spec.shape).astype(dtype)
    return generator.standard_normal(spec.shape).astype(dtype)


def running(convert: Convert) -> Run:
    """The conversion on copies, as it may change what it is given."""

    def run(tensors: dict[str, Array]) -> dict[str, Array]:
        out = convert({name: array.copy() for name, array in tensors.items()})
        return {name: np.asarray(value) for name, value in out.items()}

    return run


def gathered(origins: Origins, origin: Origin) -> Array:
    """The random source values at every element of a target, float64; 0 where it is a constant."""
    out = np.zeros(origin.ordinal.shape)
    for ordinal in np.unique(origin.ordinal[origin.ordinal >= 0]):
        name = list(origins.specs)[int(ordinal)]
        here = origin.ordinal == ordinal
        out[here] = origins.sample[name].astype(np.float64).reshape(-1)[origin.index[here]]
    return out
