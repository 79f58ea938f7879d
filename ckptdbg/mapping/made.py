"""What a mapping makes, one tensor at a time, and where an element of it came from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from ckptdbg.mapping.bound import BoundMapping
from ckptdbg.mapping.entry import BoundEntry
from ckptdbg.mapping.ops import Array


class Made(Mapping[str, Array]):
    """Target tensors by name, in float64 and not rounded to any stored dtype, each made when it is asked for; with
    ``stored`` as a conversion would write them.

    Only what the last entry made is kept: going through them in order makes each once, with one in memory at a time.
    """

    def __init__(self, mapping: BoundMapping, read: Callable[[str], Array], stored: bool = False) -> None:
        self._mapping, self._read, self._stored = mapping, read, stored
        self._entry: BoundEntry | None = None
        self._last: dict[str, Array] = {}

    def __getitem__(self, name: str) -> Array:
        entry = self._mapping.entry_of_target[name]
        if entry is not self._entry:
            self._entry, self._last = None, {}  # freed before the next is made
            arrays = [self._read(source) for source in entry.sources]
            if not self._stored:
                arrays = [array.astype(np.float64) for array in arrays]
            self._last = dict(zip(entry.targets, entry.apply(arrays, cast=self._stored), strict=True))
            self._entry = entry
        return self._last[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._mapping.entry_of_target)

    def __len__(self) -> int:
        return len(self._mapping.entry_of_target)


def origin(entry: BoundEntry, target: str, index: tuple[int, ...]) -> tuple[str, tuple[int, ...]] | None:
    """The source tensor, and the index in it, that an element of what ``entry`` makes came from; None where it came
    from none (padding). Found by sending indices through the entry's ops."""
    at = entry.targets.index(target)

    def pushed(label: Callable[[int], Array]) -> float:
        arrays = [label(i).astype(np.float64) for i in range(len(entry.sources))]
        return float(entry.apply(arrays, cast=False)[at][index])

    shapes = [spec.shape for spec in entry.source_specs]
    zero = pushed(lambda i: np.zeros(shapes[i]))
    scale = pushed(lambda i: np.ones(shapes[i])) - zero
    if scale == 0:
        return None

    def decoded(label: Callable[[int], Array]) -> int:
        return round((pushed(label) - zero) / scale)

    which = decoded(lambda i: np.full(shapes[i], float(i)))
    place = (decoded(lambda i, axis=axis: _along(shapes[i], axis)) for axis in range(len(shapes[which])))
    return entry.sources[which], tuple(place)


def _along(shape: tuple[int, ...], axis: int) -> Array:
    """Each element's own index along one axis; 0 where there is no such axis."""
    if axis >= len(shape):
        return np.zeros(shape)
    return np.broadcast_to(np.arange(shape[axis]).reshape([-1 if i == axis else 1 for i in range(len(shape))]), shape)
