"""What would follow if one place were right: the source's values are put in there and the target runs on.

Only the target runs again, three times (working precision, float64, jittered constants), each with what the source had
there in the same kind of run; so everything after the plant is judged by the same noise as before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ckptdbg.compare.carry import carry
from ckptdbg.compare.comparison import Comparison
from ckptdbg.compare.features import Port
from ckptdbg.compare.output import measure_output
from ckptdbg.compare.runs import Runs, SourceRuns
from ckptdbg.compare.sites import Judged, SiteMeasure, judge_port
from ckptdbg.errors import CkptdbgError
from ckptdbg.models.records import Anchor, Plant, Trace
from ckptdbg.stepping.change import Change, change, listed
from ckptdbg.stepping.printed import Printed, moved
from ckptdbg.stepping.stops import Stop


@dataclass(frozen=True, repr=False)
class Planted(Printed):
    """The target, run on with the source's values at some places."""

    places: tuple[str, ...]
    changes: tuple[Change, ...]
    """Every compared place after the first plant, free running, the planted ones left out; the output is the last."""

    @property
    def recovered(self) -> tuple[Change, ...]:
        """Places that diverged and are at noise now."""
        return tuple(c for c in self.changes if c.recovered)

    @property
    def left(self) -> tuple[Change, ...]:
        """Places that still diverge, in execution order."""
        return tuple(c for c in self.changes if c.diverges)

    @property
    def output(self) -> Change:
        return self.changes[-1]

    def lines(self) -> list[str]:
        first, *others = self.places
        more = f" and {len(others)} more" if others else ""
        found = [f"planted the source's values at {first}{more}"]
        found += listed("at noise now", self.recovered)
        if self.left:
            again = self.left[0]
            found.append(f"  differs again from  {again}  ({len(self.left)} of {len(self.changes)} places after it)")
        where = "still diverges" if self.output.diverges else "at noise"
        return [*found, f"  output  {moved(self.output.before, self.output.after)}  {where}"]


def plant(
    comparison: Comparison,
    stops: Sequence[Stop],
    chosen: Sequence[Stop],
    progress: Callable[[str], None] = lambda _: None,
) -> Planted:
    """Run the target on with the source's values at ``chosen``. ``progress`` is told before each run. Raises
    CkptdbgError where nothing can be planted."""
    for stop in chosen:
        if not isinstance(stop.measure, SiteMeasure):
            what = "the model's output" if stop.row.port == "output" else "the output of a block"
            raise CkptdbgError(f"nothing can be planted at {stop.name}", found=what, hint="step to a site (in or out)")
    wanted: list[tuple[int, Port]] = [
        (s.measure.anchor, s.measure.port) for s in chosen if isinstance(s.measure, SiteMeasure)
    ]
    ports = list(dict.fromkeys(p for anchor, port in wanted for p in _together(comparison, anchor, port)))
    runs = _runs(comparison, ports, progress)
    planted = [stop for stop in stops if stop.key in ports]
    after = [s for s in stops if s.order > planted[0].order and s.row.port != "block" and s.key not in ports]
    changes = tuple(change(stop, stop.free, _judge(comparison, stop, runs)) for stop in after)
    return Planted(tuple(stop.name for stop in planted), changes)


def _runs(comparison: Comparison, ports: Sequence[tuple[int, Port]], progress: Callable[[str], None]) -> Runs:
    source, rerun = comparison.source.runs.free, comparison.rerun
    traces = []
    for run, kind, values in (
        (rerun.working, "in working precision", source.working),
        (rerun.promoted, "in float64", source.promoted),
        (rerun.jittered, "with jittered constants", source.jittered),
    ):
        progress(f"running on from the plant, {kind}")
        traces.append(run(_plants(comparison, values, ports)))
    return Runs(*traces)


def _together(comparison: Comparison, index: int, port: Port) -> list[tuple[int, Port]]:
    """What is planted with a port: an ``in`` in all anchors that read the same region (q, k and v after one norm), and
    all groups of a stacked matrix (experts)."""
    anchors = comparison.target.graph.anchors
    one = anchors[index]
    if port == "in":
        alike = [a for a in anchors if (a.feeds, a.met) == (one.feeds, one.met)]
    else:
        alike = [a for a in anchors if a is one or (one.group is not None and _call(a) == _call(one))]
    return [(a.index, port) for a in alike]


def _call(anchor: Anchor) -> tuple:
    return anchor.parameters, anchor.iteration, anchor.where, anchor.op, anchor.feeds


def _plants(comparison: Comparison, source: Trace, ports: Sequence[tuple[int, Port]]) -> dict[int, Plant]:
    """What the source had in one of its runs, in the target's layout."""
    found: dict[int, dict] = {}
    for anchor, port in ports:
        behind = dict(comparison.pairing.ports(anchor))[port]
        if behind is None:
            continue
        rows = comparison.free.working.records[anchor].rows
        carried = carry(behind, rows, source.records, port, comparison.gauges.get(anchor, 1.0))
        name = "input" if port == "in" else "output"
        found.setdefault(anchor, {}).update({name: carried.values, f"{name}_mask": carried.mask})
    return {anchor: Plant(**values) for anchor, values in found.items()}


def _judge(comparison: Comparison, stop: Stop, runs: Runs) -> Judged:
    source = comparison.source.runs
    if isinstance(stop.measure, SiteMeasure):
        t, port = stop.measure.anchor, stop.measure.port
        found = dict(comparison.pairing.ports(t))[port]
        assert found is not None  # it was measured before
        rows = comparison.free.working.records[t].rows
        return judge_port(t, port, found, rows, source.free, runs, comparison.gauges.get(t, 1.0))
    only = SourceRuns(source.free, source.free, source.padded)
    return measure_output(comparison.target.graph, comparison.pairing, only, runs, runs).free
