"""Which sources make which targets: by likeness of names among what the shapes allow, every source used once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ckptdbg.mapping.proposal.alignment import Alignment, alignments
from ckptdbg.mapping.proposal.assignment import assign
from ckptdbg.mapping.proposal.families import Family
from ckptdbg.mapping.proposal.names import Concepts, likeness
from ckptdbg.mapping.proposal.places import located
from ckptdbg.mapping.proposal.routes import Route, routes
from ckptdbg.mapping.proposal.vocabulary import ROLES

Sure = Literal["names", "shapes", "elimination", "tie"]
# What another pairing must lose in likeness before names count as having settled this one.
_MARGIN = 0.1
# Less likeness than this, where the shapes leave nothing else, is no likeness: the pair was settled by elimination.
_BY_NAME = 0.3
# Several sources joined, or one parted, must say at least this much of what the other side says.
_LEAST_JOINED = 0.5
# What is left is joined from so many sources at most, by shapes alone.
_MOST_JOINED = 3


@dataclass(frozen=True)
class Match:
    """Sources that make targets, and all ways in which their shapes allow it."""

    sources: tuple[int, ...]
    targets: tuple[int, ...]
    ways: tuple[tuple[Alignment, Route], ...]
    likeness: float
    sure: Sure
    rivals: tuple[int, ...] = ()
    """Other sources that are as likely by name and shape."""


class Matcher:
    """The families of both sides, and what pairs of them allow."""

    def __init__(self, sources: Sequence[Family], targets: Sequence[Family]) -> None:
        self.sources, self.targets = sources, targets
        self.said = located(sources), located(targets)
        self._ways: dict[tuple[tuple[int, ...], tuple[int, ...]], tuple[tuple[Alignment, Route], ...]] = {}

    def ways(self, sources: tuple[int, ...], targets: tuple[int, ...]) -> tuple[tuple[Alignment, Route], ...]:
        """Everything that the shapes and numbers allow, the plainest alignment first."""
        key = (sources, targets)
        if key not in self._ways:
            self._ways[key] = tuple(self._found(sources, targets))
        return self._ways[key]

    def _found(self, sources: tuple[int, ...], targets: tuple[int, ...]) -> Iterator[tuple[Alignment, Route]]:
        a, b = [self.sources[i] for i in sources], [self.targets[i] for i in targets]
        if len({f.slots for f in a}) > 1 or len({f.slots for f in b}) > 1:
            return
        both = self.said[0][sources[0]] & self.said[1][targets[0]]
        resizable = bool(both & {"embedding", "head"}) and not both & {"position", "type", "vision", "norm"}
        if not resizable and sum(f.elements for f in a) != sum(f.elements for f in b):
            return
        for alignment in alignments(a[0].slots, a[0].shape, b[0].slots, b[0].shape):
            ranks = {len(f.shape) for f in b} if alignment.target_axes else set()
            if len(ranks) > 1:
                continue
            lanes = (
                [alignment.lanes(f.shape, b[0].shape)[0] for f in a],
                [alignment.lanes(a[0].shape, f.shape)[1] for f in b],
            )
            for route in routes(*lanes, resizable=resizable):
                yield alignment, route

    def joined_said(self, sources: Sequence[int]) -> Concepts:
        return frozenset().union(*(self.said[0][i] for i in sources))

    def likeness(self, sources: Sequence[int], targets: Sequence[int]) -> float:
        """Of what is said on both sides, all sources and all targets taken together."""
        theirs = frozenset().union(*(self.said[1][i] for i in targets))
        return likeness(self.joined_said(sources), theirs)


def match(sources: Sequence[Family], targets: Sequence[Family]) -> tuple[Matcher, list[Match]]:
    """Targets with their sources, in the order of the targets. What is in none has no counterpart."""
    matcher = Matcher(sources, targets)
    found = _several(matcher)
    found += _single(matcher, _free(range(len(sources)), found, 0), _free(range(len(targets)), found, 1))
    found += _left(matcher, _free(range(len(sources)), found, 0), _free(range(len(targets)), found, 1))
    found += _ties(matcher, _free(range(len(targets)), found, 1))
    return matcher, sorted(found, key=lambda m: targets[m.targets[0]].order)


def _free(all_of: Sequence[int], found: Sequence[Match], side: int) -> list[int]:
    taken = {i for m in found for i in (m.targets if side else m.sources)}
    return [i for i in all_of if i not in taken]


def _roles(said: Concepts) -> list[str]:
    return [role for role in ROLES if role in said] if "norm" not in said else []


def _several(matcher: Matcher) -> list[Match]:
    """Fused tensors whose names say what is in them: made of several sources, or parted into several targets."""
    ours, theirs = matcher.said
    candidates: list[Match] = []
    for t, said in enumerate(theirs):
        for chosen in _by_role(_roles(said), ours):
            candidates += _candidate(matcher, chosen, (t,))
    for s, said in enumerate(ours):
        for chosen in _by_role(_roles(said), theirs):
            candidates += _candidate(matcher, (s,), chosen)
    taken: tuple[set[int], set[int]] = set(), set()
    kept = []
    for found in sorted(candidates, key=lambda m: -m.likeness):
        if not (taken[0] & set(found.sources) or taken[1] & set(found.targets)):
            kept.append(found)
            taken[0].update(found.sources)
            taken[1].update(found.targets)
    return kept


def _by_role(roles: Sequence[str], said: Sequence[Concepts]) -> Iterator[tuple[int, ...]]:
    """One family for each of several roles, in their order; none that has more than its own."""
    if len(roles) < 2:
        return
    having = [[i for i, s in enumerate(said) if _roles(s) == [role]] for role in roles]
    yield from product(*having)


def _candidate(matcher: Matcher, sources: tuple[int, ...], targets: tuple[int, ...]) -> list[Match]:
    alike = matcher.likeness(sources, targets)
    biased = {"bias" in matcher.said[0][i] for i in sources} | {"bias" in matcher.said[1][i] for i in targets}
    if alike < _LEAST_JOINED or len(biased) > 1:
        return []
    ways = matcher.ways(sources, targets)
    return [Match(sources, targets, ways, alike, "names")] if ways else []


def _single(matcher: Matcher, sources: list[int], targets: list[int]) -> list[Match]:
    """One source each, by the greatest sum of likeness."""
    score = np.array([[_score(matcher, s, t) for s in sources] for t in targets]).reshape(len(targets), len(sources))
    pairs = assign(score)
    found = []
    for row, column in pairs:
        s, t = sources[column], targets[row]
        rivals = tuple(sources[c] for c in _rivals(score, dict(pairs), row, column))
        alike = matcher.likeness((s,), (t,))
        sure: Sure = "shapes" if rivals or alike == 0 else "names" if alike >= _BY_NAME else "elimination"
        found.append(Match((s,), (t,), matcher.ways((s,), (t,)), alike, sure, rivals))
    return found


def _score(matcher: Matcher, s: int, t: int) -> float:
    """0 where the shapes forbid it. Likeness counts; where it is equal, that both stand in the same place among the
    families of their side."""
    if not matcher.ways((s,), (t,)):
        return 0.0
    place = abs(s / len(matcher.sources) - t / len(matcher.targets))
    return matcher.likeness((s,), (t,)) + 0.01 * (1 - place) + 0.001


def _rivals(score: NDArray[np.float64], pairs: dict[int, int], row: int, column: int) -> list[int]:
    """Columns that could change places with this one, or are free, at no loss to speak of."""
    found = []
    row_of = {c: r for r, c in pairs.items()}
    for other in range(score.shape[1]):
        if other == column or score[row, other] <= 0:
            continue
        theirs = row_of.get(other)
        if theirs is not None and score[theirs, column] <= 0:
            continue
        now = score[row, column] + (score[theirs, other] if theirs is not None else 0.0)
        then = score[row, other] + (score[theirs, column] if theirs is not None else 0.0)
        if then > now - _MARGIN:
            found.append(other)
    return found


def _left(matcher: Matcher, sources: list[int], targets: list[int]) -> list[Match]:
    """What names do not explain: several of the sources that are left, by their shapes."""
    found: list[Match] = []
    for t in targets:
        for count in range(2, _MOST_JOINED + 1):
            free = _free(sources, found, 0)
            chosen = [c for c in combinations(free, count) if matcher.ways(c, (t,))]
            if chosen:
                best = max(chosen, key=lambda c: matcher.likeness(c, (t,)))
                ways = matcher.ways(best, (t,))
                found.append(Match(best, (t,), ways, matcher.likeness(best, (t,)), "shapes"))
                break
    return found


def _ties(matcher: Matcher, targets: list[int]) -> list[Match]:
    """A head without a source of its own is the embedding again."""
    found = []
    for t in targets:
        if "head" not in matcher.said[1][t]:
            continue
        tables = [s for s, said in enumerate(matcher.said[0]) if {"embedding"} <= said and matcher.ways((s,), (t,))]
        if tables:
            found.append(Match((tables[0],), (t,), matcher.ways((tables[0],), (t,)), 0.0, "tie"))
    return found
