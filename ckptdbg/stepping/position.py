"""Where the cursor stands: site, layer, mapping entry, the line of code on both sides, and the region before it."""

from __future__ import annotations

import linecache
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ckptdbg.compare.comparison import Comparison
from ckptdbg.compare.labels import Label
from ckptdbg.compare.output import OutputMeasure
from ckptdbg.compare.sites import SiteMeasure
from ckptdbg.diagnose.regions import upstream
from ckptdbg.diagnose.suspects import references
from ckptdbg.models.records import Anchor, Graph, Where
from ckptdbg.report.names import number, visible
from ckptdbg.report.words import suspect
from ckptdbg.result import EntryRef
from ckptdbg.stepping.printed import Printed
from ckptdbg.stepping.stops import Stop, first_divergence

_AROUND = 1
"""Lines shown before and after the line of code."""
_NAMED = 4
"""Tensors named in a line; the rest is counted."""


@dataclass(frozen=True)
class Code:
    """A place in a model's code."""

    side: str
    """``source`` or ``target``"""
    where: Where
    lines: tuple[tuple[int, str], ...] = ()
    """Numbered lines around it; none where the file is not at hand."""

    def printed(self) -> Iterator[str]:
        """The place, then its lines with the one that runs marked."""
        yield f"  {self.side}  {visible(self.where) or 'no place in its code is known'}"
        for line, text in self.lines:
            yield f"    {'>' if line == self.where.line else ' '} {line:5}  {visible(text)}".rstrip()


@dataclass(frozen=True)
class Region:
    """What lies between the source's values and this place."""

    feeds: tuple[str, ...]
    """Target tensors whose ``out`` leads here."""
    parameters: tuple[str, ...]
    """Region parameters met on the way."""
    entries: tuple[EntryRef, ...]
    """The mapping entries of both: what a wrong value here can come from."""


@dataclass(frozen=True, repr=False)
class Position(Printed):
    """One stop of the cursor."""

    order: int
    """Place in ``Result.sites``."""
    total: int
    name: str
    layer: str | None
    entry: EntryRef | None
    free: float | None
    """Ratio of error to noise, free running."""
    alone: float | None
    """The same for this piece alone, on the source's own values; None where it cannot be had."""
    state: str
    code: tuple[Code, ...]
    region: Region | None
    note: str = ""
    """What the verb has to say besides, such as that nothing lies ahead."""

    def lines(self) -> list[str]:
        layer = f"layer {visible(self.layer)}  " if self.layer is not None else ""
        found = [f"[{self.order + 1} of {self.total}]  {layer}{self.name}"]
        alone = "" if self.alone is None else f", {number(self.alone)} alone"
        found.append(f"  ratio {number(self.free)} free running{alone}: {self.state}")
        if self.entry is not None:
            found.append(f"  entry   {suspect(self.entry)}")
        found += [line for code in self.code for line in code.printed()]
        if self.region is not None:
            found += _region_lines(self.region)
        return [*found, f"  {self.note}"] if self.note else found


def position(comparison: Comparison, stops: Sequence[Stop], stop: Stop, note: str = "") -> Position:
    """Everything about one stop."""
    alone = stop.alone
    return Position(
        stop.order,
        len(stops),
        stop.name,
        stop.row.layer,
        _entry(comparison, stop),
        stop.free.working.ratio,
        None if alone is None else alone.working.ratio,
        state(stop, first_divergence(stops)),
        tuple(_code(comparison, stop)),
        _region(comparison, stop),
        note,
    )


def state(stop: Stop, first: Stop | None) -> str:
    """In words: whether the models differ here, and whether it is this piece's own doing."""
    parts = ["the models first part here"] if first is not None and stop.key == first.key else []
    if stop.diverges_alone:
        parts.append("this piece diverges on the source's own values")
    elif stop.free.divergent and stop.alone is not None:
        parts.append("at noise on the source's own values: it differs by what comes before it")
    elif stop.free.divergent:
        parts.append("it differs")
    return "; ".join(parts) or "at noise"


def _entry(comparison: Comparison, stop: Stop) -> EntryRef | None:
    graph, labels = comparison.target.graph, comparison.target.labels
    if isinstance(stop.measure, SiteMeasure):
        entries = labels[stop.measure.anchor].entries
    elif isinstance(stop.measure, OutputMeasure) and len(graph.output_feeds) == 1:
        entries = labels[next(iter(graph.output_feeds))].entries
    else:
        entries = ()
    return next(iter(references(entries)), None)


def _code(comparison: Comparison, stop: Stop) -> Iterator[Code]:
    """Each place in the source's code once (several anchors may make one of the target's), then the target's."""
    if not isinstance(stop.measure, SiteMeasure):
        return
    source, target, t = comparison.source.view.graph, comparison.target.graph, stop.measure.anchor
    behind = dict(comparison.pairing.ports(t))[stop.measure.port]
    places = {(a.where.file, a.where.line): a.where for a in _anchors(source, behind.anchors if behind else ())}
    for side, where in [*(("source", where) for where in places.values()), ("target", target.anchors[t].where)]:
        yield Code(side, where, _lines(where))


def _anchors(graph: Graph, indices: Iterable[int]) -> Iterator[Anchor]:
    return (graph.anchors[i] for i in indices)


def _lines(where: Where) -> tuple[tuple[int, str], ...]:
    if where.file is None or where.line is None:
        return ()
    numbers = range(max(1, where.line - _AROUND), where.line + _AROUND + 1)
    found = [(n, linecache.getline(where.file, n).rstrip()) for n in numbers]
    # A trace made elsewhere names files that are not here.
    return tuple(found) if any(text for _, text in found) else ()


def _region(comparison: Comparison, stop: Stop) -> Region | None:
    """What lies before an ``in`` or the output. An ``out`` has its own operand only, a block holds many regions."""
    graph, target = comparison.target.graph, comparison.target
    if isinstance(stop.measure, OutputMeasure):
        feeds, met = upstream(comparison, graph.output_feeds, graph.output_met)
    elif isinstance(stop.measure, SiteMeasure) and stop.measure.port == "in":
        anchor = graph.anchors[stop.measure.anchor]
        feeds, met = upstream(comparison, anchor.feeds, anchor.met)
    else:
        return None
    inside = [target.met_labels[m] for m in sorted(met)]
    # the nearest first: on a residual stream everything before it leads here
    leading = [target.labels[f] for f in sorted(feeds, reverse=True)]
    return Region(_sites(leading), _sites(inside), tuple(references(e for x in (*inside, *leading) for e in x.entries)))


def _sites(labels: Iterable[Label]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(label.site for label in labels))


def _region_lines(region: Region) -> Iterator[str]:
    for title, names in (("fed by", region.feeds), ("meets", region.parameters)):
        if names:
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            yield f"  {title:7} {', '.join(map(visible, names[:_NAMED]))}{more}"
    if region.entries:
        yield f"  entries {', '.join(visible(entry.name) for entry in region.entries)}"
