"""One comparison of a target with a sketch: the target runs freely, once in each of three ways, and every place of the
sketch is judged where the target has it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.compare.features import Pairing, Port, pair
from ckptdbg.compare.noise import NOTHING, SUSPECT
from ckptdbg.compare.output import output_index
from ckptdbg.compare.runs import Routing, Runs, pin_target, run_target
from ckptdbg.compare.sites import Judged
from ckptdbg.compare.views import TargetView
from ckptdbg.errors import HarnessError
from ckptdbg.golden.carry import Group, Part, Values, groups_of, output_values, parts_by_source, port_values
from ckptdbg.golden.measure import Judgement, TargetRuns, judge_group
from ckptdbg.golden.sketch import Place, Sketch
from ckptdbg.models.records import Side, Trace

Array = NDArray[Any]


@dataclass(frozen=True)
class SketchSite:
    """A port of a target anchor."""

    anchor: int
    port: Port
    free: Judged
    place: Place
    """The source's: of the last of them, where the target fuses several."""
    together: tuple[int, ...]
    """The target anchors that make up the place: where they are several, which of them is at fault is not known."""


@dataclass(frozen=True)
class SketchOutput:
    """The model output."""

    free: Judged
    place: Place
    part: Part
    """The target's features that are the source's."""
    settled: bool
    """False where the target lacks some of the source's features: then nothing was compared."""


@dataclass(frozen=True)
class SketchComparison:
    """Everything measured; ``diagnose.compared`` says what it has in common with a comparison of values."""

    source: Sketch
    target: TargetView
    pairing: Pairing
    routing: Routing
    free: Runs
    sites: list[SketchSite]
    output: SketchOutput
    left: list[tuple[str, str]] = field(default_factory=list)
    """Sites of the target of which some or all is not compared, and why."""
    blocks_left: tuple[tuple[str, str], ...] = ()


def compare_sketch(
    sketch: Sketch,
    target: TargetView,
    side: Side,
    inputs: Mapping[str, Array],
    exact: Mapping[str, Array],
    rounded: Mapping[str, Array] | None = None,
) -> SketchComparison:
    """Run the target and measure. ``exact`` are its parameters in float64; ``rounded`` the same moved by as much as
    storing them rounds, where they are not known from before they were stored."""
    source = sketch.view
    pairing = pair(source.graph.anchors, source.anchors, target.graph.anchors, target.anchors)
    first = side.run(inputs)
    routing = pin_target(_choices(sketch), source.graph, first, target.graph, pairing)
    free = run_target(side, inputs, exact, exact, routing.pins, first)
    moved = None
    if rounded is not None:
        moved = side.run(inputs, promoted=True, values=rounded, choices=routing.pins)
    runs = TargetRuns(free, moved)
    sites, left = _sites(sketch, target, pairing, runs)
    return SketchComparison(sketch, target, pairing, routing, free, sites, _output(sketch, target, pairing, runs), left)


def _choices(sketch: Sketch) -> Runs:
    """The source's runs, of which only the choices are known."""
    exact = tuple(replace(c, margin=m) for c, m in zip(sketch.choices, sketch.margins, strict=True))
    return Runs(*(Trace((), np.zeros((0, 0)), (), choices=c) for c in (sketch.choices, exact, exact)))


def _sites(
    sketch: Sketch, target: TargetView, pairing: Pairing, runs: TargetRuns
) -> tuple[list[SketchSite], list[tuple[str, str]]]:
    """All places that the target has, by its ports in its execution order, and what of them is left."""
    found: dict[tuple[int, Port], SketchSite] = {}
    left: dict[int, str] = {}
    gauges: dict[int, float] = {}
    ports: tuple[Port, Port] = ("in", "out")
    for port in ports:
        for s, parts in parts_by_source(pairing, port).items():
            place = sketch.place(s, port)
            if place is None:
                continue
            groups, short = groups_of(place, parts)
            left |= dict.fromkeys(short, _SHORT)
            for group in groups:
                made = _judge(group, port, pairing, runs, gauges)
                if made is None:
                    continue
                if made.rows < len(place.rows):
                    left |= dict.fromkeys(group.anchors, f"{made.rows} of {len(place.rows)} token rows have a partner")
                for anchor in group.anchors:
                    site = SketchSite(anchor, port, made.judged, place, group.anchors)
                    found[anchor, port] = max(site, found.get((anchor, port), site), key=_worst)
    order = sorted(found, key=lambda at: (at[0], at[1] == "out"))
    return [found[at] for at in order], [(target.labels[t].site, why) for t, why in sorted(left.items())]


_SHORT = "the target has only some of the source's features here: a projection is of all of them"


def _judge(group: Group, port: Port, pairing: Pairing, runs: TargetRuns, gauges: dict[int, float]) -> Judgement | None:
    """One place; a uniform scale that may sit at ``in`` instead of ``out`` (v times c with o over c) is tried there,
    and kept in ``gauges`` where it is healthy."""

    def get(trace: Trace) -> Callable[[int], Values]:
        return port_values(trace, port)

    first = group.anchors[0]
    made = judge_group(group, runs, get, gauges.get(first, 1.0))
    found = pairing.outputs[first]
    if port == "out" or made is None or not made.judged.divergent or found is None or not found.uniform:
        return made
    moved = judge_group(group, runs, get, 1.0 / found.uniform)
    if moved is None or moved.judged.promoted.ratio >= SUSPECT:
        return made
    gauges[first] = 1.0 / found.uniform
    return moved


def _worst(site: SketchSite) -> float:
    return site.free.promoted.ratio


def _output(sketch: Sketch, target: TargetView, pairing: Pairing, runs: TargetRuns) -> SketchOutput:
    """Compare the outputs. Raises HarnessError where they are not over the same tokens."""
    place, ours, shape = sketch.places[sketch.output], runs.free.working.output, sketch.output_shape
    index = output_index(target.graph, pairing, ours.shape[1], place.features)
    if len(ours) != math.prod(shape[:-1]) or index is None:
        raise HarnessError(
            "the two models' outputs cannot be laid over each other",
            found=f"source {list(shape)}, target {list(runs.free.working.output_shape)}",
            expected="the same tokens and features on both sides",
            hint="select the matching output with `output:` in the config (a key or an index)",
        )
    features = np.flatnonzero(index >= 0)
    part = Part(0, features, index[features], np.ones(len(features)))
    groups, _ = groups_of(place, [part])
    made = judge_group(groups[0], runs, output_values) if groups else None
    judged = Judged(NOTHING, NOTHING, 0.0) if made is None else made.judged
    return SketchOutput(judged, place, part, settled=made is not None)
