"""How strongly a change of a region parameter would show: found by nudging it in float64, with the source's values
planted around its region. Parameters are arguments of the runs: nothing is compiled anew."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.compare.comparison import Comparison
from ckptdbg.compare.noise import Levels
from ckptdbg.diagnose.reach import Reach, contracted, out_levels, scattered
from ckptdbg.models.records import Trace

Array = NDArray[Any]
# Relative to the tensor's root mean square: far above float64 rounding, far below where a model bends.
_STEP = 1e-4
# Elements of one tensor that are nudged one by one where they do not show in a column each.
_SAMPLED = 16
# Float64 rounding alone reaches about 2e-9 of the noise of float32: a ratio below this is no effect of the step.
_NO_EFFECT = 1e-7


@dataclass(frozen=True)
class Place:
    """A compared place behind a region: an anchor's ``in`` (its index) or the output (None)."""

    anchor: int | None
    levels: Levels

    def values(self, trace: Trace) -> Array:
        """``[rows, features]`` there."""
        found = trace.output if self.anchor is None else trace.records[self.anchor].input
        assert found is not None
        return found


def add_regions(comparison: Comparison, reaches: dict[str, Reach], progress: Callable[[str], None]) -> None:
    """Everything that ``add_anchors`` leaves: region parameters, and operands whose ``out`` is not compared."""
    _add_unmet(comparison, reaches)
    places = _places(comparison)
    groups = _apart(places)
    for i, tensors in enumerate(groups):
        progress(f"nudging region parameters, {i + 1} of {len(groups)}")
        _Nudges(comparison, {t: places[t] for t in tensors}, reaches).measure()


def _apart(places: dict[str, list[Place]]) -> list[list[str]]:
    """Groups of tensors of which no two show at the same place: each group is nudged at once."""
    groups: list[tuple[list[str], set[int | None]]] = []
    for tensor, shown in places.items():
        anchors = {place.anchor for place in shown}
        group = next((group for group in groups if not group[1] & anchors), None)
        if group is None:
            group = ([], set())
            groups.append(group)
        group[0].append(tensor)
        group[1].update(anchors)
    return [tensors for tensors, _ in groups]


def _add_unmet(comparison: Comparison, reaches: dict[str, Reach]) -> None:
    """Elements of region parameters that take part in no meeting: positions beyond the length of the probe."""
    target, names = comparison.target, list(comparison.target.specs)
    met: dict[str, Array] = {}
    for layout in target.own_met:
        for ordinal in layout.tensors:
            name = names[ordinal]
            mask = met.setdefault(name, np.zeros(reaches[name].elements.shape, bool))
            for index, _ in scattered(layout, ordinal, np.ones(layout.shape), mask.ndim):
                mask[index] = True
    in_anchors = {name for label in target.labels for name in label.tensors}
    opaque = {name for m, x in enumerate(target.own_met) if x.opaque for name in target.met_labels[m].tensors}
    for name, mask in met.items():
        if name not in in_anchors | opaque:
            reaches[name].measured |= ~mask


def _places(comparison: Comparison) -> dict[str, list[Place]]:
    """Of every tensor that shows through a region, the compared places behind that region."""
    target, levels = (
        comparison.target,
        {s.anchor: s.isolated.working.levels for s in comparison.sites if s.port == "in"},
    )
    silent = set(range(len(target.labels))) - set(out_levels(comparison))
    found: dict[str, list[Place]] = defaultdict(list)

    def note(met: frozenset[int], feeds: frozenset[int], place: Place) -> None:
        labels = [target.met_labels[m] for m in met] + [target.labels[t] for t in feeds & silent]
        for tensor in dict.fromkeys(name for label in labels for name in label.tensors):
            found[tensor].append(place)

    for anchor in target.graph.anchors:
        here = levels.get(anchor.index)
        if here is not None:
            note(anchor.met, anchor.feeds, Place(anchor.index, here))
    output = comparison.output.isolated.working.levels
    if output is not None:
        note(target.graph.output_met, target.graph.output_feeds, Place(None, output))
    return found


class _Nudges:
    """Tensors in regions of their own, nudged together."""

    def __init__(self, comparison: Comparison, places: dict[str, list[Place]], reaches: dict[str, Reach]) -> None:
        self._comparison, self._places, self._reaches = comparison, places, reaches
        self._base = comparison.isolated.promoted
        self._values = {name: np.asarray(comparison.rerun.tensors.read_exact(name), np.float64) for name in places}
        self._step = {name: _STEP * rms(values) for name, values in self._values.items()}
        self._mark = {name: _marks(values.shape) for name, values in self._values.items()}

    def measure(self) -> None:
        """Fill ``reaches``."""
        doubled = self._run({name: values * _STEP for name, values in self._values.items()})
        for name, places in self._places.items():
            reach = self._reaches[name]
            reach.whole = max([reach.whole, *(self._ratio(p, doubled) / _STEP for p in places)])
        left = self._by_column()
        samples = {name: _sample(self._reaches[name]) for name in left}
        for i in range(max(map(len, samples.values()), default=0)):
            self._one_by_one({name: int(at[i]) for name, at in samples.items() if i < len(at)})

    def _by_column(self) -> list[str]:
        """Two runs tell all elements of a tensor that shows element by column: every element moved alike, then each by
        a step of its own. Returns the tensors that show otherwise."""
        alike = self._run({n: np.full(v.shape, self._step[n]) for n, v in self._values.items()})
        marked = self._run({n: self._mark[n] * self._step[n] for n in self._values})
        left = []
        for name, places in self._places.items():
            shown = [
                _columns(self._moved(p, alike), self._moved(p, marked), self._mark[name], p.levels) for p in places
            ]
            if any(found is None for found in shown):
                left.append(name)
                continue
            for found in shown:
                if found is not None:
                    self._reaches[name].merge(..., found / self._step[name])
        return left

    def _one_by_one(self, at: dict[str, int]) -> None:
        nudged = {}
        for name, i in at.items():
            nudged[name] = np.zeros(self._values[name].shape)
            nudged[name].flat[i] = self._step[name]
        trace = self._run(nudged)
        for name, i in at.items():
            shown = max(self._ratio(p, trace) for p in self._places[name]) / self._step[name]
            self._reaches[name].merge(np.unravel_index(i, self._values[name].shape), np.asarray(shown))

    def _run(self, nudges: dict[str, Array]) -> Trace:
        changed = {name: self._values[name] + nudge for name, nudge in nudges.items()}
        return self._comparison.rerun.promoted(self._comparison.plants, changed)

    def _moved(self, place: Place, trace: Trace) -> Array:
        return place.values(trace) - place.values(self._base)

    def _ratio(self, place: Place, trace: Trace) -> float:
        ratio = place.levels.ratio(self._moved(place, trace))
        return ratio if ratio > _NO_EFFECT else 0.0


def rms(values: Array) -> float:
    """Root mean square of a tensor: what a change of one element is measured against. 1 for a tensor of zeros."""
    return float(np.sqrt(np.mean(np.square(values)))) if values.any() else 1.0


def _marks(shape: tuple[int, ...]) -> Array:
    """A different factor between 1 and 2 for every element."""
    count = int(np.prod(shape, dtype=np.int64))
    return (1 + np.random.default_rng(0).permutation(count) / max(count, 1)).reshape(shape)


def _sample(reach: Reach) -> Array:
    """Some of the elements of which nothing is known yet, spread over the tensor."""
    open_ones = np.flatnonzero(~reach.measured)
    count = min(len(open_ones), _SAMPLED)
    return open_ones[np.linspace(0, max(len(open_ones) - 1, 0), count).round().astype(np.int64)]


def _columns(alike: Array, marked: Array, marks: Array, levels: Levels) -> Array | None:
    """Per element, the ratio that its step reaches; None where a column does not follow one element alone."""
    counted = np.isfinite(levels.tokens)
    alike, marked = (np.where(counted[:, None], moved, 0) for moved in (alike, marked))
    shown = np.zeros(marks.size)
    order = np.argsort(marks, axis=None)
    power = np.square(alike).sum(0)
    alive = np.flatnonzero((power > 1e-16 * power.max(initial=0)) & np.isfinite(levels.features))
    if not len(alive):
        return shown.reshape(marks.shape)
    factors = (alike * marked).sum(0)[alive] / power[alive]
    off = np.sqrt(np.square(marked[:, alive] - factors * alike[:, alive]).sum(0) / power[alive])
    place = np.clip(np.searchsorted(marks.flat[order], factors - 0.5 / marks.size), 0, marks.size - 1)
    element = order[place]
    if (off > 0.1 / marks.size).any() or (np.abs(marks.flat[element] - factors) > 0.1 / marks.size).any():
        return None
    norm, share = contracted(alike, levels)
    ratios = np.maximum(norm * np.maximum(1 / levels.whole, 1 / levels.features), share)[alive]
    np.maximum.at(shown, element, np.where(ratios > _NO_EFFECT, ratios, 0))
    return shown.reshape(marks.shape)
