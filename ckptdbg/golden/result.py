"""The Result of a comparison with a sketch: what it settles, and in so many words what it does not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ckptdbg.compare.logits import log_softmax
from ckptdbg.compare.noise import DIVERGENT, SUSPECT
from ckptdbg.compare.sites import Judged
from ckptdbg.diagnose import summary
from ckptdbg.diagnose.assemble import About, at_row
from ckptdbg.diagnose.coverage import propose
from ckptdbg.diagnose.verdict import first_divergence
from ckptdbg.golden.comparison import SketchComparison
from ckptdbg.golden.likely import Likely, kl_bounds, likely
from ckptdbg.golden.sketch import Place
from ckptdbg.mapping import BoundMapping
from ckptdbg.models.records import Summary
from ckptdbg.result import Finding, Logits, Noise, NotCompared, Result, Site, Stats, Verdict

Array = NDArray[Any]
METHOD = (
    "against a sketch: 16 random projections of every token row, L2 over the whole tensor and per token, not per "
    "feature; noise is the largest of: working precision against promoted float64 on either side, constants jittered "
    "by one ulp, unit roundoff times the value, half of the step in which projections are stored"
)
UNSETTLED = (
    ("each piece alone", "a sketch holds no values to plant: whatever follows the first divergence is not judged"),
    ("single features", "a sketch holds projections of whole token rows"),
    ("outputs of whole blocks", "a sketch holds the places of tensors only"),
)
"""What no sketch can settle, with the reason."""


def assemble_sketch(
    comparison: SketchComparison,
    findings: Sequence[Finding],
    mapping: BoundMapping,
    unsettled: Sequence[NotCompared],
    omitted: Sequence[str],
    about: About,
) -> Result:
    """``unsettled``: what of the tensors was not checked, so that nothing can be called equivalent. ``omitted``:
    inputs that the target does not accept."""
    undecided = [*_undecided(comparison), *summary.undecided(comparison, mapping), *unsettled]
    coverage, sites = summary.coverage(comparison), _rows(comparison)
    cover = about.probe.get("tokens") == "cover"
    return Result(
        verdict=decide(comparison, findings, undecided),
        first_divergence=at_row(sites, first_divergence(comparison)),
        findings=list(findings),
        sites=sites,
        not_compared=[*_left(comparison, omitted), *undecided],
        noise=Noise(method=METHOD, suspect=SUSPECT, divergent=DIVERGENT),
        logits=logits(comparison),
        coverage=coverage.model_copy(update={"proposal": propose(coverage.unexercised, cover)}),
        probe=about.probe,
        environment=about.environment,
        timings=about.timings,
    )


def decide(comparison: SketchComparison, findings: Sequence[Finding], undecided: Sequence[NotCompared]) -> Verdict:
    """The first that holds. ``equivalent`` takes every projection at noise and every tensor checked; places that
    differ although the output does not may be a symmetry, which a sketch cannot tell from a fault that the output
    does not read."""
    if any(f.effect == "diverges" for f in findings):
        return "divergent"
    if undecided or any(s.free.divergent for s in comparison.sites):
        return "cannot-tell"
    return "precision-floor" if any(f.kind == "precision" for f in findings) else "equivalent"


def _undecided(comparison: SketchComparison) -> list[NotCompared]:
    """Places without which nothing can be called equivalent."""
    rows = [NotCompared(name=name, side="target", reason=why) for name, why in comparison.left]
    if not comparison.output.settled:
        why = "the target has only some of the source's features: a projection is of all of them"
        rows.append(NotCompared(name="output", side="target", reason=why))
    apart = next((s for s in comparison.sites if s.free.divergent), None)
    if apart is not None and not comparison.output.free.divergent:
        why = (
            f"its projections differ ({apart.port}, {apart.free.working.ratio:.3g} times noise) although the output's "
            "do not: a symmetry, or a fault that the output does not read"
        )
        rows.append(NotCompared(name=comparison.target.labels[apart.anchor].site, side="target", reason=why))
    return rows


def _left(comparison: SketchComparison, omitted: Sequence[str]) -> list[NotCompared]:
    """Everything else that was left out."""
    said = {name for name, _ in comparison.left}
    rows = summary.not_compared(comparison, {"target": omitted})
    general = [NotCompared(name=name, side="source", reason=why) for name, why in UNSETTLED]
    return [*general, *(row for row in rows if row.name not in said)]


def _rows(comparison: SketchComparison) -> list[Site]:
    """One row for each site, the output last."""
    rows = []
    for order, site in enumerate(comparison.sites):
        label, anchor = comparison.target.labels[site.anchor], comparison.target.graph.anchors[site.anchor]
        record = comparison.free.working.records[site.anchor]
        values = record.input if site.port == "in" else record.output
        assert values is not None, "a lookup's ids are no site"
        entry = label.entry.name if label.entry else None
        row = _row(label.site, site.port, site.free, site.place, values[np.isin(record.rows, site.place.rows)], order)
        about = {"entry": entry, "layer": label.layer, "scope": str(anchor.where), "shape": list(values.shape)}
        rows.append(row.model_copy(update=about))
    output = comparison.output
    if output.settled:
        values = comparison.free.working.output[:, output.part.features]
        rows.append(_row("output", "output", output.free, output.place, values, len(rows)))
    return rows


def _row(
    name: str, port: Literal["in", "out", "output"], judged: Judged, place: Place, target: Array, order: int
) -> Site:
    measured = judged.working
    return Site(
        site=name,
        entry=None,
        layer=None,
        port=port,
        scope="",
        order=order,
        shape=list(target.shape),
        source=_stats(place.stats),
        target=summary.stats(target),
        error=measured.error,
        noise=measured.noise,
        ratio=measured.ratio,
        nonfinite="NaN or infinite values on one side only" if judged.nonfinite else None,
    )


def _stats(stats: Summary) -> Stats:
    return Stats(mean=stats.mean, std=stats.std, min=stats.min, max=stats.max, nonfinite=stats.nonfinite)


def logits(comparison: SketchComparison) -> Logits | None:
    """Figures on the outputs read as logits, as far as the source's ten likeliest tokens give them: bounds of the KL
    divergence. None where the output is not over a vocabulary."""
    known, output = comparison.source.likely, comparison.output
    if known is None or not summary.is_logits(comparison) or not output.settled:
        return None
    values = np.zeros((len(comparison.free.working.output), output.place.features))
    values[:, output.part.places] = comparison.free.working.output[:, output.part.features]
    real = output.place.rows
    log_q, known = log_softmax(values[real]), Likely(known.ids[real], known.log_p[real])
    low, high = kl_bounds(known, log_q)
    ours = likely(values[real]).ids
    return Logits(
        kl_mean_nats=None,
        kl_max_nats=None,
        kl_torchtitan=None,
        top1_agreement=float((ours[:, 0] == known.ids[:, 0]).mean()),
        topk_overlap=float((ours[:, :, None] == known.ids[:, None, :]).any(-1).mean()),
        max_abs=None,
        kl_mean_bounds=[float(low.mean()), float(high.mean())],
        kl_max_bounds=[float(low.max()), float(high.max())],
    )
