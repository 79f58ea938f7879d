"""One comparison, from two loaded sides to measured sites."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.compare.blocks import BlockMeasure, measure_blocks
from ckptdbg.compare.carry import plants
from ckptdbg.compare.features import Pairing, pair
from ckptdbg.compare.noise import SUSPECT
from ckptdbg.compare.output import OutputMeasure, measure_output
from ckptdbg.compare.runs import JITTER, Routing, Runs, SourceRuns, pin_target, run_isolated, run_target
from ckptdbg.compare.sites import SiteMeasure, measure_sites
from ckptdbg.compare.views import TargetView, View
from ckptdbg.models.records import Plant, Side, Trace

Array = NDArray[Any]
Progress = Callable[[str], None]
IsolateSource = Callable[[frozenset[int], frozenset[int]], Runs]
"""Runs the source with its own values planted at the ``in`` and the ``out`` of these anchors."""


@dataclass(frozen=True)
class SourceSide:
    """The source, run: all that a comparison needs of it."""

    view: View
    runs: SourceRuns


@dataclass(frozen=True)
class Tensors:
    """Where the comparison takes parameter values from."""

    read_source: Callable[[str], Array]
    """A source tensor by name."""
    read_exact: Callable[[str], Array]
    """A target tensor in float64: as mapped and not rounded where the target's own is as mapped, else its own."""
    to_parameters: Callable[[Callable[[str], Array]], dict[str, Array]]
    """Target tensors to the side's parameters."""
    rounded: Mapping[str, float] = field(default_factory=dict)
    """Target tensors that a function makes and rounds, so that no exact value is known: an ulp of each, relative."""

    def unsure(self, exact: dict[str, Array]) -> dict[str, Array]:
        """``exact`` with every rounded tensor moved by an ulp, up or down: what rounding leaves open is noise."""
        if not self.rounded:
            return exact
        signs = np.random.default_rng(JITTER)

        def moved(name: str) -> Array:
            value = self.read_exact(name)
            return value * (1 + self.rounded.get(name, 0.0) * signs.choice((-1.0, 1.0), value.shape))

        return self.to_parameters(moved)

    def exact(self, changed: Mapping[str, Array] | None = None) -> dict[str, Array]:
        """The target's parameters in float64, some of its tensors changed."""
        other = changed or {}
        return self.to_parameters(lambda name: other[name] if name in other else self.read_exact(name))


@dataclass(frozen=True)
class Rerun:
    """Runs the target of a comparison again, under other plants. Nothing is compiled anew."""

    side: Side
    inputs: Mapping[str, Array]
    pins: Sequence[Array] | None
    tensors: Tensors
    parameters: dict[str, Array]

    def working(self, plants: Mapping[int, Plant]) -> Trace:
        """In working precision."""
        return self.side.run(self.inputs, choices=self.pins, plants=plants)

    def jittered(self, plants: Mapping[int, Plant]) -> Trace:
        """In float64, with jittered constants."""
        return self.side.run(
            self.inputs, promoted=True, values=self.parameters, choices=self.pins, plants=plants, jitter=JITTER
        )

    def promoted(
        self, plants: Mapping[int, Plant], changed: Mapping[str, Array] | None = None, until: int | None = None
    ) -> Trace:
        """In float64, with other values of some target tensors; ``until`` is the last anchor that is looked at."""
        parameters = self.tensors.exact(changed) if changed else self.parameters
        return self.side.run(
            self.inputs, promoted=True, values=parameters, choices=self.pins, plants=plants, until=until
        )


@dataclass(frozen=True)
class Comparison:
    """Everything measured; what it means is for ``diagnose`` to say."""

    source: SourceSide
    target: TargetView
    pairing: Pairing
    routing: Routing
    gauges: dict[int, float]
    free: Runs
    isolated: Runs
    plants: dict[int, Plant]
    """What was planted in the isolated runs."""
    rerun: Rerun
    sites: list[SiteMeasure]
    output: OutputMeasure
    blocks: list[BlockMeasure]
    blocks_left: list[tuple[str, str]]
    """Blocks of the target that were not compared, and why."""
    alike: bool = True
    """Whether both sides were planted at the same places in the isolated runs; else the source was planted
    everywhere."""


def compare_sides(
    source: SourceSide,
    target: TargetView,
    side: Side,
    inputs: Mapping[str, Array],
    tensors: Tensors,
    progress: Progress = lambda _: None,
    isolate_again: IsolateSource | None = None,
) -> Comparison:
    """Run the target freely and in isolation, and measure every paired site.

    ``isolate_again`` runs the source with plants at these ports only; without it (a source that ran elsewhere) regions
    around an anchor without a partner are judged in working precision.
    """
    exact = tensors.exact()
    unsure = tensors.unsure(exact)
    pairing = pair(source.view.graph.anchors, source.view.anchors, target.graph.anchors, target.anchors)
    alike = _all_offered(source, pairing)
    if not alike and isolate_again is not None:
        runs = replace(source.runs, isolated=isolate_again(*pairing.offered()))
        source, alike = replace(source, runs=runs), True
    progress("running the target")
    first = side.run(inputs)
    routing = pin_target(source.runs.free, source.view.graph, first, target.graph, pairing)
    free = run_target(side, inputs, exact, unsure, routing.pins, first)
    rows = [record.rows for record in free.working.records]

    def isolate(gauges: dict[int, float]) -> tuple[dict[int, Plant], Runs, list[SiteMeasure]]:
        put = plants(pairing, rows, source.runs.free.working.records, gauges, source.runs.padded)
        runs = run_isolated(side, inputs, exact, unsure, routing.pins, put)
        return put, runs, measure_sites(pairing, source.runs, free, runs, gauges, sharp=alike)

    progress("running the target with the source's values planted")
    gauges: dict[int, float] = {}
    put, isolated, sites = isolate(gauges)
    moved = _moved_scales(pairing, sites)
    if moved:
        tried = isolate(moved)
        gauges = {t: g for t, g in moved.items() if _healthy_input(tried[2], t)}
        if gauges:
            put, isolated, sites = tried if gauges == moved else isolate(gauges)
    blocks, left = measure_blocks(source.view, target, pairing, source.runs, free)
    output = measure_output(target.graph, pairing, source.runs, free, isolated, sharp=alike)

    if routing.pins:  # what the target would choose by itself from the source's own values
        own = side.run(inputs, plants=put)
        apart = pin_target(source.runs.free, source.view.graph, own, target.graph, pairing)
        routing = replace(routing, wide=apart.wide)
    rerun = Rerun(side, inputs, routing.pins, tensors, exact)
    return Comparison(
        source, target, pairing, routing, gauges, free, isolated, put, rerun, sites, output, blocks, left, alike
    )


def _all_offered(source: SourceSide, pairing: Pairing) -> bool:
    """Whether every port of the source that ran has a partner, so that both sides are planted at the same places."""
    ins, outs = pairing.offered()
    ran = [(i, r) for i, r in enumerate(source.runs.free.working.records) if r.output.size]
    return all(i in outs and (i in ins or r.input is None) for i, r in ran)


def _moved_scales(pairing: Pairing, sites: Sequence[SiteMeasure]) -> dict[int, float]:
    """Anchors whose uniform scale s may sit at ``in`` instead of ``out`` (v times c with o over c): 1/s for each of
    them."""
    ill = {s.anchor for s in sites if s.port == "in" and s.isolated.divergent}
    maps = {t: pairing.outputs[t] for t in ill}
    return {t: 1.0 / m.uniform for t, m in maps.items() if m is not None and m.uniform}


def _healthy_input(sites: Sequence[SiteMeasure], anchor: int) -> bool:
    return any(s.anchor == anchor and s.port == "in" and s.isolated.promoted.ratio < SUSPECT for s in sites)
