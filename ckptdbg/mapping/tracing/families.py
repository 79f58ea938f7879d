"""From one recipe per tensor to entries with placeholders: ``layers.{layer}`` for what is made alike in every layer."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ckptdbg.mapping.templates import literal

NUMBER = re.compile(r"(?<![A-Za-z\d])(?:0|[1-9]\d*)(?![A-Za-z\d])")
Entry = dict[str, Any]


@dataclass(frozen=True)
class Made:
    """One target tensor with the names of its sources (in the order of the recipe's) and its ops."""

    target: str
    sources: tuple[str, ...]
    ops: tuple[dict[str, Any], ...]
    stacks: tuple[tuple[int, int], ...]


def entries_of(made: Sequence[Made], names: Iterable[str]) -> list[Entry]:
    """Entries for a mapping file, in the order of the first target of each. ``names``: every tensor of both sides,
    also those that take no part: where they would match a template, the entry lists its numbers with ``for``."""
    made = [_without_list_stacks(m) for m in made]
    found: list[tuple[int, Entry]] = []
    position = {m.target: i for i, m in enumerate(made)}
    present = Counter(map(without_numbers, names))

    def add(members: Sequence[Made], keys: Sequence[Any]) -> None:
        """One entry for all members where their numbers fit one template, else groups by a stricter key."""
        entry = _entry(members, present)
        if entry is not None:
            found.append((position[members[0].target], entry))
            return
        if not keys:
            entry = _entry([_stacked_by_op(members[0])], present)
            assert entry is not None
            found.append((position[members[0].target], entry))
            return
        for group in _grouped(members, keys[0]):
            add(group, keys[1:])

    counting = _Counting.of(m.target for m in made)
    for group in _grouped(made, counting.key):
        add(group, [lambda m: repr(m.ops), lambda m: tuple(numbers_in(m.target)[:1]), lambda m: m.target])
    return [entry for _, entry in sorted(found, key=lambda pair: pair[0])]


def _without_list_stacks(m: Made) -> Made:
    """Sources that are stacked and have no template in common (gate beside up) are stacked by an op."""
    lanes = int(np.prod([n for _, n in m.stacks], dtype=np.int64))
    per_lane = len(m.sources) // lanes
    alike = all(len({without_numbers(n) for n in m.sources[i::per_lane]}) == 1 for i in range(per_lane))
    return m if alike or not m.stacks else _stacked_by_op(m)


def _stacked_by_op(m: Made) -> Made:
    ops = [{**op, "of": list(range(len(m.sources)))} if "rearrange" in op else op for op in m.ops]
    return Made(m.target, m.sources, (*ops, *_stack_ops(m.stacks)), ())


def _stack_ops(stacks: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    """A stack takes every source at once: of several levels their axes are parted afterwards."""
    if len(stacks) < 2:
        return [{"stack": axis} for axis, _ in stacks]
    levels = {axis: f"n{i}" for i, (axis, _) in enumerate(stacks)}
    others = {axis: f"x{axis}" for axis in range(max(levels)) if axis not in levels}
    before = " ".join([f"({' '.join(levels.values())})", *others.values(), "..."])
    after = " ".join([*(name for _, name in sorted((levels | others).items())), "..."])
    return [{"stack": 0}, {"rearrange": f"{before} -> {after}", **{levels[axis]: n for axis, n in stacks}}]


def _grouped(members: Sequence[Made], key: Any) -> list[list[Made]]:
    groups: dict[Any, list[Made]] = {}
    for m in members:
        groups.setdefault(key(m), []).append(m)
    return list(groups.values())


def without_numbers(name: str) -> str:
    """The name with 0 for every number in it."""
    return NUMBER.sub("0", name)


@dataclass(frozen=True)
class _Counting:
    """Which numbers in names count something: those that start from 0 (``ln_1`` and ``ln_2`` are names)."""

    starts: dict[str, list[int]]
    """Of every name without its numbers, the least number at each place."""

    @classmethod
    def of(cls, names: Iterable[str]) -> _Counting:
        starts: dict[str, list[int]] = {}
        for name in names:
            numbers = numbers_in(name)
            starts[without_numbers(name)] = [
                min(pair) for pair in zip(starts.get(without_numbers(name), numbers), numbers, strict=True)
            ]
        return cls(starts)

    def family(self, name: str) -> str:
        """The name with 0 for every number that counts."""
        starts = self.starts[without_numbers(name)]
        return _filled(name, {i: "0" for i, least in enumerate(starts) if least == 0})

    def key(self, m: Made) -> tuple:
        """What members of one family share: names and ops but for their numbers."""
        return (
            self.family(m.target),
            tuple(map(without_numbers, m.sources)),
            repr([_masked(op) for op in m.ops]),
            m.stacks,
        )


def _masked(op: dict[str, Any]) -> dict[str, Any]:
    return {**op, "start": 0, "stop": 0, "length": op["stop"] - op["start"]} if "slice" in op else op


def _entry(members: Sequence[Made], present: Counter[str]) -> Entry | None:
    """None where some number is no affine function of the target's numbers and the indices of the stacks."""
    first = members[0]
    numbers = np.array([numbers_in(m.target) for m in members], np.int64).reshape(len(members), -1)
    varying = [i for i in range(numbers.shape[1]) if (numbers[:, i] != numbers[0, i]).any()]
    if len(np.unique(numbers, axis=0)) != np.prod([len(np.unique(numbers[:, i])) for i in varying], dtype=np.int64):
        return None  # not every combination is there
    names = _placeholder_names(first, varying)
    values = {name: numbers[:, i] for name, i in zip(names, varying, strict=True)}
    sources = _sources(members, values)
    ops = _ops(members, values)
    if sources is None or ops is None:
        return None
    templates, overs = sources
    target = _filled(first.target, {i: f"{{{name}}}" for name, i in zip(names, varying, strict=True)})
    entry: Entry = {"source": templates[0] if len(templates) == 1 else templates, "target": target}
    ranges = _ranges(members, values, overs, present)
    if ranges:
        entry["for"] = ranges
    if ops:
        entry["ops"] = ops
    if overs:
        entry["stack"] = [
            {"over": name, "axis": axis} for (name, _), (axis, _) in zip(overs, first.stacks, strict=True)
        ]
    return entry


def numbers_in(name: str) -> list[int]:
    """The numbers in a name, in order: those that stand for themselves, not ``w1``."""
    return [int(n) for n in NUMBER.findall(name)]


def _filled(name: str, texts: dict[int, str]) -> str:
    counter = itertools.count()
    return NUMBER.sub(lambda found: texts.get(next(counter), found.group()), literal(name))


def _placeholder_names(m: Made, varying: list[int]) -> list[str]:
    taken: list[str] = []
    for i in varying:
        taken.append(_word_before(m.target, i, taken))
    return taken


def _word_before(name: str, which: int, taken: Sequence[str]) -> str:
    """What the number counts, by the word before it: ``layers.3`` is a layer."""
    found = list(NUMBER.finditer(name))[which]
    words = re.findall(r"[A-Za-z]+", name[: found.start()])
    word = (words[-1] if words else "i").lower()
    word = word[:-1] if len(word) > 2 and word.endswith("s") else word
    return word if word not in taken else next(f"{word}{n}" for n in itertools.count(2) if f"{word}{n}" not in taken)


def _sources(members: Sequence[Made], values: dict[str, Any]) -> tuple[list[str], list[tuple[str, list[int]]]] | None:
    """Source templates, and the placeholders that run over stacked sources with their values."""
    first = members[0]
    sizes = [n for _, n in first.stacks]
    lanes = int(np.prod(sizes, dtype=np.int64)) if sizes else 1
    per_lane = len(first.sources) // lanes
    grid = np.array(list(itertools.product(*map(range, sizes))), np.int64).reshape(lanes, len(sizes))
    templates, overs = [], {}
    for which in range(per_lane):
        names = [[m.sources[lane * per_lane + which] for lane in range(lanes)] for m in members]
        if len({without_numbers(n) for row in names for n in row}) > 1:
            return None
        table = np.array([[numbers_in(n) for n in row] for row in names], np.int64).reshape(len(members), lanes, -1)
        texts = {}
        for place in range(table.shape[2]):
            text = _expression(table[:, :, place], values, grid, overs, names[0][0], place)
            if text is None:
                return None
            texts[place] = text
        templates.append(_filled(names[0][0], texts))
    if len(overs) != len(sizes):
        return None
    return templates, [overs[j] for j in range(len(sizes))]


def _expression(
    table: Any, values: dict[str, Any], grid: Any, overs: dict[int, tuple[str, list[int]]], name: str, place: int
) -> str | None:
    """One number of a source name over ``[members, lanes]`` as text of a template."""
    along = [j for j in range(grid.shape[1]) if (table != table[:, _lane_without(grid, j)]).any()]
    if not along:
        return _affine(table[:, 0], values)
    if len(along) == 1 and (table == table[:1]).all():  # the stack's own number: listed in its order
        j = along[0]
        listed = [int(table[0, lane]) for lane in range(len(grid)) if not np.delete(grid[lane], j).any()]
        known = overs.get(j)
        if known is None:
            overs[j] = known = (_word_before(name, place, [*values, *(o for o, _ in overs.values())]), listed)
        return f"{{{known[0]}}}" if known[1] == listed else None
    return None


def _lane_without(grid: Any, j: int) -> list[int]:
    """For every lane the one with index 0 along stack ``j``."""
    index = {tuple(row): i for i, row in enumerate(grid.tolist())}
    return [index[tuple(0 if a == j else v for a, v in enumerate(row))] for row in grid.tolist()]


def _affine(column: Any, values: dict[str, Any]) -> str | None:
    """``{layer}``, ``{2*layer + 1}``, or a plain number."""
    fitted = _fit(column, values)
    if fitted is None:
        return None
    text = _spelled(*fitted)
    return text if text.lstrip("-").isdigit() else f"{{{text}}}"


def _fit(column: Any, values: dict[str, Any]) -> tuple[dict[str, int], int] | None:
    if (column == column[0]).all():
        return {}, int(column[0])
    matrix = np.stack([*values.values(), np.ones(len(column), np.int64)], -1)
    solved = np.rint(np.linalg.lstsq(matrix.astype(np.float64), column.astype(np.float64), rcond=None)[0]).astype(
        np.int64
    )
    if (matrix @ solved != column).any():
        return None
    return {n: int(c) for n, c in zip(values, solved, strict=False) if c}, int(solved[-1])


def _spelled(factors: dict[str, int], constant: int) -> str:
    terms = [name if c == 1 else f"{c}*{name}" for name, c in factors.items()]
    if constant or not terms:
        terms.append(str(constant))
    return " + ".join(terms).replace("+ -", "- ")


def _ops(members: Sequence[Made], values: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The ops of the first member, slices that move with the placeholders written so."""
    out = []
    for place, op in enumerate(members[0].ops):
        op = dict(op)
        for key in ("start", "stop"):
            if "slice" in op:
                fitted = _fit(np.array([m.ops[place][key] for m in members], np.int64), values)
                if fitted is None:
                    return None
                op[key] = _spelled(*fitted) if fitted[0] else fitted[1]
        out.append(op)
    return out


def _ranges(
    members: Sequence[Made], values: dict[str, Any], overs: list[tuple[str, list[int]]], present: Counter[str]
) -> dict[str, Any]:
    """``for``: where the names present do not say which numbers are meant, or not in this order."""
    first, count = members[0], len(members)
    sources = {} if overs else {without_numbers(name) for name in first.sources}
    complete = all(present[name] == count for name in {without_numbers(first.target), *sources})
    listed = {} if complete else {name: np.unique(column).tolist() for name, column in values.items()}
    return {name: _range(numbers) for name, numbers in [*listed.items(), *overs]}


def _range(listed: list[int]) -> Any:
    return f"{listed[0]} .. {listed[-1] + 1}" if listed == list(range(listed[0], listed[-1] + 1)) else listed
