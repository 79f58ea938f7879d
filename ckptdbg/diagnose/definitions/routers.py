"""An experiment on both sides: with the experts that are not chosen out of the router's reach, does the difference go
away?

A softmax over all experts gives the chosen ones weights that add up to less than one; divided by their sum they are the
softmax over the chosen alone. Without the others' scores both are the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ckptdbg.compare.comparison import Comparison
from ckptdbg.compare.noise import SUSPECT
from ckptdbg.compare.replay import Replay
from ckptdbg.diagnose.definitions.ablation import ratio_left
from ckptdbg.diagnose.regions import OUTPUT, Place
from ckptdbg.errors import CkptdbgError
from ckptdbg.models.records import Choice, Graph, Plant, Trace

_OUT_OF_REACH = -1e4
"""A score whose exponential is zero."""


def normalised_on_one_side(comparison: Comparison, replay: Replay, place: Place) -> tuple[str, float] | None:
    """Which side (``source`` or ``target``) gives the chosen experts weights that add up to one, where the other does
    not and nothing else differs at a place; and the ratio that is left without the other experts. None where that is
    no less than a difference, or cannot be tried."""
    if place.port != "in" or place.consumers[0] == OUTPUT:
        return None
    graphs = comparison.source.view.graph, comparison.target.graph
    behind = [pair for pair in zip(graphs[0].choices, graphs[1].choices, strict=False) if pair[1].feeds & place.feeds]
    theirs = _chosen_alone(graphs[0], [c for c, _ in behind], replay.source.free.working, replay.plants)
    ours = _chosen_alone(graphs[1], [c for _, c in behind], comparison.isolated.promoted, comparison.plants)
    if not behind or theirs is None or ours is None:
        return None
    try:
        target, source = comparison.rerun.promoted(ours), replay.promoted(plants=theirs)
    except CkptdbgError:
        return None
    left = ratio_left(comparison, place, source, target)
    if left >= SUSPECT:
        return None
    unmoved = ratio_left(comparison, place, source, comparison.isolated.promoted)
    return ("target" if unmoved < SUSPECT else "source"), left


def _chosen_alone(
    graph: Graph, choices: Sequence[Choice], trace: Trace, plants: Mapping[int, Plant]
) -> dict[int, Plant] | None:
    """``plants``, and in the routers of these choices scores that leave every other option out; None where the scores
    of a choice cannot be told."""
    found = dict(plants)
    for choice in choices:
        routers = [i for i in choice.feeds if graph.anchors[i].features == choice.options]
        if len(routers) != 1:
            return None
        (router,) = routers
        record, taken = trace.records[router], trace.choices[choice.index]
        if not np.array_equal(record.rows, taken.rows) or record.output.shape[-1] != choice.options:
            return None
        put = found.get(router, Plant())
        scores = np.full(record.output.shape, _OUT_OF_REACH)
        values = record.output if put.output is None else put.output
        np.put_along_axis(scores, taken.indices, np.take_along_axis(values, taken.indices, 1), 1)
        found[router] = replace(put, output=scores, output_mask=None)
    return found
