"""From measurements to the rows of a Result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ckptdbg.compare.comparison import Comparison
from ckptdbg.compare.logits import compare_logits
from ckptdbg.compare.sites import Judged, SiteMeasure
from ckptdbg.compare.views import View
from ckptdbg.mapping import BoundMapping
from ckptdbg.result import Coverage, Isolated, Logits, NotCompared, Site, Stats

Array = NDArray[Any]


def stats(values: Array) -> Stats:
    """Statistics of the finite elements; NaN marks an element without counterpart and is not counted as non-finite
    by ``site``."""
    values = np.asarray(values, np.float64)
    finite = values[np.isfinite(values)]
    if not finite.size:
        return Stats(mean=None, std=None, min=None, max=None, nonfinite=int(values.size))
    return Stats(
        mean=float(finite.mean()),
        std=float(finite.std()),
        min=float(finite.min()),
        max=float(finite.max()),
        nonfinite=int(values.size - finite.size),
    )


def sites(comparison: Comparison) -> list[Site]:
    """All compared sites in order, the output last."""
    rows = [_site(comparison, order, site) for order, site in enumerate(comparison.sites)]
    output = comparison.output
    graph = comparison.target.graph
    maker = [comparison.target.labels[t] for t in graph.output_feeds]
    rows.append(
        Site(
            site="output",
            entry=maker[0].entry.name if len(maker) == 1 and maker[0].entry else None,
            layer=None,
            port="output",
            scope="",
            order=len(rows),
            shape=list(output.target.shape),
            source=stats(output.source),
            target=stats(output.target),
            error=output.free.working.error,
            noise=output.free.working.noise,
            ratio=output.free.working.ratio,
            isolated=_isolated(output.isolated),
        )
    )
    return rows


def _site(comparison: Comparison, order: int, site: SiteMeasure) -> Site:
    label, anchor = comparison.target.labels[site.anchor], comparison.target.graph.anchors[site.anchor]
    paired = ~np.isnan(np.asarray(site.source, np.float64)) if site.compared < 1 else np.ones(site.shape, bool)
    return Site(
        site=label.site,
        entry=label.entry.name if label.entry else None,
        layer=label.layer,
        port=site.port,
        scope=str(anchor.where),
        order=order,
        shape=list(site.shape),
        source=stats(site.source[paired]),
        target=stats(site.target[paired]),
        error=site.free.working.error,
        noise=site.free.working.noise,
        ratio=site.free.working.ratio,
        isolated=_isolated(site.isolated),
        nonfinite="NaN or infinite values on one side only" if site.free.nonfinite else None,
    )


def _isolated(judged: Judged) -> Isolated:
    measured = judged.working
    return Isolated(error=measured.error, noise=measured.noise, ratio=measured.ratio)


def not_compared(comparison: Comparison, mapping: BoundMapping, omitted: dict[str, Sequence[str]]) -> list[NotCompared]:
    """Everything that was left out, and why. ``omitted``: inputs that a side does not accept, by side."""
    rows: list[NotCompared] = []
    target, source, pairing = comparison.target, comparison.source.view, comparison.pairing
    seen = {(s.anchor, s.port) for s in comparison.sites}
    for t, label in enumerate(target.labels):
        if (t, "out") not in seen and (t, "in") not in seen:
            rows.append(NotCompared(name=label.site, side="target", reason=_why(comparison, t)))
    offered = {s for maps in (pairing.inputs, pairing.outputs) for m in maps if m is not None for s in m.anchors}
    for s, anchor in enumerate(source.graph.anchors):
        if s not in offered:
            rows.append(
                NotCompared(name="+".join(anchor.parameters), side="source", reason="no anchor of the target uses it")
            )
    sides: tuple[tuple[View, Literal["source", "target"]], ...] = ((source, "source"), (target, "target"))
    for view, side in sides:
        for opaque in view.graph.opaque:
            rows.append(NotCompared(name="+".join(opaque.parameters) or opaque.op, side=side, reason=opaque.reason))
        for name in view.graph.unused_parameters:
            rows.append(NotCompared(name=name, side=side, reason="met no activation in this forward pass"))
        for name in omitted.get(side, ()):
            rows.append(NotCompared(name=name, side=side, reason="the model does not accept this input"))
    if comparison.routing.reason:
        rows.append(NotCompared(name="routing", side="target", reason=comparison.routing.reason))
    return list({(r.name, r.side, r.reason): r for r in rows}.values())


def _why(comparison: Comparison, t: int) -> str:
    target = comparison.target
    layout = target.anchors[t]
    if not comparison.free.working.records[t].output.size:
        return "no token reached it with this probe"
    if layout.opaque is not None:
        return layout.opaque
    if layout.mixed:
        return "input and output axes are mixed: no row or column corresponds to one of the source"
    if not layout.tensors:
        return "made from no source tensor"
    met = {x for m in comparison.source.view.meetings for x in m.tensors}
    if set(layout.tensors) <= met:
        return "the source adds or multiplies it elementwise instead: judged as part of its region"
    return "no anchor of the source uses the same elements"


def coverage(comparison: Comparison) -> Coverage:
    """Which target tensors this probe exercised: those whose anchor or meeting took part in the run."""
    target = comparison.target
    ran = [label for t, label in enumerate(target.labels) if comparison.free.working.records[t].output.size]
    exercised = {name for label in (*ran, *target.met_labels) for name in label.tensors}
    missing = sorted(set(target.specs) - exercised)
    return Coverage(
        parameters_exercised=len(target.specs) - len(missing), parameters_total=len(target.specs), unexercised=missing
    )


def undecided(comparison: Comparison, mapping: BoundMapping, rows: Sequence[NotCompared]) -> list[NotCompared]:
    """Target parameters that took part in the run but that nothing was compared with: neither mapped nor at noise."""
    target = comparison.target
    used = {name for label in (*target.labels, *target.met_labels) for name in label.tensors}
    return [
        NotCompared(name=name, side="target", reason="used by the model but made by no mapping entry")
        for name in sorted(used - set(mapping.entry_of_target))
    ]


def logits(comparison: Comparison) -> Logits | None:
    """Figures on the outputs read as logits; None where the output is not over a vocabulary."""
    if not is_logits(comparison):
        return None
    batch, length = comparison.free.working.output_shape[:2]
    paired = comparison.output.index >= 0
    pair = (np.asarray(x, np.float64)[:, paired] for x in (comparison.output.source, comparison.output.target))
    source, target = (x.reshape(batch, length, -1) for x in pair)
    keep = ~np.isin(np.arange(batch * length), comparison.source.runs.padded).reshape(batch, length)
    return compare_logits(source, target, mask=keep)


def is_logits(comparison: Comparison) -> bool:
    """Whether the output has (batch, length, vocabulary) axes: as many features as some table has rows."""
    shape, graph = comparison.free.working.output_shape, comparison.target.graph
    sizes = {a.contraction for a in graph.anchors if a.kind == "lookup"}
    return len(shape) == 3 and shape[-1] in sizes
