"""Mapping entries as the panel shows them: where they stand, what they do, where they apply and what was found."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, NamedTuple

from ckptdbg.mapping import BoundEntry, BoundMapping
from ckptdbg.report.changes import changes, in_one_line, whose
from ckptdbg.report.entries import EntryView, Step, bound_view
from ckptdbg.report.names import number, place, span, visible
from ckptdbg.report.words import ratio_of, title
from ckptdbg.result import Finding, Repair, Result
from ckptdbg_widgets.origins import LARGEST, Origin, origins
from ckptdbg_widgets.sites import NONFINITE

SUSPECTED = 2**25
"""Elements of the largest tensor drawn for an entry that a finding names."""
LISTED = 6
"""Tensors named; the rest is counted."""


class Beside(NamedTuple):
    """What is shown of a step beside its text."""

    picture: Origin | None = None
    still: bool = False
    """An op that moves no element: its picture would be the one before it."""


def entries_of(result: Result, mapping: BoundMapping, mended: BoundMapping | None = None) -> list[dict[str, Any]]:
    """Every entry of a mapping with what the result says of it, ready for JSON; suspects first, then as in the file.
    ``mended`` is the mapping with the repairs: entries that differ there are shown both ways."""
    found = _instances(mapping)
    repaired = {} if mended is None else _instances(mended)
    suspects = list(dict.fromkeys(ref.name for finding in result.findings for ref in finding.entries))
    order = [*(name for name in suspects if name in found), *(name for name in found if name not in suspects)]
    entries = [_entry(name, found[name], result, mapping) for name in order]
    for entry, name in zip(entries, order, strict=True):
        new = next((e for e in repaired.get(name, []) if e.layer == entry["layer"]), None)
        if mended is not None and new is not None and new.ops_text != found[name][0].ops_text:
            entry["mended"] = _steps(new, mended, SUSPECTED)
    return entries


def _instances(mapping: BoundMapping) -> dict[str, list[BoundEntry]]:
    found: dict[str, list[BoundEntry]] = {}
    for entry in mapping.entries:
        found.setdefault(entry.name, []).append(entry)
    return found


def views_only(result: Result, views: list[EntryView]) -> list[dict[str, Any]]:
    """The same from what a stored report has of the entries: without tensors, layers and pictures."""
    return [_shown(view) | _told(view.name, result) for view in views]


def _entry(name: str, instances: list[BoundEntry], result: Result, mapping: BoundMapping) -> dict[str, Any]:
    findings = [f for f in result.findings if any(ref.name == name for ref in f.entries)]
    layers = {layer for finding in findings for layer in finding.layers}
    shown = next((entry for entry in instances if entry.layer in layers), instances[0])
    return {
        **_shown(bound_view(shown, mapping)),
        **_told(name, result),
        "steps": _steps(shown, mapping, SUSPECTED if findings else LARGEST),
        "sources": _names(shown.sources, [spec.shape for spec in shown.source_specs]),
        "targets": _names(shown.targets, [spec.shape for spec in shown.target_specs]),
        "layer": shown.layer,
        "count": len(instances),
        "where": span([entry.layer for entry in instances if entry.layer is not None]),
    }


def _steps(entry: BoundEntry, mapping: BoundMapping, largest: int) -> list[dict[str, Any]]:
    """Sources and ops of an entry with shapes and pictures of tensors of up to ``largest`` elements."""
    view = bound_view(entry, mapping)
    pictures = origins(entry, largest)
    return [_step(step, beside) for step, beside in zip(view.steps, _beside(view, entry, pictures), strict=True)]


def _beside(view: EntryView, entry: BoundEntry, pictures: list[Origin | None]) -> list[Beside]:
    """What stands beside each step of the view: the first is a source, and further sources and stacking come between
    the ops."""
    found = [Beside(pictures[0])]
    at = 0
    for step in view.steps[1:]:
        if at < len(entry.ops) and step.text.startswith(str(entry.ops[at])):
            found.append(Beside(pictures[at + 1], entry.ops[at].elementwise))
            at += 1
        else:
            found.append(Beside())
    return found


def _shown(view: EntryView) -> dict[str, Any]:
    return {
        "name": visible(view.name),
        "place": place(view.file, view.line),
        "line": view.line,
        "lines": [visible(line) for line in view.lines],
        "steps": [_step(step, Beside()) for step in view.steps],
        "mended": None,
        "sources": [],
        "targets": [],
        "layer": None,
        "count": 1,
        "where": "",
    }


def _step(step: Step, beside: Beside) -> dict[str, Any]:
    return {
        "text": visible(step.text),
        "shape": None if step.shape is None else list(step.shape),
        "picture": None if beside.picture is None else asdict(beside.picture),
        "still": beside.still,
    }


def _told(name: str, result: Result) -> dict[str, Any]:
    """What the result says of an entry: findings, and the worst ratio of its sites layer by layer."""
    findings = [f for f in result.findings if any(ref.name == name for ref in f.entries)]
    worst: dict[str, float] = {}
    for site in result.sites:
        if site.entry == name:
            ratio = ratio_of(site)
            value = float("inf") if ratio is None or ratio != ratio else ratio
            layer = "" if site.layer is None else visible(site.layer)
            worst[layer] = max(worst.get(layer, 0.0), value)
    ratios = [
        {"layer": layer, "ratio": NONFINITE if value == float("inf") else value} for layer, value in worst.items()
    ]
    seen = [f for f in result.findings if f not in findings and _seen_at(name, f, result)]
    return {
        "findings": [finding_of(finding, result) for finding in findings],
        "seen": [finding_of(finding, result) for finding in seen],
        "ratios": ratios,
    }


def _seen_at(entry: str, finding: Finding, result: Result) -> bool:
    """Whether a finding about others is about a site of this entry."""
    return any(site.entry == entry and f"{site.site} {site.port}" == finding.site for site in result.sites)


def finding_of(finding: Finding, result: Result) -> dict[str, Any]:
    """A finding ready for JSON; ``number`` counts from 1 as reports do."""
    return {
        "number": result.findings.index(finding) + 1,
        "title": title(finding),
        "kind": finding.kind,
        "cause": finding.cause,
        "effect": finding.effect,
        "explanation": visible(finding.explanation),
        "evidence": [visible(line) for line in finding.evidence],
        "excluded": [visible(line) for line in finding.excluded],
        "entries": [visible(entry.name) for entry in finding.entries],
        "site": visible(finding.site),
        "repair": None if finding.repair is None else repair_of(finding.repair),
    }


def repair_of(repair: Repair) -> dict[str, Any]:
    """A repair ready for JSON, with its lines as a diff."""
    return {
        "entry": visible(" and ".join(whose(repair))),
        "change": visible(in_one_line(repair)),
        "lines": [[sign, visible(text)] for sign, text in changes(repair)],
        "verified": repair.verified,
        "also": [visible(text) for text in repair.also],
        "before": _finite(repair.ratio_before),
        "after": _finite(repair.ratio_after),
    }


def _finite(value: float | None) -> float | str | None:
    return value if value is None or abs(value) < float("inf") else NONFINITE


def _names(names: tuple[str, ...], shapes: list[tuple[int, ...]]) -> list[str]:
    listed = [
        f"{visible(name)}  {' × '.join(map(str, shape)) or 'scalar'}"
        for name, shape in zip(names[:LISTED], shapes, strict=False)
    ]
    return listed if len(names) <= LISTED else [*listed, f"and {len(names) - LISTED} more"]


def lines_of(entry: dict[str, Any]) -> list[str]:
    """An entry of ``entries_of`` as plain text."""
    head = f"{entry['name']} ({entry['place']})" if entry["place"] else entry["name"]
    steps = [f"  {s['text']}" + ("" if s["shape"] is None else f"  -> {s['shape']}") for s in entry["steps"]]
    lines = [head, *steps]
    for finding in entry["findings"]:
        lines += [f"  {finding['title']}", f"  {finding['explanation']}"]
        if finding["repair"]:
            repair = finding["repair"]
            state = "verified" if repair["verified"] else "not verified"
            lines.append(f"  repair ({state}): ratio {told(repair['before'])} -> {told(repair['after'])}")
            lines += [f"    {sign} {text}" for sign, text in repair["lines"]]
    return lines


def told(value: float | str | None) -> str:
    """A ratio of these records in words."""
    return value if isinstance(value, str) else number(value)
