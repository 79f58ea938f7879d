"""Trying a repair on a region.

The source's values are planted as the repaired mapping would lay them out, and the region's result is measured
again. Weights and plants are arguments of the compiled run, so nothing is compiled anew."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.compare.carry import Carried, carry
from ckptdbg.compare.comparison import Comparison
from ckptdbg.compare.features import FeatureMap, count_uses, index_source, pair
from ckptdbg.compare.noise import SUSPECT, Measure, measure, unit_roundoff
from ckptdbg.diagnose.definitions.readings import Rows
from ckptdbg.diagnose.edit import Edit
from ckptdbg.diagnose.regions import OUTPUT, Place, sound_places
from ckptdbg.diagnose.relabel import Relabel
from ckptdbg.mapping import BoundEntry, BoundMapping
from ckptdbg.models.records import Plant, Record, Trace

Array = NDArray[Any]
# Per template of places, of this process's CPU time: a busy machine must not change what is found. Small models need
# seconds; on a large one the finding says that the search was cut short.
SECONDS = 120.0


@dataclass(frozen=True)
class Attempt:
    """Some edits at one place."""

    place: Place
    edits: tuple[Edit, ...]


class Bench:
    """Where attempts are tried: many in one run, as long as their places share no anchor."""

    def __init__(
        self,
        comparison: Comparison,
        mapping: BoundMapping,
        progress: Callable[[str], None] = lambda _: None,
        moved: Mapping[str, Rows] | None = None,
    ) -> None:
        """``progress`` is told of every run; what it raises ends the search. ``moved`` are rows of target tensors that
        lie where the target looks for them, however the tensor is made."""
        self.comparison, self.mapping, self.progress, self._moved = comparison, mapping, progress, moved or {}
        self.relabel = Relabel(comparison.target, mapping, comparison.source.view.specs)
        self.entries: dict[str, list[BoundEntry]] = {}
        for entry in mapping.entries:
            self.entries.setdefault(entry.name, []).append(entry)
        self._ports: dict[tuple, tuple[FeatureMap | None, FeatureMap | None]] = {}
        self._passed_on = _passed_on(comparison)
        self._uses = count_uses(comparison.target.anchors)
        self._index = index_source(comparison.source.view.anchors)
        self._sound = sound_places(comparison)
        self.runs = 0
        self._deadline = time.process_time() + SECONDS

    def on(self, comparison: Comparison) -> Bench:
        """This bench, its allowance of time too, under other planted values of the same comparison."""
        other = copy(self)
        other.comparison, other._passed_on = comparison, _passed_on(comparison)
        return other

    @property
    def exhausted(self) -> bool:
        """Whether the time for trying is over: what was not tried by then is not excluded."""
        return time.process_time() > self._deadline

    def rest(self) -> None:
        """Begin a new allowance of time."""
        self._deadline = time.process_time() + SECONDS

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is done in here is not of the allowance."""
        started = time.process_time()
        try:
            yield
        finally:
            self._deadline += time.process_time() - started

    def ratios(self, attempts: Sequence[Attempt]) -> list[float]:
        """Promoted ratio at each attempt's place after its edits; inf where an edit takes the place's counterpart
        away."""
        changed = [self._changed(a) for a in attempts]
        plants = dict(self.comparison.plants)
        for attempt, entries in zip(attempts, changed, strict=True):
            for feed in attempt.place.feeds:
                self._plant(plants, feed, entries)
        self.runs += 1
        self.progress(f"trying repairs, run {self.runs}")
        trace = self.comparison.rerun.promoted(plants, self._values(changed))
        return [self._ratio(a.place, entries, trace) for a, entries in zip(attempts, changed, strict=True)]

    def quiet(self, places: Sequence[Place]) -> bool:
        """Whether nothing is left to mend at these places."""
        return max(self.ratios([Attempt(p, ()) for p in places])) < SUSPECT

    def breaks(self, edits: Sequence[Edit], mended: Sequence[Place]) -> bool:
        """Whether these edits spoil a place at which both sides agree without them: one that reads the same tensors in
        another way (a head that is the embedding) than the places that they mend."""
        names = {e.entry for e in edits}
        uses = {self._use(f) for p in mended for f in p.feeds}
        read = [p for p in self._sound if self.tensors(self._without_readers(p, uses), names)]
        if not read:
            return False
        before = self.ratios([Attempt(p, ()) for p in read])
        after = self.ratios([Attempt(p, tuple(edits)) for p in read])
        return any(b < SUSPECT <= a for b, a in zip(before, after, strict=True))

    def _use(self, anchor: int) -> tuple[str, frozenset[str]]:
        target = self.comparison.target
        return target.graph.anchors[anchor].kind, frozenset(e.name for e in target.labels[anchor].entries)

    def _without_readers(self, place: Place, uses: Set[tuple[str, frozenset[str]]]) -> Place:
        """A place without the consumers that are used so: of stacked matrices an edit may say that others read it (the
        experts of one entry in another order; those of the entries before them come next)."""
        return replace(place, consumers=tuple(c for c in place.consumers if c == OUTPUT or self._use(c) not in uses))

    def tensors(self, place: Place, entries: set[str]) -> set[str]:
        """The target tensors of a place that these entries make."""
        target = self.comparison.target
        labels = [target.labels[a] for a in (*place.feeds, *place.consumers) if a != OUTPUT]
        labels += [target.met_labels[m] for m in place.met]
        return {t for x in labels for e in x.entries if e.name in entries for t in e.targets}

    def effect(self, attempt: Attempt) -> tuple:
        """What an attempt changes, as something that can be compared: equal effects need trying once."""
        entries = self._changed(attempt)
        parts: list[Any] = []
        for anchor in sorted({*attempt.place.feeds, *(c for c in attempt.place.consumers if c != OUTPUT)}):
            if self._touches(anchor, entries):
                found = self._maps(anchor, entries)[1 if anchor in attempt.place.feeds else 0]
                parts.append(None if found is None else (anchor, found.scale.tobytes(), *_bytes(found)))
        for m in sorted(attempt.place.met):
            names = [t for t in self.comparison.target.met_labels[m].tensors if t in entries]
            parts += [(m, str(entries[t].ops), entries[t].sources) for t in names]
        return tuple(parts)

    def _changed(self, attempt: Attempt) -> dict[str, BoundEntry]:
        """By target tensor, the entries as the attempt would have them, for the tensors of its place."""
        place, target = attempt.place, self.comparison.target
        labels = [target.labels[a] for a in (*place.feeds, *place.consumers) if a != OUTPUT]
        labels += [target.met_labels[m] for m in place.met]
        found = {}
        for edit in attempt.edits:
            for label in labels:
                for entry in label.entries:
                    if entry.name == edit.entry:
                        changed = edit.applied(entry, self.entries)
                        found |= dict.fromkeys(entry.targets, changed)
        return found

    def _touches(self, anchor: int, changed: Mapping[str, BoundEntry]) -> bool:
        return any(t in changed for t in self.comparison.target.labels[anchor].tensors)

    def _maps(self, anchor: int, changed: Mapping[str, BoundEntry]) -> tuple[FeatureMap | None, FeatureMap | None]:
        """Feature maps (in, out) of one anchor under the changed entries."""
        pairing, target, source = self.comparison.pairing, self.comparison.target, self.comparison.source.view
        if not self._touches(anchor, changed):
            return pairing.inputs[anchor], pairing.outputs[anchor]
        entries = [changed.get(t) for t in target.labels[anchor].tensors]
        key = (anchor, tuple((e.ops, e.sources) if e else None for e in entries))
        if key not in self._ports:
            layout = self.relabel.layout(anchor, changed)
            if layout is None:
                self._ports[key] = (None, None)
            else:
                own, uses = [target.graph.anchors[anchor]], [self._uses[anchor]]
                found = pair(source.graph.anchors, source.anchors, own, [layout], uses, self._index)
                self._ports[key] = (found.inputs[0], found.outputs[0])
        return self._ports[key]

    def _plant(self, plants: dict[int, Plant], feed: int, changed: Mapping[str, BoundEntry]) -> None:
        if not self._touches(feed, changed):
            return
        found = self._maps(feed, changed)[1]
        if found is not None:
            rows = self.comparison.free.working.records[feed].rows
            carried = carry(found, rows, self._passed_on, "out", self.comparison.gauges.get(feed, 1.0))
            old = plants.get(feed, Plant())
            plants[feed] = replace(old, output=carried.values, output_mask=carried.mask)

    def _values(self, changed: Sequence[Mapping[str, BoundEntry]]) -> dict[str, Array]:
        """Target tensors that the edits of region parameters make anew."""
        target = self.comparison.target
        met = {t for label in target.met_labels for t in label.tensors}
        entries = {t: e for each in changed for t, e in each.items() if t in met}
        read = self.comparison.rerun.tensors.read_source
        made = {
            t: e.apply([np.asarray(read(s), np.float64) for s in e.sources], cast=False)[e.targets.index(t)]
            for t, e in entries.items()
        }
        return made | {t: rows.undone(made[t]) for t, rows in self._moved.items() if t in made}

    def _ratio(self, place: Place, changed: Mapping[str, BoundEntry], trace: Trace) -> float:
        """Worst promoted ratio over the place's consumers."""
        if place.consumers[0] == OUTPUT:
            return self._output_ratio(place, changed, trace)
        return max(self._consumer_ratio(c, changed, trace) for c in place.consumers)

    def _consumer_ratio(self, consumer: int, changed: Mapping[str, BoundEntry], trace: Trace) -> float:
        found = self._maps(consumer, changed)[0]
        if found is None:
            return np.inf
        own, runs = self.comparison.isolated, self.comparison.source.runs.isolated
        rows = self.comparison.free.working.records[consumer].rows
        gauge = self.comparison.gauges.get(consumer, 1.0)
        expected, working, jittered = (
            carry(found, rows, t.records, "in", gauge) for t in (runs.promoted, runs.working, runs.jittered)
        )
        now, before, moved = (t.records[consumer].input for t in (trace, own.promoted, own.jittered))
        if now is None or before is None or moved is None:
            return np.inf
        return _promoted(now, expected, working, jittered, moved - before, self.comparison.alike).ratio

    def _output_ratio(self, place: Place, changed: Mapping[str, BoundEntry], trace: Trace) -> float:
        comparison, index = self.comparison, self.comparison.output.index
        makers = [f for f in place.feeds if self._touches(f, changed)]
        for maker in makers:
            found = self._maps(maker, changed)[1]
            if found is None or len(found.offers) != 1 or len(found.scale) != len(index):
                return np.inf
            index = found.offers[0][1]
        runs, own = comparison.source.runs, comparison.isolated
        real = ~np.isin(np.arange(len(trace.output)), runs.padded)

        def carried(t: Trace) -> Carried:
            return Carried(t.output[:, np.maximum(index, 0)], real[:, None] & (index >= 0))

        isolated = runs.isolated
        expected, working, jittered = (carried(t) for t in (isolated.promoted, isolated.working, isolated.jittered))
        return _promoted(
            trace.output, expected, working, jittered, own.jittered.output - own.promoted.output, self.comparison.alike
        ).ratio


def _passed_on(comparison: Comparison) -> list[Record]:
    """What the source's isolated run passes on at every anchor: what was planted there, else what it computed."""
    runs, (_, outs) = comparison.source.runs, comparison.pairing.offered()
    own = enumerate(zip(runs.free.working.records, runs.isolated.promoted.records, strict=True))
    return [planted if i in outs or not comparison.alike else computed for i, (planted, computed) in own]


def _promoted(
    found: Array, expected: Carried, working: Carried, jittered: Carried, moved: Array, alike: bool
) -> Measure:
    """The promoted ratio of ``found`` against the carried source, as in ``compare.sites``."""
    # The search asks only whether the rest is rounding of float64: against single precision, whatever the models
    # work in.
    double, single = unit_roundoff(np.dtype(np.float64)), unit_roundoff(np.dtype(np.float32))
    values = np.asarray(working.values, np.float64)
    noise = [
        jittered.values - expected.values,
        moved,
        (values - expected.values) * (double / single if alike else 1.0),
        double * np.abs(values),
    ]
    return measure(found - expected.values, noise, expected.mask)


def _bytes(found: FeatureMap) -> tuple:
    return tuple((anchor, index.tobytes()) for anchor, index in found.offers)
