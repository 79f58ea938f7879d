"""How strongly the probe exercised the parameters, entry by entry."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from ckptdbg.report.names import number
from ckptdbg.result import Coverage, Exercised

HEADINGS = ("entry", "tensors", "unseen", "one element", "whole tensor")
MEANING = (
    "The smallest change that this probe shows by activations alone, in working precision, relative to the tensor's "
    "root mean square: of one element (the one that shows least, in any layer) and of the whole tensor by one factor. "
    "The float64 runs, which decide, show smaller ones, and checkpoints are compared tensor by tensor besides."
)


@dataclass(frozen=True)
class Row:
    """One entry, over all its tensors."""

    entry: str
    tensors: int
    unseen: str
    """Elements that no compared place depends on, of how many."""
    element: str
    whole: str

    @property
    def cells(self) -> tuple[str, str, str, str, str]:
        """As text, in the order of ``HEADINGS``."""
        return self.entry, str(self.tensors), self.unseen, self.element, self.whole


def rows_of(coverage: Coverage) -> list[Row]:
    """One row per entry, in the order of the target's tensors; empty where coverage was not measured."""
    groups: dict[str, list[Exercised]] = defaultdict(list)
    for tensor in coverage.tensors:
        groups[tensor.entry or tensor.tensor].append(tensor)
    return [_row(entry, tensors) for entry, tensors in groups.items()]


def _row(entry: str, tensors: list[Exercised]) -> Row:
    unseen, size = sum(t.unseen for t in tensors), sum(t.elements for t in tensors)
    sampled = any(t.sampled is not None for t in tensors)
    element = _largest([t.element for t in tensors])
    return Row(
        entry,
        len(tensors),
        f"{unseen} of {size}" if unseen else "none",
        f"{element} (of those tried)" if sampled else element,
        _largest([t.whole for t in tensors]),
    )


def _largest(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return number(max(known), 2) if len(known) == len(values) else "not seen"
