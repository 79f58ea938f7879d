"""A side's isolated runs once more, for a side that was given another setting in between."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from ckptdbg.compare.comparison import Rerun
from ckptdbg.compare.runs import Runs, SourceRuns, own_plants, pins_of, run_isolated, without_rows
from ckptdbg.models.records import Plant, Side, Trace

Array = NDArray[Any]


@dataclass(frozen=True)
class Replay:
    """Runs the source with the values planted that it had itself at first, at these anchors."""

    side: Side
    inputs: Mapping[str, Array]
    exact: Mapping[str, Array]
    """Its parameters in float64."""
    source: SourceRuns
    ins: frozenset[int]
    outs: frozenset[int]

    @property
    def plants(self) -> dict[int, Plant]:
        return own_plants(self.source.free.working.records, self.ins, self.outs)

    def promoted(
        self,
        changed: Mapping[str, Array] | None = None,
        plants: Mapping[int, Plant] | None = None,
        until: int | None = None,
    ) -> Trace:
        """In float64 only; ``changed`` are other values of some parameters (side names), ``until`` the last anchor that
        is looked at."""
        put = self.plants if plants is None else plants
        values = {**self.exact, **(changed or {})}
        trace = self.side.run(self.inputs, promoted=True, values=values, choices=self._pins, plants=put, until=until)
        return without_rows(trace, self.source.padded)

    def runs(self) -> Runs:
        """In working precision, in float64, and with jittered constants."""
        runs = run_isolated(self.side, self.inputs, self.exact, self.exact, self._pins, self.plants)
        kept = (without_rows(t, self.source.padded) for t in (runs.working, runs.promoted, runs.jittered))
        return Runs(*kept)

    @property
    def _pins(self) -> tuple[Array, ...] | None:
        return pins_of(self.source.free.working)


@dataclass(frozen=True)
class TargetReplay:
    """Runs the target with the source's values planted, as the comparison did."""

    rerun: Rerun
    plants: Mapping[int, Plant]

    @property
    def side(self) -> Side:
        return self.rerun.side

    def promoted(self, until: int | None = None) -> Trace:
        """In float64 only; ``until`` is the last anchor that is looked at."""
        return self.rerun.promoted(self.plants, until=until)

    def runs(self) -> Runs:
        """In working precision, in float64, and with jittered constants."""
        rerun, plants = self.rerun, self.plants
        return Runs(rerun.working(plants), rerun.promoted(plants), rerun.jittered(plants))
