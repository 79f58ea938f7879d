"""Experiments on one side, mostly the source: another setting, the same planted values, and a look at whether the
places that diverged are quiet."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.compare.carry import carry
from ckptdbg.compare.comparison import Comparison
from ckptdbg.compare.output import measure_output
from ckptdbg.compare.replay import Replay, TargetReplay
from ckptdbg.compare.runs import Runs, SourceRuns
from ckptdbg.compare.sites import judge_port
from ckptdbg.diagnose.definitions.candidate import Candidate, Group, joined
from ckptdbg.diagnose.definitions.meanings import Meaning
from ckptdbg.diagnose.regions import OUTPUT, Place, with_merged
from ckptdbg.errors import CkptdbgError
from ckptdbg.models.records import Trace

Array = NDArray[Any]
# Of this process's CPU time, for the settings of one kind of place by themselves, and again for two at once. Small
# models need a second or two.
SECONDS = 60.0
# A setting that leaves more of the difference than this is not the cause, or not the value.
_WORTH_CONFIRMING = 1e-3
_STEPS = 12
# Settings that alone leave less than a part of the difference, and how many of them are tried beside every other.
_LITTLE = 0.5
_MOST_LEADING = 4
UNCHANGED = float("inf")
"""What a setting without effect leaves."""


@dataclass(frozen=True)
class Proof:
    """A setting with which one side computes what the other computes, at every place of the finding."""

    candidate: Candidate
    after: float
    """Worst ratio that is left."""
    beyond: tuple[Place, ...] = ()
    """Later places on the same stream that it does not explain: something else is wrong there, too."""


@dataclass
class Trials:
    """Where settings are tried. Weights are shared with the model; nothing is read or compiled anew."""

    comparison: Comparison
    replay: Replay | TargetReplay
    """Runs the side whose settings are varied."""
    deadline: float = 0.0
    runs: int = 0
    idle: list[tuple[Meaning, frozenset[str]]] = field(default_factory=list)
    """Settings that do not reach the place: what they mean, and where they are held."""
    reaching: list[Meaning] = field(default_factory=list)
    """What does reach it, wherever it is held: a configuration may repeat what a module computes with."""
    in_vain: list[Candidate] = field(default_factory=list)
    """Values with which the two sides do not agree either."""
    left: list[float] = field(default_factory=list)
    """How much of the difference each of them leaves."""

    def rest(self) -> None:
        """Begin anew: another allowance of time, nothing tried."""
        self.allow()
        self.idle, self.reaching, self.in_vain, self.left = [], [], [], []

    def allow(self) -> None:
        """Another allowance of time."""
        self.deadline = time.process_time() + SECONDS

    @property
    def without_effect(self) -> list[Meaning]:
        """What another value of changes nothing at the place, wherever it is held."""
        return [meaning for meaning, _ in self.idle if meaning not in self.reaching]

    @property
    def exhausted(self) -> bool:
        """Whether the time is over."""
        return time.process_time() > self.deadline

    def prove(self, group: Group, places: Sequence[Place]) -> Proof | None:
        """Try the values of one setting, then look for another value of it where it is a number. A value that the
        target's configuration names is proved by these places alone, where no value explains all later ones on their
        streams; not one that was searched for: an epsilon can make up for a factor before a norm, once."""
        partly: Proof | None = None
        tried, unchanged = len(self.in_vain), 0
        for candidate in group.candidates:
            remaining = self.remaining(candidate, places[0])
            if remaining is None or self.exhausted:
                continue
            if remaining == UNCHANGED:
                unchanged += 1
                if group.meaning.saturates and unchanged < len(group.candidates):
                    continue
                self.idle.append((group.meaning, frozenset(candidate.changes)))
                return partly
            self.reaching.append(group.meaning)
            proof = self.confirmed(candidate, places) if remaining < _WORTH_CONFIRMING else None
            if proof is not None and not proof.beyond:
                return proof
            if proof is not None and candidate.given is not None:
                partly = partly or proof
            else:
                self.in_vain.append(candidate)
                self.left.append(remaining)
        if partly is None and group.family is not None and len(self.in_vain) > tried:
            return self._searched(group, places)
        return partly

    def prove_two(self, groups: Sequence[Group], places: Sequence[Place]) -> Proof | None:
        """Two settings at once, where each by itself was tried in vain: those that alone leave least of the difference,
        each with every value of another."""
        tried = sorted(zip(self.left, range(len(self.left)), strict=True))
        first = [self.in_vain[i] for left, i in tried if left < _LITTLE][:_MOST_LEADING]
        own, idle = ([*self.in_vain], [*self.left]), [paths for _, paths in self.idle]
        try:
            for lead in first:
                for group in groups:
                    beside = _beside(lead, group, idle)
                    proof = self.prove(beside, places) if beside is not None and not self.exhausted else None
                    if proof is not None and not proof.beyond:
                        return proof
        finally:
            self.in_vain, self.left = own
        return None

    def remaining(self, candidate: Candidate, place: Place) -> float | None:
        """How much of the difference at a place is left, infinity where nothing of it has changed; None where the
        model cannot be run so."""
        found = self._difference(candidate, place)
        if found is None:
            return None
        before = difference(self.comparison, place)
        if before is None or np.array_equal(before, found):
            return UNCHANGED
        size = float(np.linalg.norm(before))
        return float(np.linalg.norm(found)) / size if size else None

    def _difference(self, candidate: Candidate, place: Place) -> Array | None:
        trace = self._run(candidate, self._last_anchor(place))
        if trace is None:
            return None
        of_target = isinstance(self.replay, TargetReplay)
        found = difference(self.comparison, place, **{"ours" if of_target else "theirs": trace})
        return found if found is not None and np.isfinite(found).all() else None

    def _last_anchor(self, place: Place) -> int | None:
        """Of the side that is varied, the last anchor that a place is judged by; None where that is the output."""
        if OUTPUT in place.consumers:
            return None
        if isinstance(self.replay, TargetReplay):
            return max(place.consumers)
        pairing = self.comparison.pairing
        maps = pairing.inputs if place.port == "in" else pairing.outputs
        return max(anchor for c in place.consumers if (found := maps[c]) is not None for anchor in found.anchors)

    def _run(self, candidate: Candidate, until: int | None) -> Trace | None:
        self.runs += 1
        try:
            with self.replay.side.knobs.turned(candidate.changes):  # type: ignore[attr-defined]
                return self.replay.promoted(until=until)
        except CkptdbgError:
            return None

    def runs_with(self, candidate: Candidate) -> Runs | None:
        """The isolated runs of the model so set; None where it cannot be run so."""
        self.runs += 3
        try:
            with self.replay.side.knobs.turned(candidate.changes):  # type: ignore[attr-defined]
                return self.replay.runs()
        except CkptdbgError:
            return None

    def confirmed(self, candidate: Candidate, places: Sequence[Place]) -> Proof | None:
        """Judge every place as a comparison would, with the model so set."""
        runs = self.runs_with(candidate)
        if runs is None:
            return None
        judged = [(p, *self._judged(runs, p, c)) for p in with_merged(places) for c in p.consumers]
        beyond = tuple(dict.fromkeys(p for p, divergent, _ in judged if divergent))
        if any(p in beyond for p in places):
            return None
        return Proof(candidate, max(ratio for p, _, ratio in judged if p not in beyond), beyond)

    def _judged(self, runs: Runs, place: Place, consumer: int) -> tuple[bool, float]:
        comparison, given = self.comparison, self.comparison.source.runs
        theirs, ours = given.isolated, comparison.isolated
        if isinstance(self.replay, TargetReplay):
            ours = runs
        else:
            theirs = runs
        if consumer == OUTPUT:
            varied = SourceRuns(given.free, theirs, given.padded)
            measured = measure_output(comparison.target.graph, comparison.pairing, varied, comparison.free, ours)
            return measured.isolated.divergent, measured.isolated.promoted.ratio
        port = "in" if place.port == "in" else "out"
        found = comparison.pairing.inputs[consumer] if port == "in" else comparison.pairing.outputs[consumer]
        assert found is not None
        rows = comparison.free.working.records[consumer].rows
        gauge = comparison.gauges.get(consumer, 1.0)
        judged = judge_port(consumer, port, found, rows, theirs, ours, gauge)
        return judged.divergent, judged.promoted.ratio

    def _searched(self, group: Group, places: Sequence[Place]) -> Proof | None:
        """Newton's way to the factor that leaves nothing of the difference, in the logarithm of the factor."""
        assert group.family is not None
        at, best = 0.0, np.inf
        for _ in range(_STEPS):
            if self.exhausted:
                return None
            here = self._difference(group.family(float(np.exp(at))), places[0])
            near = self._difference(group.family(float(np.exp(at + 1e-5))), places[0])
            if here is None or near is None:
                return None
            size = float(np.linalg.norm(here))
            if size > 2 * best:
                return None
            slope = (near - here) / 1e-5
            power = float(slope @ slope)
            if not power:
                return None
            step = float(np.clip(-(slope @ here) / power, -2, 2))
            at, best = at + step, min(best, size)
            if abs(step) < 1e-9:
                break
        proof = self.confirmed(group.family(float(np.exp(at))), places)
        return proof if proof is not None and not proof.beyond else None


def _beside(lead: Candidate, group: Group, idle: Sequence[frozenset[str]]) -> Group | None:
    """A group with one more setting changed; None where the two are one, or the group has no effect."""
    apart = [c for c in group.candidates if not set(c.changes) & set(lead.changes)]
    others, family = [c for c in apart if frozenset(c.changes) not in idle], group.family
    if not others:
        return None
    more = None if family is None else (lambda factor: joined([lead, family(factor)]))
    return Group(group.meaning, [joined([lead, c]) for c in others], more)


def difference(
    comparison: Comparison, place: Place, theirs: Trace | None = None, ours: Trace | None = None
) -> Array | None:
    """What the target has at a place minus what the source has there, flat, isolated and in float64; None where they
    have nothing in common. ``theirs`` and ``ours`` are other runs of the source and of the target."""
    parts = []
    for consumer in place.consumers:
        both = values_at(comparison, place, consumer, theirs, ours)
        if both is not None:
            source, target, mask = both
            parts.append((target - source)[mask])
    return np.concatenate(parts) if parts else None


def values_at(
    comparison: Comparison, place: Place, consumer: int, theirs: Trace | None = None, ours: Trace | None = None
) -> tuple[Array, Array, Array] | None:
    """Source and target values ``[rows, features]`` at one consumer of a place, isolated, in float64, and which of
    them can be compared; from other runs where those are given."""
    theirs, ours = theirs or comparison.source.runs.isolated.promoted, ours or comparison.isolated.promoted
    if consumer == OUTPUT:
        index = comparison.output.index
        real = ~np.isin(np.arange(len(theirs.output)), comparison.source.runs.padded)
        if theirs.output.shape[0] != ours.output.shape[0]:
            return None
        return theirs.output[:, np.maximum(index, 0)], ours.output, real[:, None] & (index >= 0)
    port = "in" if place.port == "in" else "out"
    found = comparison.pairing.inputs[consumer] if port == "in" else comparison.pairing.outputs[consumer]
    record = ours.records[consumer]
    values = record.input if port == "in" else record.output
    rows = comparison.free.working.records[consumer].rows
    if found is None or values is None or len(record.rows) != len(rows):
        return None
    carried = carry(found, rows, theirs.records, port, comparison.gauges.get(consumer, 1.0))
    mask = np.ones(values.shape, bool) if carried.mask is None else carried.mask
    return np.asarray(carried.values, np.float64), np.asarray(values, np.float64), mask
