"""Routers that choose otherwise than the source on the source's own values."""

from __future__ import annotations

from ckptdbg.diagnose.compared import Compared
from ckptdbg.diagnose.suspects import entries_of, layers_of, references
from ckptdbg.result import Finding


def routing_findings(comparison: Compared) -> list[Finding]:
    """One finding for each choice that differs by more than rounding. All runs that are compared are pinned to the
    source's choices, so nothing else would show it."""
    found = []
    for choice, rows in zip(comparison.target.graph.choices, comparison.routing.wide, strict=False):
        if not rows:
            continue
        graph, target = comparison.target.graph, comparison.target
        fed = [a for a in graph.anchors if choice.feeds & a.feeds]
        met = sorted(frozenset().union(*(a.met for a in fed)))
        labels = [*(target.labels[f] for f in sorted(choice.feeds, reverse=True)), *(target.met_labels[m] for m in met)]
        found.append(
            Finding(
                kind="unknown",
                cause="unknown",
                effect="diverges",
                entries=references(entries_of(labels)),
                layers=layers_of(target.labels[f] for f in choice.feeds),
                site=f"choice {choice.index} ({choice.op}, {choice.chosen} of {choice.options})",
                ratio=None,
                explanation=_sentence(rows),
                evidence=[f"in the target: {choice.where}"] if str(choice.where) else [],
            )
        )
    return found


def _sentence(rows: int) -> str:
    return (
        f"The target chooses otherwise than the source for {rows} tokens on the source's own values, by more than "
        "rounding: look at what lies between the router and its choice (a bias, the score function)."
    )
