"""A whole mapping with its tensors: what computes every target tensor from source tensors, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from ckptdbg.checkpoint.dtypes import as_dtype
from ckptdbg.errors import MappingError
from ckptdbg.mapping.entry import BoundEntry
from ckptdbg.mapping.ops import Array, Shape


class Part(NamedTuple):
    """What one entry gives to a tensor that several entries make."""

    entry: BoundEntry
    values: Array
    known: Array


@dataclass(frozen=True)
class BoundMapping:
    """Every entry instance of one mapping for two sets of tensors. Made by ``Mapping.bind``."""

    entries: tuple[BoundEntry, ...]
    file: str = ""

    @cached_property
    def entry_of_target(self) -> dict[str, BoundEntry]:
        """The entry that makes each target tensor (the first, where a reversed tie has several)."""
        return {name: entries[0] for name, entries in self.producers.items()}

    @cached_property
    def entries_of_source(self) -> dict[str, tuple[BoundEntry, ...]]:
        """The entries that use each source tensor."""
        return _by_name(self.entries, "sources")

    @cached_property
    def producers(self) -> dict[str, tuple[BoundEntry, ...]]:
        """All entries that make each target tensor: more than one only in a reversed mapping."""
        return _by_name(self.entries, "targets")

    def values(
        self, read: Callable[[str], Array], *, cast: bool = True, dtype: Any = None
    ) -> Iterator[tuple[str, Array, BoundEntry]]:
        """Every target tensor with its name and entry, one entry at a time.

        ``read`` gives a source tensor by name. ``dtype=np.float64`` computes in float64; ``cast=False`` leaves the
        result as computed. Where several entries make one tensor (reversed ties and slices) their parts are put
        together; ``MappingError`` where they do not agree.
        """
        waiting: dict[str, list[Part]] = {}
        for entry in self.entries:
            arrays = [read(name) for name in entry.sources]
            if dtype is not None:
                arrays = [array.astype(dtype) for array in arrays]
            results = entry.apply(arrays, cast=cast)
            shared = any(len(self.producers[name]) > 1 for name in entry.targets)
            masks = entry.known() if shared else results
            for name, result, mask in zip(entry.targets, results, masks, strict=True):
                if len(self.producers[name]) == 1:
                    yield name, result, entry
                    continue
                parts = waiting.setdefault(name, [])
                parts.append(Part(entry, result, mask))
                if len(parts) == len(self.producers[name]):
                    yield name, _merged(name, waiting.pop(name)), parts[0].entry

    def pushed(self, read: Callable[[str], Array]) -> Iterator[tuple[str, Array, BoundEntry]]:
        """``values`` of labels, in float64: NaN for what has no index map, as no label tells anything there."""
        for entry in self.entries:
            if entry.opaque is not None:
                yield entry.targets[0], np.full(entry.target_specs[0].shape, np.nan), entry
        plain = tuple(entry for entry in self.entries if entry.opaque is None)
        yield from BoundMapping(plain, self.file).values(read, cast=False, dtype=np.float64)

    def shapes(self, entry: BoundEntry) -> list[tuple[str, Shape]]:
        """Each step of an entry as text with the shape after it; one row per array where a step makes several."""
        rows = []
        for text, shapes in entry.steps():
            several = len(shapes) > 1
            rows += [(f"{text} [{i + 1} of {len(shapes)}]" if several else text, s) for i, s in enumerate(shapes)]
        return rows

    def reversed(self) -> BoundMapping:
        """From target to source. What several entries read from one source must agree when it is put together again."""
        return BoundMapping(tuple(entry.reversed() for entry in self.entries), self.file)


def _merged(name: str, parts: list[Part]) -> Array:
    first, merged, filled = parts[0].entry, parts[0].values.copy(), parts[0].known.copy()
    for entry, values, known in parts[1:]:
        both = filled & known
        if not np.all(_equal(merged[both], values[both], _eps(first, entry))):
            raise MappingError(
                f"{name} comes out differently from entry {first.name} ({first.where}) and from entry {entry.name}",
                where=entry.where,
                hint=f"in reverse they must agree: compare {first.sources[0]} with {entry.sources[0]}",
            )
        new = known & ~filled
        merged[new] = values[new]
        filled |= known
    return merged


def _equal(a: Array, b: Array, eps: float) -> Array:
    """Equal but for the rounding of an inverse scale."""
    a, b = (x if x.dtype.kind in "ciub" else x.astype(np.float64) for x in (a, b))
    return (a == b) | (np.abs(a - b) <= 4 * eps * np.abs(a)) | ((a != a) & (b != b))


def _eps(*entries: BoundEntry) -> float:
    """Unit in the last place, relative, of the coarsest dtype on the way."""
    dtypes = {as_dtype(spec.dtype) for entry in entries for spec in (*entry.source_specs, *entry.target_specs)}
    floats = [dtype for dtype in dtypes if dtype.kind not in "iub"]
    return max((float(ml_dtypes.finfo(dtype).eps) for dtype in floats), default=0.0)


def _by_name(entries: Sequence[BoundEntry], side: str) -> dict[str, tuple[BoundEntry, ...]]:
    found: dict[str, list[BoundEntry]] = {}
    for entry in entries:
        for name in dict.fromkeys(getattr(entry, side)):
            found.setdefault(name, []).append(entry)
    return {name: tuple(users) for name, users in found.items()}
