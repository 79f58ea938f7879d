"""Everywhere the cursor can stand: the rows of a result, in execution order of the target."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ckptdbg.compare.blocks import BlockMeasure
from ckptdbg.compare.comparison import Comparison
from ckptdbg.compare.output import OutputMeasure
from ckptdbg.compare.sites import Judged, SiteMeasure
from ckptdbg.diagnose import summary
from ckptdbg.report.names import visible
from ckptdbg.result import Site


@dataclass(frozen=True, eq=False)
class Stop:
    """One place: a port of an anchor, the output of a block, or the model's output."""

    row: Site
    """As in ``Result.sites``."""
    measure: SiteMeasure | BlockMeasure | OutputMeasure

    @property
    def order(self) -> int:
        """Place in ``Result.sites``."""
        return self.row.order

    @property
    def name(self) -> str:
        """Target tensor and port, fit to be printed."""
        return visible(f"{self.row.site} {self.row.port}" if self.row.port != "output" else "output")

    @property
    def key(self) -> tuple:
        """The same place in another comparison of the same two models."""
        if isinstance(self.measure, SiteMeasure):
            return self.measure.anchor, self.measure.port
        return self.row.port, self.row.site

    @property
    def free(self) -> Judged:
        """Free running: with what came before."""
        return self.measure.free

    @property
    def alone(self) -> Judged | None:
        """On the source's own values; None for a block, which is never planted."""
        return None if isinstance(self.measure, BlockMeasure) else self.measure.isolated

    @property
    def diverges_alone(self) -> bool:
        return self.alone is not None and self.alone.divergent


def all_stops(comparison: Comparison) -> tuple[Stop, ...]:
    """Every row of the result with what was measured there."""
    sites, blocks = iter(comparison.sites), iter(_in_order(comparison.blocks))
    found = []
    for row in summary.sites(comparison):
        if row.port == "output":
            found.append(Stop(row, comparison.output))
        else:
            found.append(Stop(row, next(blocks) if row.port == "block" else next(sites)))
    return tuple(found)


def first_divergence(stops: Sequence[Stop]) -> Stop | None:
    """Where the models part when they run freely. A block is no place of its own: what it holds was judged before."""
    return next((stop for stop in stops if stop.row.port != "block" and stop.free.divergent), None)


def divergences(stops: Sequence[Stop]) -> list[Stop]:
    """Where to stop: where the models part, and every piece that diverges on the source's own values."""
    first = first_divergence(stops)
    return [stop for stop in stops if stop is first or stop.diverges_alone]


def layer_starts(stops: Sequence[Stop]) -> list[Stop]:
    """The first stop of each run of stops in one layer. What lies outside the layers makes runs of its own."""
    return [stop for before, stop in zip((None, *stops), stops, strict=False) if _another(before, stop)]


def _another(before: Stop | None, stop: Stop) -> bool:
    return before is None or before.row.layer != stop.row.layer


def _in_order(blocks: Iterable[BlockMeasure]) -> list[BlockMeasure]:
    """As the rows of a result have them: a block after its last anchor."""
    return sorted(blocks, key=lambda block: block.after)
