"""The values of one compared site on both sides."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.compare.comparison import Comparison
from ckptdbg.report.names import number, visible
from ckptdbg.result import Site

Array = NDArray[Any]


@dataclass(frozen=True)
class Values:
    """Two matrices ``[tokens, features]`` in the target's layout."""

    source: Array
    target: Array
    title: str = ""
    noise: float | None = None
    """Rounding noise of one element: root mean square over the tensor."""

    @property
    def difference(self) -> Array:
        """``target - source`` in float64; equal infinities are no difference."""
        source, target = (np.asarray(part, np.float64) for part in (self.source, self.target))
        with np.errstate(invalid="ignore"):
            return np.where(source == target, 0.0, target - source)

    def plain(self) -> str:
        """Size, and the cell that differs most."""
        difference = np.abs(self.difference)
        worst = np.unravel_index(np.argmax(np.where(np.isfinite(difference), difference, np.inf)), difference.shape)
        bad = [int((~np.isfinite(np.asarray(part, np.float64))).sum()) for part in (self.source, self.target)]
        times = "" if self.noise is None else f" ({number(float(difference[worst]) / self.noise)} x noise)"
        lines = [
            f"{visible(self.title) or 'activations'}: {difference.shape[0]} tokens by {difference.shape[1]} features",
            f"worst cell: token {worst[0]}, feature {worst[1]}: source {number(float(self.source[worst]), 6)}, "
            f"target {number(float(self.target[worst]), 6)}, difference {number(float(difference[worst]))}{times}",
        ]
        return "\n".join([*lines, *([f"not finite: {bad[0]} in source, {bad[1]} in target"] if any(bad) else [])])


def values_at(comparison: Comparison, site: Site) -> Values:
    """The values at a site of the comparison's result, free-running. Raises ``KeyError`` for a site that it has not."""
    if site.port == "output":
        found: Any = comparison.output
    elif site.port == "block":
        found = next((block for block in comparison.blocks if block.name == site.site), None)
    else:
        labels = comparison.target.labels
        named = [s for s in comparison.sites if (labels[s.anchor].site, s.port) == (site.site, site.port)]
        # Iterations of one loop share a name: their layer, then their error tells them apart.
        own = [s for s in named if labels[s.anchor].layer == site.layer] or named
        found = next((s for s in own if s.free.working.error == site.error), own[0] if own else None)
    if found is None:
        raise KeyError(f"{site.site} {site.port} is no site of this comparison")
    source, target = np.asarray(found.source), np.asarray(found.target)
    noise = found.free.working.noise / math.sqrt(target.size) if target.size else 0.0
    layer = "" if site.layer is None else f", layer {site.layer}"
    return Values(source, target, f"{site.site} {site.port}{layer}", noise if 0 < noise < math.inf else None)
