"""What the same tensor of other layers says: which is made differently, and how one would be that has no values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from collections.abc import Mapping as Dict
from dataclasses import replace
from itertools import accumulate
from operator import mul

from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.mapping.tracing.families import NUMBER, Made, numbers_in, without_numbers

_LISTED = 8  # rows named in a line


def odd_ones(made: Sequence[Made]) -> list[str]:
    """Targets that are made in another way than most of their siblings, and those whose rows or parts are in an order
    that nothing explains, in words."""
    unlike = _unlike_siblings(made)
    return [*unlike.values(), *(line for m in made if m.target not in unlike for line in _disordered(m))]


def _disordered(m: Made) -> Iterator[str]:
    """Parts that are stacked in another order than that of their numbers, and rows that are listed one by one."""
    sizes = [size for _, size in m.stacks]
    for (axis, size), outer in zip(m.stacks, accumulate(sizes, mul, initial=1), strict=False):
        step = len(m.sources) // (outer * size)
        along = [numbers_in(name) for name in m.sources[: size * step : step]]
        if along != sorted(along):
            listed = ", ".join(name for name in m.sources[: min(size, 4) * step : step])
            yield f"{m.target}: axis {axis} has its parts in another order than that of their numbers: {listed}, ..."
    if any("take" in op for op in m.ops):
        yield f"{m.target}: {_described(m)}: in an order that no pattern describes"


def _unlike_siblings(made: Sequence[Made]) -> dict[str, str]:
    families: dict[str, list[Made]] = {}
    for m in made:
        families.setdefault(without_numbers(m.target), []).append(m)
    found = {}
    for family in families.values():
        common = _usual(family)
        for m in family if common is not None else ():
            if _manner(m) != common:
                usual = _renumbered(next(s for s in family if _manner(s) == common), m.target)
                found[m.target] = f"{m.target}: {_described(m)}; most of its siblings: {_described(usual)}"
    return found


def _usual(family: Sequence[Made]) -> tuple | None:
    """How most of a family are made, or twice as many as in any other way."""
    (common, count), *others = Counter(map(_manner, family)).most_common(2)
    return common if 2 * count > len(family) or count >= 2 * others[0][1] else None


def like_siblings(
    target: str,
    spec: TensorSpec,
    made: Sequence[Made],
    source: Dict[str, TensorSpec],
    target_specs: Dict[str, TensorSpec],
) -> Made | None:
    """How a tensor would be made if it were made as most of its siblings are; None where they do not tell."""
    family = [
        m for m in made if without_numbers(m.target) == without_numbers(target) and target_specs[m.target] == spec
    ]
    if not family:
        return None
    common = _usual(family)
    if common is None:
        return None
    example = next(m for m in family if _manner(m) == common)
    mine = _renumbered(example, target)
    there = all(n in source and source[n] == source[o] for n, o in zip(mine.sources, example.sources, strict=True))
    return mine if there else None


def _manner(m: Made) -> tuple:
    """How a target is made, its numbers taken relative to its own."""
    own = numbers_in(m.target)
    sources = tuple((without_numbers(s), _relative(numbers_in(s), own)) for s in m.sources)
    return sources, repr(m.ops), m.stacks


def _relative(numbers: list[int], own: list[int]) -> tuple[int, ...]:
    return tuple(n - own[i] if i < len(own) else n for i, n in enumerate(numbers))


def _renumbered(m: Made, target: str) -> Made:
    """The same recipe for a sibling."""
    old, new = numbers_in(m.target), numbers_in(target)

    def name(source: str) -> str:
        shifted = iter(n + new[i] - old[i] if i < len(old) else n for i, n in enumerate(numbers_in(source)))
        return NUMBER.sub(lambda _: str(next(shifted)), source)

    return replace(m, target=target, sources=tuple(map(name, m.sources)))


def _described(m: Made) -> str:
    names = ", ".join(m.sources[:3]) + (f" and {len(m.sources) - 3} more" if len(m.sources) > 3 else "")
    ops = ", ".join(
        str(next(iter(op.values()))) if "rearrange" in op else " ".join(f"{k} {_short(v)}" for k, v in op.items())
        for op in m.ops
    )
    return f"made of {names}" + (f" by {ops}" if ops else " as it is")


def _short(value: object) -> str:
    """A long list by its beginning."""
    if isinstance(value, list) and len(value) > _LISTED:
        return f"[{', '.join(map(str, value[:_LISTED]))}, ...]"
    return str(value)
