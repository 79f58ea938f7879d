"""The Result, from what was measured and found."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from ckptdbg.compare.comparison import Comparison
from ckptdbg.compare.noise import DIVERGENT, METHOD, SUSPECT
from ckptdbg.diagnose import summary, verdict
from ckptdbg.diagnose.coverage import propose
from ckptdbg.mapping import BoundMapping
from ckptdbg.result import Divergence, Finding, Noise, Result, Site


@dataclass(frozen=True)
class About:
    """The circumstances of a comparison, for the record."""

    probe: dict[str, Any]
    environment: dict[str, Any]
    timings: dict[str, float]


def assemble(
    comparison: Comparison,
    findings: Sequence[Finding],
    mapping: BoundMapping,
    omitted: dict[str, Sequence[str]],
    about: About,
) -> Result:
    """``omitted``: inputs that a side does not accept, by side."""
    found = list(findings)
    if comparison.output.free.divergent and not any(f.effect == "diverges" for f in found):
        found.append(verdict.unexplained(comparison))
    missing = summary.not_compared(comparison, omitted)
    undecided = summary.undecided(comparison, mapping)
    coverage, cover = summary.coverage(comparison), about.probe.get("tokens") == "cover"
    sites = summary.sites(comparison)
    return Result(
        verdict=verdict.decide(comparison, found, undecided),
        first_divergence=at_row(sites, verdict.first_divergence(comparison)),
        findings=found,
        sites=sites,
        not_compared=[*missing, *undecided],
        noise=Noise(method=METHOD, suspect=SUSPECT, divergent=DIVERGENT),
        logits=summary.logits(comparison),
        coverage=coverage.model_copy(update={"proposal": propose(coverage.unexercised, cover)}),
        probe=about.probe,
        environment=about.environment,
        timings=about.timings,
    )


def at_row(sites: Sequence[Site], first: Divergence | None) -> Divergence | None:
    """The first divergence with the order of its row: rows count blocks too."""
    place = first and (first.site, first.port, first.layer)
    order = next((row.order for row in sites if (row.site, row.port, row.layer) == place), 0)
    return first and first.model_copy(update={"order": order})


def environment() -> dict[str, Any]:
    """Versions of what the numbers depend on, read without importing any of it."""
    names = ("ckptdbg", "numpy", "torch", "jax", "flax", "transformers")
    versions = {}
    for name in names:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {"python": platform.python_version(), "platform": platform.platform(terse=True), **versions}
