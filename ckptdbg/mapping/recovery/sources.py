"""The source's tensors while a mapping is recovered: read again whenever their values are asked for.

What is kept of a tensor are sums: of its lines, of all its hashes, and the moments of its values. Of the values
themselves those of small tensors stay, and those of the one that was asked for last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ckptdbg.checkpoint.dtypes import as_dtype
from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.mapping.recovery.fibres import lines_of
from ckptdbg.mapping.recovery.hashing import Hashed, pieces

Array = NDArray[Any]
T = TypeVar("T", NDArray[Any], Hashed)
_SMALL = 2**14
"""Elements of a tensor that is kept: norms and biases, which are asked for by many."""


@dataclass(frozen=True)
class Moments:
    """What of a tensor's values no order changes, in float64."""

    finite: bool
    size: float
    """Root of the mean square."""
    most: float
    """The largest magnitude."""
    mean: float
    spread: float
    """Standard deviation."""
    alike: bool
    """Whether all are one number."""


def moments_of(array: Array) -> Moments:
    """Of a tensor with at least one element."""
    first, total, square, most, alike = array.flat[0], 0.0, 0.0, 0.0, True
    for _, piece in pieces(array):
        wide = piece.astype(np.float64)
        if not np.isfinite(wide).all():
            return Moments(False, 0.0, 0.0, 0.0, 0.0, False)
        total, square = total + float(wide.sum()), square + float(np.square(wide).sum())
        most, alike = max(most, float(np.abs(wide).max())), alike and bool((piece == first).all())
    mean = total / array.size
    around = sum(float(np.square(piece.astype(np.float64) - mean).sum()) for _, piece in pieces(array))
    return Moments(True, float(np.sqrt(square / array.size)), most, mean, float(np.sqrt(around / array.size)), alike)


class Kept(Generic[T]):
    """Tensors by ordinal, made when they are asked for; small ones stay, and the last one."""

    def __init__(self, make: Callable[[int], T]) -> None:
        self._make = make
        self._small: dict[int, T] = {}
        self._last: tuple[int, T] | None = None

    def __call__(self, ordinal: int) -> T:
        """One of them."""
        if ordinal in self._small:
            return self._small[ordinal]
        if self._last is not None and self._last[0] == ordinal:
            return self._last[1]
        self.forget()  # freed before the next is made
        array = self._make(ordinal)
        if array.size <= _SMALL:
            self._small[ordinal] = array
        else:
            self._last = (ordinal, array)
        return array

    def forget(self) -> None:
        """Let the last one go."""
        self._last = None


class Originals:
    """The source tensors as they are stored, by ordinal."""

    def __init__(self, specs: dict[str, TensorSpec], read: Callable[[str], Array]) -> None:
        self.names: Sequence[str] = list(specs)
        self.shapes: Sequence[tuple[int, ...]] = [spec.shape for spec in specs.values()]
        self.sizes: Sequence[int] = [math.prod(shape) for shape in self.shapes]
        self.dtypes: Sequence[np.dtype] = [as_dtype(spec.dtype) for spec in specs.values()]
        self.values = Kept(lambda i: np.asarray(read(self.names[i])))
        self._moments: dict[int, Moments] = {}

    def moments(self, ordinal: int) -> Moments:
        """Kept once they are known."""
        if ordinal not in self._moments:
            self._moments[ordinal] = moments_of(self.values(ordinal))
        return self._moments[ordinal]


class Rounded:
    """The source tensors as one lower dtype rounds them, hashed; all of them pass by once."""

    def __init__(self, originals: Originals, dtype: str) -> None:
        self.originals, self._dtype = originals, as_dtype(dtype)
        self.hashes = Kept(lambda i: Hashed(self._rounded(originals.values(i))))
        self.totals: dict[int, list[int]] = {}
        """Sum of all hashes to the tensors that have it."""
        self.zeros: list[int] = []
        """Tensors that hold nothing but zeros."""
        self.lines = lines_of(self._pass(len(originals.names)))

    def _pass(self, count: int) -> Iterator[Hashed]:
        for ordinal in range(count):
            hashes = self.hashes(ordinal)
            yield hashes
            self.totals.setdefault(hashes.total(), []).append(ordinal)
            if not hashes.any():
                self.zeros.append(ordinal)

    def _rounded(self, array: Array) -> Array:
        """What the lower dtype cannot hold is infinite there."""
        lower = self._dtype.itemsize < 4 and self._dtype.kind not in "iub"
        with np.errstate(over="ignore"):
            return array.astype(self._dtype) if lower and array.dtype.itemsize > self._dtype.itemsize else array
