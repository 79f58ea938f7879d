"""A verdict in words: one for the badge and one sentence."""

from __future__ import annotations

import re

from ckptdbg.report.names import count, number, place, span, visible
from ckptdbg.result import EntryRef, Finding, Result, Site

BADGE = {
    "divergent": "Divergent",
    "definition-differs": "Definition differs",
    "cannot-tell": "Cannot tell",
    "precision-floor": "Precision floor",
    "equivalent": "Equivalent",
}
MARK = {
    "divergent": "✗",
    "definition-differs": "≠",
    "cannot-tell": "?",
    "precision-floor": "≈",
    "equivalent": "✓",
}
"""A sign beside the colour: no verdict is told by colour alone."""


def sentence(result: Result) -> str:
    """What the verdict means for this comparison."""
    if result.verdict == "equivalent":
        return f"Every compared site agrees to within rounding noise{_worst(result)}. {_covered(result)}"
    if result.verdict == "precision-floor":
        return (
            "Nothing is converted wrongly: what differs is a cast to a lower precision inside a model, and it vanishes "
            "when that cast is promoted."
        )
    if result.verdict == "cannot-tell":
        return f"The evidence is not enough for a verdict. {_covered(result)}{_left_out(result)}"
    start = f"{_first(result)} " if result.first_divergence else ""
    if result.verdict == "definition-differs":
        return f"{start}No tensor and no layout is at fault: the two models compute different things there."
    return start + _suspects(result)


def suspect(entry: EntryRef) -> str:
    """``name (file:line)``."""
    where = place(entry.file, entry.line)
    return f"{visible(entry.name)} ({where})" if where else visible(entry.name)


def title(finding: Finding) -> str:
    """One line: what kind of fault, where and in which layers."""
    layers = f", layer{'s' if len(finding.layers) > 1 else ''} {span(finding.layers)}" if finding.layers else ""
    kind = "Unexplained difference" if finding.kind == "unknown" else f"{finding.kind.capitalize()} fault"
    if finding.kind == "definition":
        kind = "Definition difference"
    if finding.kind == "precision":
        kind = "Precision floor"
    return f"{kind} at {visible(finding.site)}{layers}"


def where(site: Site) -> str:
    """Name of a site's column: its entry (else the site) and port; a layer is told elsewhere."""
    name = site.entry or site.site
    if site.port == "block" and site.layer is not None:
        # A block has no entry: the same one of every layer shares a column.
        name = re.sub(rf"(?<!\d){re.escape(site.layer)}(?!\d)", "*", name, count=1)
    return f"{visible(name)} {site.port}"


def ratio_of(site: Site) -> float | None:
    """The ratio of this piece alone where it was isolated, else the free-running one."""
    return site.isolated.ratio if site.isolated is not None and site.isolated.ratio is not None else site.ratio


def _first(result: Result) -> str:
    first = result.first_divergence
    assert first is not None
    layer = f" of layer {visible(first.layer)}" if first.layer is not None else ""
    size = "" if first.ratio is None else f": {number(first.ratio)} times rounding noise"
    return f"The models first part at {visible(first.entry or first.site)} ({visible(first.port)}){layer}{size}."


def _suspects(result: Result) -> str:
    faults = [finding for finding in result.findings if finding.effect == "diverges"]
    named = [finding for finding in faults if finding.entries]
    if not named:
        return "No mapping entry could be named."
    first = result.first_divergence
    # Of several faults, the one met first is the one that the first divergence is about.
    here = [finding for finding in named if first is not None and first.layer in finding.layers] or named
    rest = len(faults) - 1
    more = f" {count(rest, 'more finding')}." if rest else ""
    others = len(here[0].entries) - 1
    # two that changed places are told below; where many tensors are wrong in one way it is not this entry's alone
    too = f" and {count(others, 'more entry')}" if here[0].kind == "tensor" and others > 1 else ""
    return f"Look at {suspect(here[0].entries[0])}{too}.{more}"


def _worst(result: Result) -> str:
    ratios = [site.ratio for site in result.sites if site.ratio is not None]
    return f" (largest ratio {number(max(ratios))}, suspect from {number(result.noise.suspect)})" if ratios else ""


def _covered(result: Result) -> str:
    coverage = result.coverage
    return f"The probe exercised {coverage.parameters_exercised} of {count(coverage.parameters_total, 'parameter')}."


def _left_out(result: Result) -> str:
    return f" {count(len(result.not_compared), 'thing')} could not be compared." if result.not_compared else ""
