"""From measurements to the rows of a Result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ckptdbg.compare.blocks import BlockMeasure
from ckptdbg.compare.comparison import Comparison
from ckptdbg.compare.logits import compare_logits
from ckptdbg.compare.sites import Judged, SiteMeasure
from ckptdbg.compare.views import View
from ckptdbg.diagnose.compared import Compared
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
    """All compared sites in order, a block after its last anchor, the output last."""
    placed: list[tuple[tuple[int, int], Site]] = []
    for site in comparison.sites:
        placed.append(((site.anchor, 0), _anchor_site(comparison, site)))
    for i, block in enumerate(comparison.blocks):
        placed.append(((block.after, 1 + i), _block_site(comparison, block)))
    rows = [site for _, site in sorted(placed, key=lambda item: item[0])]
    rows.append(_output_site(comparison))
    return [row.model_copy(update={"order": order}) for order, row in enumerate(rows)]


def _anchor_site(comparison: Comparison, site: SiteMeasure) -> Site:
    label, anchor = comparison.target.labels[site.anchor], comparison.target.graph.anchors[site.anchor]
    paired = ~np.isnan(np.asarray(site.source, np.float64)) if site.compared < 1 else np.ones(site.shape, bool)
    return _row(
        label.site,
        site.port,
        (site.source[paired], site.target[paired]),
        site.free,
        shape=list(site.shape),
        entry=label.entry.name if label.entry else None,
        layer=label.layer,
        scope=str(anchor.where),
        isolated=_isolated(site.isolated),
    )


def _block_site(comparison: Comparison, block: BlockMeasure) -> Site:
    return _row(
        block.name,
        "block",
        (block.source, block.target),
        block.free,
        shape=list(block.target.shape),
        layer=comparison.target.labels[block.after].layer,
        scope=block.name,
    )


def _output_site(comparison: Comparison) -> Site:
    output = comparison.output
    makers = [comparison.target.labels[t].entry for t in comparison.target.graph.output_feeds]
    return _row(
        "output",
        "output",
        (output.source, output.target),
        output.free,
        shape=list(output.target.shape),
        entry=makers[0].name if len(makers) == 1 and makers[0] is not None else None,
        isolated=_isolated(output.isolated),
    )


def _row(
    name: str,
    port: Literal["in", "out", "block", "output"],
    values: tuple[Array, Array],
    judged: Judged,
    *,
    shape: list[int],
    entry: str | None = None,
    layer: str | None = None,
    scope: str = "",
    isolated: Isolated | None = None,
) -> Site:
    return Site(
        site=name,
        entry=entry,
        layer=layer,
        port=port,
        scope=scope,
        order=0,
        shape=shape,
        source=stats(values[0]),
        target=stats(values[1]),
        error=judged.working.error,
        noise=judged.working.noise,
        ratio=judged.working.ratio,
        isolated=isolated,
        nonfinite="NaN or infinite values on one side only" if judged.nonfinite else None,
    )


def _isolated(judged: Judged) -> Isolated:
    measured = judged.working
    return Isolated(error=measured.error, noise=measured.noise, ratio=measured.ratio)


def not_compared(comparison: Compared, omitted: dict[str, Sequence[str]]) -> list[NotCompared]:
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
    for name, reason in comparison.blocks_left:
        rows.append(NotCompared(name=name, side="target", reason=reason))
    if comparison.routing.reason:
        rows.append(NotCompared(name="routing", side="target", reason=comparison.routing.reason))
    return list({(r.name, r.side, r.reason): r for r in rows}.values())


def _why(comparison: Compared, t: int) -> str:
    target = comparison.target
    layout, record = target.anchors[t], comparison.free.working.records[t]
    if not record.output.size:
        return "no token reached it with this probe"
    if (np.asarray(record.rows) < 0).all():
        return "its rows could not be told to belong to tokens"
    for entry in target.labels[t].entries:
        if entry.opaque is not None:
            return f"made by {entry.opaque.function}, which tells no layout: only its values are compared"
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


def coverage(comparison: Compared) -> Coverage:
    """Which target tensors this probe exercised: those whose anchor or meeting took part in the run."""
    exercised = _exercised(comparison)
    missing = sorted(set(comparison.target.specs) - exercised)
    total = len(comparison.target.specs)
    return Coverage(parameters_exercised=total - len(missing), parameters_total=total, unexercised=missing)


def _exercised(comparison: Compared) -> set[str]:
    target = comparison.target
    ran = [label for t, label in enumerate(target.labels) if comparison.free.working.records[t].output.size]
    return {name for label in (*ran, *target.met_labels) for name in label.tensors}


def undecided(comparison: Compared, mapping: BoundMapping) -> list[NotCompared]:
    """Target parameters with which nothing can be called equivalent: used but made by no entry, or made by an entry of
    which this probe exercises no tensor, so that its layout is shown right nowhere."""
    target, exercised = comparison.target, _exercised(comparison)
    used = {name for label in (*target.labels, *target.met_labels) for name in label.tensors}
    unmapped = sorted(used - set(mapping.entry_of_target))
    met = ((name, mapping.entry_of_target[name]) for name in exercised & set(mapping.entry_of_target))
    shown = {name if entry.opaque else entry.name for name, entry in met}  # a function may treat each layer otherwise
    unshown = [n for n, e in mapping.entry_of_target.items() if n in target.specs and not shown & {n, e.name}]
    reasons = [(name, "used by the model but made by no mapping entry") for name in unmapped]
    reasons += [(name, "this probe exercises no tensor of its entry: its layout is not proved") for name in unshown]
    return [NotCompared(name=name, side="target", reason=reason) for name, reason in reasons]


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


def is_logits(comparison: Compared) -> bool:
    """Whether the output has (batch, length, vocabulary) axes: as many features as some table has rows."""
    shape, graph = comparison.free.working.output_shape, comparison.target.graph
    sizes = {a.contraction for a in graph.anchors if a.kind == "lookup"}
    return len(shape) == 3 and shape[-1] in sizes
