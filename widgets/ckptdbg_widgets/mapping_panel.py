"""The mapping entry behind a place: file and line, ops, tensors, where else it applies, and what was found."""

from __future__ import annotations

from collections.abc import Sequence

import traitlets

from ckptdbg.mapping import BoundMapping
from ckptdbg.report.entries import EntryView
from ckptdbg.report.names import visible
from ckptdbg.result import Result
from ckptdbg_widgets.mapped import entries_of, lines_of, views_only
from ckptdbg_widgets.modules import module, styles
from ckptdbg_widgets.panel import Panel, shared


class MappingPanel(Panel):
    """Shows the entry named by ``entry``; None shows that no entry makes what is selected.

    ``mapping`` is the session's bound mapping; for a stored result its ``EntryView``s do, which have neither tensors
    nor pictures.
    """

    kind = "mapping_panel"
    _esm = module(kind)
    sheets = ("shared/findings", kind)
    _css = styles(*sheets)
    data = shared(traitlets.Dict())
    entry = shared(traitlets.Unicode(None, allow_none=True))

    def __init__(
        self,
        result: Result,
        mapping: BoundMapping | Sequence[EntryView],
        mended: BoundMapping | None = None,
    ) -> None:
        """``mended`` is the mapping with the repairs, bound: what they change is shown beside what is."""
        data = _data(result, mapping, mended)
        super().__init__(data=data, entry=_start(data))

    def show(
        self,
        result: Result,
        mapping: BoundMapping | Sequence[EntryView],
        mended: BoundMapping | None = None,
    ) -> None:
        """Show another result in place of this one; the entry stays where it has one of that name."""
        data = _data(result, mapping, mended)
        kept = self.entry in [entry["name"] for entry in data["entries"]]
        with self.hold_sync():
            self.data, self.entry = data, self.entry if kept else _start(data)

    def select(self, name: str | None) -> None:
        """Show the entry of this name, as results give it."""
        self.entry = None if name is None else visible(name)

    def plain(self) -> str:
        """The entry's ops with their shapes, and what was found."""
        for entry in self.data["entries"]:
            if entry["name"] == self.entry:
                return "\n".join(lines_of(entry))
        return "no mapping entry"


def _data(result: Result, mapping: BoundMapping | Sequence[EntryView], mended: BoundMapping | None) -> dict:
    bound = isinstance(mapping, BoundMapping)
    entries = entries_of(result, mapping, mended) if bound else views_only(result, list(mapping))
    return {"entries": entries, "noise": {"suspect": result.noise.suspect, "divergent": result.noise.divergent}}


def _start(data: dict) -> str | None:
    """The first suspect, else the first entry."""
    return data["entries"][0]["name"] if data["entries"] else None
