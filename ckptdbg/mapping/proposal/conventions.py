"""What the tensors whose shapes leave no choice say of those whose shapes do: which axis of a source is its output, and
whether matrices are transposed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TypeVar

from ckptdbg.mapping.proposal.alignment import Alignment
from ckptdbg.mapping.proposal.families import Family
from ckptdbg.mapping.proposal.matching import Match, Matcher
from ckptdbg.mapping.proposal.names import Concepts
from ckptdbg.mapping.proposal.routes import Pattern, Route
from ckptdbg.mapping.proposal.vocabulary import INPUTS_FIRST

T = TypeVar("T")
PROJECTED = frozenset({"query", "key", "value"})


class Conventions:
    """Votes of the matches that have one way only; where there are none, the last words of the names decide."""

    def __init__(self, matcher: Matcher, matches: Sequence[Match]) -> None:
        self._matcher = matcher
        self._turned = _vote(self._turned_of(m) for m in matches)
        self._stacked = _vote(_only(alignment.target_axes or None for alignment, _ in m.ways) for m in matches)
        heads = _vote(self._output_of(m) for m in matches)
        self.output = heads if heads is not None else self._output_by_matrices(matches)
        """The source axis of outputs: 0 for ``[out, in]``."""

    def said(self, found: Match) -> Concepts:
        """What the names on both sides say."""
        return self._matcher.joined_said(found.sources).union(*(self._matcher.said[1][t] for t in found.targets))

    def cost(self, alignment: Alignment, route: Route, found: Match) -> tuple[int, ...]:
        """How far a way is from what the rest of the model suggests."""
        axis, said = source_axis(route), self.said(found)
        wrong = 0
        if axis is not None and said & PROJECTED:
            wrong = int(axis != self.output)
        elif axis is not None and "out" in said:
            wrong = int(axis == self.output)
        elif _is_matrix(route.pattern) and "embedding" not in said:
            wrong = int(_is_turned(route.pattern) != self.turned(found))
        elsewhere = int(bool(alignment.target_axes) and self._stacked not in (None, alignment.target_axes))
        return alignment.cost, elsewhere, wrong, route.pattern.moves, route.part.axis if route.part else 0

    def turned(self, found: Match) -> bool:
        """Whether a square matrix is transposed on its way."""
        if self._turned is not None:
            return self._turned
        source, target = self._matcher.sources[found.sources[0]], self._matcher.targets[found.targets[0]]
        return _inputs_first(source) != _inputs_first(target)

    def _turned_of(self, found: Match) -> bool | None:
        said, patterns = self.said(found), [route.pattern for _, route in found.ways]
        if "embedding" in said or not all(map(_is_matrix, patterns)) or any(route.join for _, route in found.ways):
            return None
        return _only(map(_is_turned, patterns))

    def _output_of(self, found: Match) -> int | None:
        said, axis = self.said(found), _only(source_axis(route) for _, route in found.ways)
        if axis is None or "norm" in said or len(found.ways[0][1].pattern.left) < 2:
            return None
        return axis if said & PROJECTED else 1 - axis if "out" in said and axis < 2 else None

    def _output_by_matrices(self, matches: Sequence[Match]) -> int:
        sources = [self._matcher.sources[i] for m in matches for i in m.sources]
        targets = [self._matcher.targets[i] for m in matches for i in m.targets]
        if self._turned is not None and any(map(_inputs_first, targets)):
            return 0 if self._turned else 1
        return 1 if any(map(_inputs_first, sources)) else 0


def heads_group(pattern: Pattern, skipped: int | None = None) -> int | None:
    """The axis of the pattern's left side that is split, where there is one."""
    found = [i for i, group in enumerate(pattern.left) if len(group) > 1 and i != skipped]
    return found[0] if len(found) == 1 else None


def source_axis(route: Route) -> int | None:
    """The axis of a source lane that is split into heads."""
    stacked = route.join is not None and route.join.kind == "stack"
    axis = heads_group(route.pattern, 0 if stacked else None)
    return axis if axis is None else axis - stacked


def _is_matrix(pattern: Pattern) -> bool:
    return len(pattern.left) == len(pattern.right) == 2 and all(len(g) == 1 for g in (*pattern.left, *pattern.right))


def _is_turned(pattern: Pattern) -> bool:
    return not pattern.plain


def _inputs_first(family: Family) -> bool:
    return family.leaf in INPUTS_FIRST


def _only(values: Iterable[T]) -> T | None:
    """The value that all have; None where they differ or are None."""
    found = set(values)
    return found.pop() if len(found) == 1 else None


def _vote(values: Iterable[T | None]) -> T | None:
    counted = Counter(v for v in values if v is not None)
    return counted.most_common(1)[0][0] if counted else None
