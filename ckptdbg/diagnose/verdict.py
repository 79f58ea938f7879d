"""The verdict: the first that holds."""

from __future__ import annotations

from collections.abc import Sequence

from ckptdbg.compare.comparison import Comparison
from ckptdbg.diagnose.compared import Compared
from ckptdbg.diagnose.suspects import entries_of, layers_of, references
from ckptdbg.result import Divergence, Finding, NotCompared, Verdict


def decide(comparison: Comparison, findings: Sequence[Finding], undecided: Sequence[NotCompared]) -> Verdict:
    """``undecided`` are target parameters of which nothing is known; with them nothing can be called equivalent."""
    harmful = [f for f in findings if f.effect == "diverges"]
    if any(f.cause != "model" for f in harmful):
        return "divergent"
    if harmful:
        return "definition-differs"
    if undecided or (comparison.routing.reason and comparison.output.free.divergent):
        return "cannot-tell"
    if any(f.kind == "precision" for f in findings):
        return "precision-floor"
    return "equivalent"


def first_divergence(comparison: Compared) -> Divergence | None:
    """The first site, in the target's execution order, where the free-running models part."""
    if not comparison.output.free.divergent:
        return None
    for order, site in enumerate(comparison.sites):
        if site.free.divergent:
            label, measured = comparison.target.labels[site.anchor], site.free.working
            return Divergence(
                site=label.site,
                port=site.port,
                layer=label.layer,
                entry=label.entry.name if label.entry else None,
                order=order,
                error=measured.error,
                noise=measured.noise,
                ratio=measured.ratio,
            )
    measured = comparison.output.free.working
    return Divergence(
        site="output",
        port="output",
        layer=None,
        entry=None,
        order=len(comparison.sites),
        error=measured.error,
        noise=measured.noise,
        ratio=measured.ratio,
    )


def unexplained(comparison: Comparison) -> Finding:
    """The outputs differ although every piece that could be isolated is at noise: said as it is, with where to look
    first."""
    first = first_divergence(comparison)
    assert first is not None
    site = next((s for s in comparison.sites if comparison.target.labels[s.anchor].site == first.site), None)
    feeds = comparison.target.graph.anchors[site.anchor].feeds if site else comparison.target.graph.output_feeds
    labels = [comparison.target.labels[f] for f in sorted(feeds, reverse=True)]
    if site is not None:
        labels.insert(0, comparison.target.labels[site.anchor])
    return Finding(
        kind="unknown",
        cause="unknown",
        effect="diverges",
        entries=references(entries_of(labels)),
        layers=[first.layer] if first.layer else layers_of(labels),
        site=f"{first.site} {first.port}",
        ratio=first.ratio,
        explanation=(
            f"The outputs differ and the models part at {first.site} ({first.port}), but no piece that could be run on "
            "the source's values differs by itself: look at what is listed as not compared."
        ),
    )
