"""What of an attention tensor is heads, by the shapes themselves where they split it, else by the config."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ckptdbg.mapping.proposal.conventions import PROJECTED, Conventions, heads_group, source_axis
from ckptdbg.mapping.proposal.families import Shape
from ckptdbg.mapping.proposal.names import Concepts
from ckptdbg.mapping.proposal.recipe import Heads, Recipe
from ckptdbg.mapping.proposal.routes import Pattern, Route
from ckptdbg.mapping.proposal.sizes import Sizes


class HeadShapes:
    """The sizes of heads in one model; ``matched`` is every route with what the names say."""

    def __init__(self, sizes: Sizes, conventions: Conventions, matched: Sequence[tuple[Route, Concepts]]) -> None:
        self._sizes, self._conventions = sizes, conventions
        self._measured: dict[bool, int] = {}
        for route, said in matched:
            size = _head_size(route, said)
            if size is not None:
                self._measured.setdefault("vision" in said, size)

    def recipe(self, route: Route, said: Sequence[Concepts], lanes: Sequence[Shape]) -> Recipe:
        """A recipe with nothing chosen: its heads by name, and where they lie in every array."""
        axis = heads_group(route.pattern, 0 if route.join is not None and route.join.kind == "stack" else None)
        names: tuple[tuple[str, str], ...] = ()
        if axis is not None and _in_attention(said[0]) and len(route.pattern.left[axis]) == 2:
            pattern = _with_heads(route.pattern, axis)
            route = replace(route, pattern=pattern)
            names = self._named(pattern, said)
        heads = tuple(self._heads(route, s, lane) for s, lane in zip(said, lanes, strict=True))
        if not names and len(heads) == 1 and heads[0] is not None and heads[0].count:
            names = (("h", heads[0].count),)
        return Recipe(route, heads, names)

    def _named(self, pattern: Pattern, said: Sequence[Concepts]) -> tuple[tuple[str, str], ...]:
        """The number of heads by name; where arrays of several roles share an axis, what a head measures."""
        if len({_role(s) for s in said}) > 1 and "h" in dict(pattern.sizes):
            return (("d", self._sizes.name("head_dim", pattern.size("d"), said[0])),)
        return (("h", self._sizes.name(_role(said[0]), pattern.size("h"), said[0])),)

    def _heads(self, route: Route, said: Concepts, lane: Shape) -> Heads | None:
        """Where an array of the attention has its heads."""
        if not lane or (not _in_attention(said) and not ("norm" in said and said & {"query", "key"})):
            return None
        if "norm" in said:
            return Heads(len(lane) - 1, "", lane[-1])
        if "bias" in said and "out" in said:
            return None
        if route.part is not None and "d" in dict(route.pattern.sizes):
            axis = next(i for i, group in enumerate(route.pattern.right) if "d" in group)
            return Heads(axis, "", lane[axis])
        axis = source_axis(route)
        merged = next((group[-1] for group in route.pattern.right if len(group) > 1), None)
        if axis is None and merged is not None and route.join is None:
            return Heads(route.pattern.axis_of(merged), "", route.pattern.size(merged))
        if axis is None:
            output = self._conventions.output
            axis = 0 if len(lane) == 1 else output if said & PROJECTED else 1 - output
        size = route.pattern.size("d") if "d" in dict(route.pattern.sizes) else self.size(said)
        if axis >= len(lane) or size is None or lane[axis] % size:
            return None
        count = lane[axis] // size
        return Heads(axis, self._sizes.name(_role(said), count, said) if count > 1 else "", size)

    def size(self, said: Concepts) -> int | None:
        """What a head measures in this part of the model."""
        hidden, count = self._sizes.known("hidden", said), self._sizes.known("heads", said)
        by_config = self._sizes.known("head_dim", said) or (hidden // count if hidden and count else None)
        return self._measured.get("vision" in said) or by_config


def _head_size(route: Route, said: Concepts) -> int | None:
    """What a head measures, where a route tells."""
    if not _in_attention(said):
        return None
    axis = heads_group(route.pattern, 0 if route.join is not None and route.join.kind == "stack" else None)
    return None if axis is None else route.pattern.size(route.pattern.left[axis][-1])


def _in_attention(said: Concepts) -> bool:
    return bool(said & PROJECTED or {"attention", "out"} <= said) and "norm" not in said


def _role(said: Concepts) -> str:
    return "kv_heads" if said & {"key", "value"} and "query" not in said else "heads"


def _with_heads(pattern: Pattern, axis: int) -> Pattern:
    count, size = pattern.left[axis]
    return pattern.renamed({count: "h", size: "d"})
