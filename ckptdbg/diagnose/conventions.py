"""Two conventions of attention that no tensor shows, asked of the models: which features of a head the rotary
positions turn together, and how large the scores are.

A rotation of a query and a key in one plane that the model turns itself changes no score, and in any other plane it
does. So the planes are found by turning the outputs of both projections and looking at what attention makes of them.
Nothing is known here of names or families, only the width of a head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ckptdbg.compare.carry import carry
from ckptdbg.compare.features import Pairing
from ckptdbg.compare.views import View
from ckptdbg.models.records import Anchor, Plant, Side

Array = NDArray[Any]
Order = Literal["halves", "neighbours"]
Planes = tuple[tuple[int, int], ...]
"""Pairs of features of one anchor."""
ORDERS: tuple[Order, ...] = ("halves", "neighbours")
_ANGLE = 1.0
# Float32 rounding is 1e-7 to 1e-6 of the values and a wrong plane moves them by a tenth and more.
_SAME = 1e-3


@dataclass(frozen=True)
class Attention:
    """One attention core of one side."""

    query: int
    key: int
    """Anchors; one for both where they are fused. Which of them is the query does not show."""
    planes: tuple[Planes, Planes]
    """What is turned together in each."""
    orders: frozenset[Order]
    """In which order each head holds its planes; both where no positions are turned in."""
    reader: int
    """The anchor that reads the result."""


@dataclass(frozen=True)
class Model:
    """One side with what is known of it, and values for the parameters between projection and rotation."""

    side: Side
    view: View
    inputs: Mapping[str, Array]

    def read(self, turned: Mapping[int, Planes], reader: int, values: Mapping[str, Array], angle: float) -> Array:
        """What ``reader`` is given when the outputs of some anchors are turned: ``[rows, contraction]``."""
        base = self.side.run(self.inputs, values=values).records
        plants = {a: Plant(output=rotated(base[a].output, planes, angle)) for a, planes in turned.items()}
        found = self.side.run(self.inputs, values=values, plants=plants).records[reader].input
        assert found is not None
        return found

    def neutral(self, reader: int, feeders: Sequence[int]) -> list[dict[str, Array]]:
        """Ways to make norms and biases between the projections and the rotation leave every plane alike: each scale
        one number, each bias zero."""
        graph = self.view.graph
        between = graph.anchors[reader].met.difference(*(graph.anchors[f].met for f in feeders))
        names = {name for m in between for name in graph.meetings[m].parameters}
        if not names:
            return [{}]
        own = {name: np.asarray(self.side.read(name)).astype(np.float32) for name in names}
        return [{n: np.full_like(a, a.mean()) for n, a in own.items()}, {n: np.zeros_like(a) for n, a in own.items()}]


def rotated(values: Array, planes: Planes, angle: float) -> Array:
    """``[rows, features]`` turned in some planes."""
    one, other = (np.array([plane[i] for plane in planes], np.int64) for i in (0, 1))
    out = values.copy()
    out[:, one] = np.cos(angle) * values[:, one] - np.sin(angle) * values[:, other]
    out[:, other] = np.sin(angle) * values[:, one] + np.cos(angle) * values[:, other]
    return out


def planes_of(order: Order, features: Sequence[int], width: int, turned: int) -> Planes:
    """The planes of every head whose features come in this order; ``turned`` of its ``width`` features are."""
    half = turned // 2
    pairs = [(i, i + half) if order == "halves" else (2 * i, 2 * i + 1) for i in range(half)]
    heads = range(0, len(features), width)
    return tuple((features[head + a], features[head + b]) for head in heads for a, b in pairs)


def find_attention(model: Model, width: int, turned: int) -> Attention | None:
    """The first attention core whose query and key are anchors of their own; None where there is none, or where its
    planes are in no order that is known."""
    anchors = model.view.graph.anchors
    for reader in anchors:
        feeders = [f for f in sorted(reader.feeds) if _is_projection(anchors[f], width)]
        for query, key in combinations(feeders, 2):
            found = _tried(model, (query, key), reader.index, width, turned)
            if found is not None:
                return found
        if len(feeders) > 2:
            return None
    return None


def _is_projection(anchor: Anchor, width: int) -> bool:
    return anchor.kind == "contraction" and anchor.features % width == 0


def _tried(model: Model, pair: tuple[int, int], reader: int, width: int, turned: int) -> Attention | None:
    features = [list(range(model.view.graph.anchors[a].features)) for a in pair]
    found: dict[Order, tuple[Planes, ...]] = {
        o: tuple(planes_of(o, f, width, turned) for f in features) for o in ORDERS
    }
    orders: list[Order] = []
    for order, planes in found.items():
        if leaves_alone(model, dict(zip(pair, planes, strict=True)), reader):
            orders.append(order)
    if not orders:
        return None
    first, second = found[orders[0]]
    return Attention(*pair, (first, second), frozenset(orders), reader)


def leaves_alone(model: Model, turned: Mapping[int, Planes], reader: int) -> bool:
    """Whether attention makes the same of queries and keys that are turned together, and another thing of those of
    which half are."""
    if not all(turned.values()):
        return False
    for values in model.neutral(reader, list(turned)):
        still, both = (model.read(turned, reader, values, angle) for angle in (0.0, _ANGLE))
        planes = next(iter(turned.values()))
        alone = model.read({next(iter(turned)): planes[: max(len(planes) // 2, 1)]}, reader, values, _ANGLE)
        moved, control = (float(np.linalg.norm(x - still)) for x in (both, alone))
        if control > 0 and moved < _SAME * control:
            return True
    return False


@dataclass(frozen=True)
class Agreement:
    """What was learned of both sides' attention."""

    source: frozenset[Order]
    """Empty where it is not known."""
    target: frozenset[Order]
    """The orders of its own features that the target turns; empty where it is not known."""
    carried: bool = False
    """Whether the target turns the planes that the mapping carries the source's to."""
    wrong: tuple[int, ...] = ()
    """Source anchors whose planes are not carried to those that the target turns."""
    factor: float | None = None
    """How many times larger the target's scores are than the source's, where one of the factors that are tried makes
    both read the same; None where it is not known."""
    query: int = -1
    """The source anchor of the query, or of the key."""


def compare_attention(source: Model, target: Model, pairing: Pairing, width: int, turned: int) -> Agreement:
    """Find the source's planes, carry them through the mapping, and ask the target whether they are its own."""
    found = find_attention(source, width, turned)
    if found is None:
        return Agreement(frozenset(), frozenset())
    anchors = found.query, found.key
    carried = [_carried(pairing, a, planes) for a, planes in zip(anchors, found.planes, strict=True)]
    features = [_features(pairing, a) for a in anchors]
    reader = _reader(target.view, [*features[0], *features[1]])
    if reader is None or not all(carried):
        return Agreement(found.orders, frozenset(), query=found.query)
    own = {o: [_own(f, o, width, turned) for f in features] for o in ORDERS}
    orders: frozenset[Order] = frozenset(o for o in ORDERS if leaves_alone(target, _together(own[o]), reader))
    if leaves_alone(target, _together(carried), reader):
        factor = score_factor(source, target, pairing, found, reader, width)
        return Agreement(found.orders, orders, True, (), factor, found.query)
    mixed = {i: [own[o][j] if j == i else carried[j] for j in (0, 1)] for o in orders for i in (0, 1)}
    one = [anchors[i] for i, planes in mixed.items() if leaves_alone(target, _together(planes), reader)]
    return Agreement(found.orders, orders, False, tuple(one) or anchors, None, found.query)


Turned = dict[int, Planes]


def _together(parts: Sequence[Turned]) -> Turned:
    found: Turned = {}
    for part in parts:
        for anchor, planes in part.items():
            found[anchor] = (*found.get(anchor, ()), *planes)
    return found


def _features(pairing: Pairing, anchor: int) -> dict[int, dict[int, int]]:
    """Of a source anchor, by target anchor: source feature to target feature."""
    found: dict[int, dict[int, int]] = {}
    for t, outputs in enumerate(pairing.outputs):
        for s, index in outputs.offers if outputs is not None else ():
            if s == anchor and (index >= 0).any():
                found[t] = {int(index[f]): int(f) for f in np.flatnonzero(index >= 0)}
    return found


def _carried(pairing: Pairing, anchor: int, planes: Planes) -> Turned:
    """Planes of a source anchor in the features of the target."""
    moved = {t: tuple((to[a], to[b]) for a, b in planes if a in to and b in to)
             for t, to in _features(pairing, anchor).items()}  # fmt: skip
    return moved if sum(map(len, moved.values())) == len(planes) else {}


def _own(features: dict[int, dict[int, int]], order: Order, width: int, turned: int) -> Turned:
    return {t: planes_of(order, sorted(to.values()), width, turned) for t, to in features.items()
            if len(to) % width == 0}  # fmt: skip


def _reader(view: View, anchors: Sequence[int]) -> int | None:
    """The first anchor that all of these feed."""
    wanted = set(anchors)
    return next((a.index for a in view.graph.anchors if wanted and wanted <= a.feeds), None)


def score_factor(
    source: Model, target: Model, pairing: Pairing, found: Attention, reader: int, width: int
) -> float | None:
    """Give the target the source's own queries, keys and values, the queries times some factors, and see with which
    of them it reads what the source reads."""
    ours = source.side.run(source.inputs).records
    feeders = source.view.graph.anchors[found.reader].feeds
    inputs = pairing.inputs[reader]
    rows = target.side.run(target.inputs).records
    if inputs is None:
        return None
    due = carry(inputs, rows[reader].rows, ours, "in")
    queries = _features(pairing, found.query)
    targets = {t for f in feeders for t in _features(pairing, f)}
    for factor in (1.0, width**-0.5, width**0.5, 1 / width, float(width)):
        plants = {}
        for t in targets:
            outputs = pairing.outputs[t]
            assert outputs is not None
            values = carry(outputs, rows[t].rows, ours, "out").values.copy()
            values[:, list(queries.get(t, {}).values())] *= factor
            plants[t] = Plant(output=values)
        read = target.side.run(target.inputs, plants=plants).records[reader].input
        assert read is not None
        if np.linalg.norm(read - due.values) < _SAME * np.linalg.norm(due.values):
            return 1 / factor
    return None
