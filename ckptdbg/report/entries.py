"""What a report shows of a mapping entry: its lines in the file, and its ops with the shapes through them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ckptdbg.result import EntryRef, Result

if TYPE_CHECKING:
    from ckptdbg.mapping import BoundEntry, BoundMapping

LONGEST = 40
"""Lines shown of one entry."""


@dataclass(frozen=True)
class Step:
    """One op of an entry and the shape after it; the first steps of an entry are its sources, before any op."""

    text: str
    shape: tuple[int, ...] | None


@dataclass(frozen=True)
class EntryView:
    """One mapping entry as it stands in its file."""

    name: str
    file: str | None = None
    line: int | None = None
    """Of the first of ``lines``, counted from 1."""
    lines: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()


def view_of(reference: EntryRef, entries: Sequence[EntryView]) -> EntryView | None:
    """The view of the entry that a finding names: by name and, where two files use one name, by file."""
    named = [entry for entry in entries if entry.name == reference.name]
    return next((entry for entry in named if entry.file == reference.file), named[0] if named else None)


def entry_views(result: Result, mapping: BoundMapping) -> list[EntryView]:
    """Views of the entries that the findings name, each shown with the tensors of the first layer under suspicion."""
    views: dict[str, EntryView] = {}
    for finding in result.findings:
        for reference in finding.entries:
            instances = [entry for entry in mapping.entries if entry.name == reference.name]
            wanted = [entry for entry in instances if entry.layer in finding.layers]
            if instances and reference.name not in views:
                views[reference.name] = bound_view((wanted or instances)[0], mapping)
    return list(views.values())


def bound_view(entry: BoundEntry, mapping: BoundMapping) -> EntryView:
    """One entry, shown with the tensors of this instance."""
    sources = zip(entry.sources, entry.source_specs, strict=True)
    first = [Step(name, spec.shape) for name, spec in sources]
    ops = [Step(text, tuple(shape)) for text, shape in mapping.shapes(entry)]
    # A stack over many layers would bury the ops under its sources.
    shown = first if len(first) <= 3 else [first[0], Step(f"{len(first) - 1} more", None)]
    return EntryView(entry.name, entry.file, entry.line, _lines(entry.file, entry.line), (*shown, *ops))


def _lines(file: str, line: int) -> tuple[str, ...]:
    """The entry's own lines: to the next that is indented no deeper than its first. Empty without such a file."""
    try:
        text = Path(file).read_text(encoding="utf-8").splitlines()[line - 1 :]
    except (OSError, UnicodeDecodeError):
        return ()
    if not text:
        return ()
    depth = _indent(text[0])
    end = next((i for i, t in enumerate(text[1:], 1) if t.strip() and _indent(t) <= depth), len(text))
    own = text[: min(end, LONGEST)]
    while own and not own[-1].strip():
        own.pop()
    return tuple(own) + (("…",) if end > LONGEST else ())


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
