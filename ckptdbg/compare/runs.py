"""The runs behind one comparison: each side in working precision, promoted to float64, and with jittered constants.

Free running shows where the models first part. In the isolated pass the source's recorded values are planted at
every paired port, on both sides, so that each piece is judged on the same inputs and its error is its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.compare.carry import match_rows
from ckptdbg.compare.features import Pairing
from ckptdbg.compare.noise import DIVERGENT
from ckptdbg.models.records import Choose, Graph, Plant, Record, Side, Trace

Array = NDArray[Any]
JITTER = 1
"""The seed of every run with jittered constants."""


@dataclass(frozen=True)
class Runs:
    """Three runs of one side under the same plants."""

    working: Trace
    promoted: Trace
    jittered: Trace


@dataclass(frozen=True)
class SourceRuns:
    """Everything the source contributes: it does not depend on the target."""

    free: Runs
    isolated: Runs
    padded: Array
    """Flat indices of the tokens that the attention mask leaves out: what happens there is nobody's business."""


def run_source(side: Side, inputs: Mapping[str, Array], exact: Mapping[str, Array]) -> SourceRuns:
    """Run the source. ``exact`` are its parameters in float64, before any cast to the working precision."""
    working = side.run(inputs)
    pins = pins_of(working)
    promoted = side.run(inputs, promoted=True, values=exact, choices=pins)
    jittered = side.run(inputs, promoted=True, values=exact, choices=pins, jitter=JITTER)
    padded = padded_tokens(inputs)
    free = Runs(*(without_rows(trace, padded) for trace in (working, promoted, jittered)))
    everywhere = frozenset(range(len(working.records)))
    return SourceRuns(free, isolate_source(side, inputs, exact, free, everywhere, everywhere, padded), padded)


def isolate_source(
    side: Side,
    inputs: Mapping[str, Array],
    exact: Mapping[str, Array],
    free: Runs,
    ins: frozenset[int],
    outs: frozenset[int],
    padded: Array,
) -> Runs:
    """The source with its own working values planted at the ``in`` and ``out`` of these anchors: where the target
    has them planted too, so that a region is the same stretch of both models."""
    pins, own = pins_of(free.working), own_plants(free.working.records, ins, outs)
    promoted = side.run(inputs, promoted=True, values=exact, choices=pins, plants=own)
    jittered = side.run(inputs, promoted=True, values=exact, choices=pins, plants=own, jitter=JITTER)
    return Runs(free.working, without_rows(promoted, padded), without_rows(jittered, padded))


def own_plants(records: Sequence[Record], ins: frozenset[int], outs: frozenset[int]) -> dict[int, Plant]:
    """A side's own values, to be planted at the ``in`` and ``out`` of these anchors; none at all in an expert that no
    token reached, which counts as planted."""
    return {
        i: Plant(input=r.input if i in ins else None, output=r.output if i in outs else None)
        for i, r in enumerate(records)
        if i in ins or i in outs
    }


def padded_tokens(inputs: Mapping[str, Array]) -> Array:
    """Flat indices of the tokens that a mask over ``input_ids`` leaves out. A decoder numbers its own tokens: with
    one, none are left out."""
    ids, mask = inputs.get("input_ids"), inputs.get("attention_mask")
    if ids is None or mask is None or "decoder_input_ids" in inputs or np.shape(mask) != np.shape(ids):
        return np.zeros(0, np.int64)
    return np.flatnonzero(np.asarray(mask) == 0)


def without_rows(trace: Trace, tokens: Array) -> Trace:
    """The same trace with the rows of these tokens belonging to no token, so that they pair with nothing."""
    if not tokens.size:
        return trace

    def rows(of: Record | Choose) -> Array:
        return np.where(np.isin(of.rows, tokens), -1, of.rows)

    records = tuple(replace(record, rows=rows(record)) for record in trace.records)
    choices = tuple(replace(choice, rows=rows(choice)) for choice in trace.choices)
    return replace(trace, records=records, choices=choices)


def run_target(
    side: Side,
    inputs: Mapping[str, Array],
    exact: Mapping[str, Array],
    unsure: Mapping[str, Array],
    pins: Sequence[Array] | None,
    first: Trace,
) -> Runs:
    """Run the target freely, its routing pinned. ``first`` is its unpinned working run, used again where nothing is
    pinned; ``unsure`` are its parameters as ``exact`` with those that are known rounded only moved by an ulp."""
    working = side.run(inputs, choices=pins) if pins else first
    return Runs(
        working,
        side.run(inputs, promoted=True, values=exact, choices=pins),
        side.run(inputs, promoted=True, values=unsure, choices=pins, jitter=JITTER),
    )


def run_isolated(
    side: Side,
    inputs: Mapping[str, Array],
    exact: Mapping[str, Array],
    unsure: Mapping[str, Array],
    pins: Sequence[Array] | None,
    put: Mapping[int, Plant],
) -> Runs:
    """Run the target with ``put``, the source's working values, planted at every paired port."""
    return Runs(
        side.run(inputs, choices=pins, plants=put),
        side.run(inputs, promoted=True, values=exact, choices=pins, plants=put),
        side.run(inputs, promoted=True, values=unsure, choices=pins, plants=put, jitter=JITTER),
    )


@dataclass(frozen=True)
class Routing:
    """What became of the discrete choices."""

    pins: tuple[Array, ...] | None
    """The source's choices in the target's rows and options; None where there is nothing to pin or no way to tell."""
    wide: tuple[int, ...] = ()
    """Of every choice, the rows where the target's own differed although the source's margin is wider than rounding."""
    reason: str | None = None
    """Why choices could not be pinned, where they could not."""


def pin_target(source: Runs, source_graph: Graph, target: Trace, target_graph: Graph, pairing: Pairing) -> Routing:
    """Translate the source's choices for the target: rows by token, options by the router's paired features."""
    if not source_graph.choices and not target_graph.choices:
        return Routing(None)
    shapes = (
        [(c.options, c.chosen) for c in source_graph.choices],
        [(c.options, c.chosen) for c in target_graph.choices],
    )
    if shapes[0] != shapes[1]:
        return Routing(None, (), f"the source makes {len(shapes[0])} discrete choices, the target {len(shapes[1])}")
    pins, wide = [], []
    made_by = zip(source.working.choices, source.promoted.choices, target.choices, target_graph.choices, strict=True)
    for made, promoted, own, choice in made_by:
        rename = _options(choice.feeds, choice.options, pairing)
        matched = match_rows(own.rows, made.rows)
        pinned = np.where((matched >= 0)[:, None], rename[made.indices[np.maximum(matched, 0)]], own.indices)
        pins.append(pinned)
        off = (np.sort(pinned, 1) != np.sort(own.indices, 1)).any(1)
        clear = made.margin > DIVERGENT * np.abs(made.margin - promoted.margin)
        wide.append(int((off & (matched >= 0) & clear[np.maximum(matched, 0)]).sum()))
    return Routing(tuple(pins), tuple(wide))


def _options(feeds: frozenset[int], options: int, pairing: Pairing) -> Array:
    """Target option of each source option, from the one router that feeds the choice; the same number where it
    cannot be told."""
    for t in sorted(feeds, reverse=True):
        found = pairing.outputs[t]
        if found is not None and len(found.scale) == options and len(found.offers) == 1 and found.paired.all():
            return np.argsort(found.offers[0][1])
    return np.arange(options)


def pins_of(trace: Trace) -> tuple[Array, ...] | None:
    """The choices of a run, to pin another one to; None where there are none."""
    return tuple(c.indices for c in trace.choices) or None
