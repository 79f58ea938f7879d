"""What is known of each side before they are compared: its graph, its layouts, its names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.compare.labels import Label, label
from ckptdbg.mapping import BoundMapping
from ckptdbg.mapping.layout import Layout, Read, as_matrix, read_layouts
from ckptdbg.models.records import Graph, Side

Array = NDArray[Any]
ToParameters = Callable[[Read], dict[str, Array]]


@dataclass(frozen=True)
class View:
    """One side's graph, with the layout of every operand against the source's tensors."""

    specs: dict[str, TensorSpec]
    """The side's own tensors, as mapping files name them."""
    graph: Graph
    anchors: tuple[Layout, ...]
    meetings: tuple[Layout, ...]


@dataclass(frozen=True)
class TargetView(View):
    """The target's view, with the names of its operands."""

    labels: tuple[Label, ...]
    """Of the anchors."""
    met_labels: tuple[Label, ...]
    """Of the meetings."""
    own: tuple[Layout, ...]
    """Layouts of the anchors against the target's own tensors, in the order of ``specs``."""
    own_met: tuple[Layout, ...]
    """Of the meetings likewise."""


def view_source(
    side: Side, specs: dict[str, TensorSpec], to_parameters: ToParameters, inputs: Mapping[str, Array]
) -> View:
    """Walk the source and read its layouts."""
    graph = side.graph(inputs)
    anchors, meetings = _layouts(side, graph, to_parameters, specs)
    return View(specs, graph, anchors, meetings)


def view_target(
    side: Side,
    specs: dict[str, TensorSpec],
    to_parameters: ToParameters,
    inputs: Mapping[str, Array],
    mapping: BoundMapping,
    source: dict[str, TensorSpec],
) -> TargetView:
    """Walk the target and read its layouts twice: through the mapping, against the source's tensors, and against its
    own."""
    graph = side.graph(inputs)

    def through_mapping(read: Read) -> dict[str, Array]:
        made = {name: value for name, value, _ in mapping.pushed(read)}
        return to_parameters(lambda name: made[name] if name in made else np.zeros(specs[name].shape))

    anchors, meetings = _layouts(side, graph, through_mapping, source)
    own, own_met = _layouts(side, graph, to_parameters, specs)
    labels = tuple(
        label(o, c, a.parameters, specs, source, mapping) for o, c, a in zip(own, anchors, graph.anchors, strict=True)
    )
    met_labels = tuple(
        label(o, c, m.parameters, specs, source, mapping)
        for o, c, m in zip(own_met, meetings, graph.meetings, strict=True)
    )
    return TargetView(specs, graph, anchors, meetings, labels, met_labels, own, own_met)


def _layouts(
    side: Side, graph: Graph, to_parameters: ToParameters, specs: dict[str, TensorSpec]
) -> tuple[tuple[Layout, ...], tuple[Layout, ...]]:
    def push(read: Read) -> list[Array]:
        operands = side.operands(to_parameters(read))
        return [*operands.anchors, *(as_matrix(m) for m in operands.meetings)]

    layouts = read_layouts(push, specs)
    count = len(graph.anchors)
    return tuple(layouts[:count]), tuple(layouts[count:])
