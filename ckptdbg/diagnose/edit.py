"""A candidate repair of one mapping entry, as something that can be tried and written."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ckptdbg.mapping import BoundEntry
from ckptdbg.mapping import Mapping as TensorMapping
from ckptdbg.mapping.ops import Op
from ckptdbg.mapping.templates import literal

ROTARY, HEADS, FUSED, TRANSPOSED = "rotary order", "head order", "fused order", "transposition"
SCALE, SHIFT, SUPERFLUOUS = "scale", "shift", "a superfluous op"
EXCHANGE, ORDER, OTHER = "exchanged entries", "order of the sources", "another source"
SIZE, LAYERS, TEXT_ORDER = "size in a pattern", "layer order", "order of numbers as text"
VALUES = (SCALE, SHIFT, SUPERFLUOUS)


@dataclass(frozen=True)
class Edit:
    """Another way to make one entry's tensors: other ops, or other sources."""

    entry: str
    family: str
    text: str
    """What changes, in one line."""
    cost: int
    """How much of the mapping changes: the smaller edit is proposed first."""
    ops: tuple[Op, ...]
    data: tuple[Any, ...]
    """The same ops as they would stand in the mapping file, sizes by name where they have one."""
    sources_of: str | None = None
    """The entry whose sources this one takes, where two are exchanged."""
    order: tuple[int, ...] | None = None
    """The entry's own sources in another order."""
    source: str | None = None
    """Another source tensor."""
    template: str | None = None
    """Another source, with the entry's one placeholder in braces."""
    lanes: tuple[int, ...] | None = None
    """What is stacked in another order, by its present places."""

    @property
    def changes_source(self) -> bool:
        """Whether it takes other tensors rather than another op."""
        return (self.sources_of or self.order or self.source or self.template or self.lanes) is not None

    @property
    def changes_factor(self) -> bool:
        """Whether it is a factor that changes, which the model's code may have as well."""
        return SCALE in self.family or (SUPERFLUOUS in self.family and "scale" in self.text)

    def applied(self, entry: BoundEntry, others: Mapping[str, Sequence[BoundEntry]]) -> BoundEntry:
        """The bound entry after the edit."""
        if self.sources_of is not None:
            other = next((e for e in others[self.sources_of] if e.layer == entry.layer), None)
            if other is None:  # entries for some layers only: there is nothing to exchange with in this one
                return entry
            return replace(entry, sources=other.sources, source_layers=other.source_layers)
        if self.order is not None:
            lanes = range(0, len(entry.sources), len(self.order))
            return _rearranged(entry, [lane + i for lane in lanes for i in self.order])
        if self.lanes is not None:
            each = len(entry.sources) // len(self.lanes)
            return _rearranged(entry, [lane * each + i for lane in self.lanes for i in range(each)])
        if self.source is not None:
            return replace(entry, sources=(self.source,))
        if self.template is not None:
            return replace(entry, sources=(re.sub(r"\{\w+\}", entry.layer or "", self.template),))
        return replace(entry, ops=self.ops)

    def written(self, mapping: TensorMapping) -> TensorMapping:
        """The mapping file after the edit."""
        if self.sources_of is not None:
            return mapping.with_source(self.entry, self.taken)
        if self.order is not None:
            old = mapping.source(self.entry)
            return mapping.with_source(self.entry, [old[i] for i in self.order])
        if self.source is not None:
            return mapping.with_source(self.entry, literal(self.source)).without_ignored(self.source)
        if self.template is not None:
            return mapping.with_source(self.entry, self.template)
        if self.lanes is not None:
            return mapping.with_source(self.entry, self.taken).with_range(self.entry, *self.numbers)
        return mapping.with_ops(self.entry, self.data)

    taken: Any = None
    """As the mapping file spells the sources that are taken."""
    numbers: tuple[str, list[int]] = ("", [])
    """With ``lanes``: the placeholder that is stacked, and its values in their order."""


def _rearranged(entry: BoundEntry, places: Sequence[int]) -> BoundEntry:
    """The entry with its sources in another order."""
    layers, specs = (tuple(items[i] for i in places) for items in (entry.source_layers, entry.source_specs))
    sources = tuple(entry.sources[i] for i in places)
    return replace(entry, sources=sources, source_layers=layers, source_specs=specs)
