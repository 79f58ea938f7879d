"""What one entry of the proposal does, with every choice settled one way: from it come the ops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ckptdbg.mapping.proposal.routes import LETTERS, Pattern, Route

Rotary = Literal["", "interleave", "inverse"]
Op = dict[str, Any]


@dataclass(frozen=True)
class Heads:
    """What of an array is heads: an axis that holds them all, or the atoms it is split into."""

    axis: int
    """Of the source lane; of the target lane for an array that a source is parted into."""
    count: str
    """A variable; empty where the whole axis is one head."""
    size: int
    """Of one head."""


@dataclass(frozen=True)
class Recipe:
    """Sources to targets for one index of all slots and stacked axes."""

    route: Route
    heads: tuple[Heads | None, ...] = ()
    """Of every array that is joined, or parted into, or of the one; None where nothing can be turned."""
    names: tuple[tuple[str, str], ...] = ()
    """Atoms and the variables that hold their sizes."""
    order: tuple[int, ...] = ()
    """Of the sources or targets, where it is not their own."""
    rotary: Rotary = ""
    turned: tuple[int, ...] = ()
    """The arrays that carry a rotary embedding."""
    factor: str = ""
    scaled: tuple[int, ...] = ()
    """The arrays that take the factor."""
    rounded: str = ""
    """The dtype that the factor is rounded to before it is used."""
    shift: int = 0
    features_first: bool = False
    """Whether, where heads and their features share an axis, the feature comes first."""

    @property
    def arrays(self) -> int:
        """How many arrays are joined, or parted into."""
        both = self.route.join or self.route.part
        return len(both.sizes) if both and both.kind != "stack" else both.sizes[0] if both else 1

    def ops(self) -> list[Op]:
        """As they stand in a mapping file."""
        route, found = self.route, []
        pattern = _features_first(route.pattern) if self.features_first else route.pattern
        if self.arrays == 1 and self.rotary and self.turned and self.heads and self.heads[0]:
            pattern = turned(pattern, self.heads[0], self.rotary)
        elif route.join is not None:
            found += self._turns(len(pattern.left) - (route.join.kind == "stack"))
        found += self._moved(pattern)
        if route.resize is not None:
            found.append(_resized(route))
        if route.part is not None:
            found.append(_parted(route))
            found += self._turns(len(pattern.right))
        return [*found, *self._values()]

    def _moved(self, pattern: Pattern) -> list[Op]:
        """The join and the pattern."""
        join = self.route.join
        if join is None:
            return [] if pattern.plain else [self._rearranged(pattern)]
        if join.kind == "stack":
            return [{"stack": 0}] if pattern.plain else [self._rearranged(pattern)]
        return [{"concat": join.axis}, *([] if pattern.plain else [self._rearranged(pattern)])]

    def _rearranged(self, pattern: Pattern) -> Op:
        """A pattern with the sizes that einops cannot tell by itself."""
        named, given = dict(self.names), {}
        for group in pattern.left:
            told = next((a for a in ("d", *reversed(group)) if a in group and a not in named), "")
            given |= {atom: named.get(atom, pattern.size(atom)) for atom in group if atom != told}
        return {"rearrange": str(pattern), **given}

    def _turns(self, rank: int) -> list[Op]:
        """Rotary orders of some of several arrays."""
        axes = tuple((letter,) for letter in LETTERS[:rank])
        found = []
        for i in self.turned if self.rotary else ():
            heads = self.heads[i]
            if heads is not None:
                before, after = _halves(heads.size, self.rotary)
                count = [("h", 0)] if heads.count else []
                plain = Pattern(axes, axes, tuple((letter, 0) for letter in LETTERS[:rank]))
                moved = plain.parted(LETTERS[heads.axis], [*count, *before], [*(n for n, _ in count), *after])
                found.append({"rearrange": str(moved), "two": 2, **({"h": heads.count} if count else {}), "of": [i]})
        return found

    def _values(self) -> list[Op]:
        """What changes values."""
        found: list[Op] = []
        if self.factor and self.scaled:
            some = {} if self.arrays == 1 else {"of": list(self.scaled)}
            dtype = {"dtype": self.rounded} if self.rounded else {}
            found.append({"scale": self.factor, **dtype, **some})
        if self.shift:
            found.append({"add": self.shift})
        return found


def _features_first(pattern: Pattern) -> Pattern:
    left = tuple(tuple(reversed(group)) if set(group) == {"h", "d"} else group for group in pattern.left)
    return replace(pattern, left=left)


def turned(pattern: Pattern, heads: Heads, rotary: Rotary) -> Pattern:
    """The pattern with the halves of every head among each other, or neighbours apart."""
    group, (before, after) = pattern.left[heads.axis], _halves(heads.size, rotary)
    inner = "d" if "d" in group else group[-1]
    count = pattern.size(inner) // heads.size
    if count == 1:
        return pattern.parted(inner, before, after)
    return pattern.parted(inner, [("h", count), *before], ["h", *after])


def _halves(size: int, rotary: Rotary) -> tuple[list[tuple[str, int]], list[str]]:
    """What a head is split into: atoms with sizes as in the source, names as in the target."""
    two, rest = ("two", 2), ("d", size // 2)
    return ([two, rest], ["d", "two"]) if rotary == "interleave" else ([rest, two], ["two", "d"])


def _resized(route: Route) -> Op:
    resize = route.resize
    assert resize is not None
    if resize.after < resize.before:
        return {"slice": resize.axis, "start": 0, "stop": resize.after}
    return {"pad": resize.after, "axis": resize.axis}


def _parted(route: Route) -> Op:
    part = route.part
    assert part is not None
    return {"split": part.axis} if len(set(part.sizes)) == 1 else {"split": part.axis, "sizes": list(part.sizes)}


def reordered(items: Sequence[Any], order: Sequence[int]) -> list[Any]:
    """Items in another order; as they are without one."""
    return [items[i] for i in order] if order else list(items)
