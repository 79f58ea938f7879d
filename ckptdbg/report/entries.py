"""What a report shows of a mapping entry. Made by the session, since a report does not read mappings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ckptdbg.result import EntryRef


@dataclass(frozen=True)
class Step:
    """One op of an entry and the shape after it; the first step of an entry is its source, before any op."""

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
