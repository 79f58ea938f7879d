"""The models' outputs, always among the compared places."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.compare.carry import Carried
from ckptdbg.compare.features import Pairing
from ckptdbg.compare.noise import unit_roundoff
from ckptdbg.compare.runs import Runs, SourceRuns
from ckptdbg.compare.sites import Judged, judge
from ckptdbg.errors import HarnessError
from ckptdbg.models.records import Graph, Trace

Array = NDArray[Any]


@dataclass(frozen=True)
class OutputMeasure:
    """The model output, source carried into the target's features."""

    index: Array
    """``[features]`` source feature behind each target feature; -1 for padding."""
    source: Array
    target: Array
    free: Judged
    isolated: Judged


def measure_output(
    graph: Graph, pairing: Pairing, source: SourceRuns, free: Runs, isolated: Runs, *, sharp: bool = True
) -> OutputMeasure:
    """Compare the outputs. Raises HarnessError where they are not over the same tokens."""
    ours, theirs = free.working.output, source.free.working.output
    index = output_index(graph, pairing, ours.shape[1], theirs.shape[1])
    real = ~np.isin(np.arange(len(ours)), source.padded)
    if not real.any():
        raise HarnessError("every token of the probe is padding", hint="give the probe at least one real token")
    if ours.shape[0] != theirs.shape[0] or index is None:
        raise HarnessError(
            "the two models' outputs cannot be laid over each other",
            found=f"source {list(source.free.working.output_shape)}, target {list(free.working.output_shape)}",
            expected="the same tokens and features on both sides",
            hint="select the matching output with `output:` in the config (a key or an index)",
        )

    def carried(trace: Trace) -> Carried:
        values = np.asarray(trace.output)[:, np.maximum(index, 0)]
        values = values if values.dtype.itemsize >= 4 else values.astype(np.float32)
        mask = real[:, None] & (index >= 0)
        return Carried(values, None if mask.all() else mask)

    def target(trace: Trace) -> Array:
        return trace.output

    precisions = (unit_roundoff(theirs.dtype), unit_roundoff(ours.dtype))
    return OutputMeasure(
        index,
        carried(source.free.working).values,
        ours,
        judge(carried, target, source.free, free, precisions),
        judge(carried, target, source.isolated, isolated, precisions, sharp=sharp),
    )


def output_index(graph: Graph, pairing: Pairing, ours: int, theirs: int) -> Array | None:
    """The source's output feature behind each of the target's. What the model gives to its users has one order: the
    anchor that makes it may add padding or leave rows out, but a vocabulary in another order is a fault."""
    makers = [pairing.outputs[t] for t in graph.output_feeds if graph.anchors[t].features == ours]
    found = [m for m in makers if m is not None and len(m.offers) == 1]
    if len(makers) == len(found) == 1:
        index = found[0].offers[0][1]
        real = index[index >= 0]
        if real.size and real[-1] < theirs and (np.diff(real) > 0).all():
            return index
    return np.arange(ours) if ours == theirs else None
