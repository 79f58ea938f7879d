"""Tensors that are made alike in every layer, as one family: a name with slots for the numbers that count."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.mapping.proposal.names import Concepts, concepts, words
from ckptdbg.mapping.proposal.vocabulary import CONTAINERS
from ckptdbg.mapping.tracing.families import NUMBER

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Slot:
    """One number of a name that counts something."""

    name: str
    """What it counts: ``layer``."""
    values: tuple[int, ...]

    @property
    def size(self) -> int:
        return len(self.values)


@dataclass(frozen=True)
class Family:
    """Tensors whose names differ in their slots only, all of one shape."""

    pieces: tuple[str, ...]
    """The text around the slots: one more than there are slots."""
    slots: tuple[Slot, ...]
    spec: TensorSpec
    order: int
    """Place of the first tensor in its file."""

    @property
    def shape(self) -> Shape:
        return self.spec.shape

    @cached_property
    def said(self) -> Concepts:
        """What the name says."""
        return concepts(self.filled(["" for _ in self.slots]), self.block is not None)

    @cached_property
    def block(self) -> str | None:
        """What stands before the number of the layer, or would stand there if the layers were not stacked; None outside
        of layers."""
        if self.slots:
            return self.pieces[0]
        found = [m for m in re.finditer(r"[^./\-]+", self.pieces[0]) if (words(m.group()) or [""])[-1] in CONTAINERS]
        return self.pieces[0][: found[0].end()] if found else None

    @cached_property
    def elements(self) -> int:
        """How many elements all its tensors hold together."""
        return math.prod(self.shape) * len(self.names)

    @cached_property
    def leaf(self) -> str:
        """The last word of the name."""
        return (words(self.pieces[-1]) or words("".join(self.pieces)) or [""])[-1]

    def filled(self, texts: Sequence[str]) -> str:
        """The name with these texts in its slots."""
        return "".join(a + b for a, b in zip(self.pieces, [*texts, ""], strict=True))

    @cached_property
    def names(self) -> list[str]:
        """Every tensor's name."""
        return [self.filled(list(map(str, numbers))) for numbers in product(*(s.values for s in self.slots))]

    def __str__(self) -> str:
        return self.filled([f"{{{slot.name}}}" for slot in self.slots])


def families_of(specs: Mapping[str, TensorSpec]) -> list[Family]:
    """All tensors of one side as families, in the order of their first tensors."""
    places = _counting(specs)
    groups: dict[tuple, list[tuple[int, tuple[int, ...]]]] = {}
    for order, (name, spec) in enumerate(specs.items()):
        pieces, numbers, ends = [], [], 0
        for start, end in places[name]:
            pieces.append(name[ends:start])
            numbers.append(int(name[start:end]))
            ends = end
        groups.setdefault((*pieces, name[ends:], spec), []).append((order, tuple(numbers)))
    return [family for (*pieces, spec), members in groups.items() for family in _families(pieces, spec, members)]


def _families(pieces: Sequence[str], spec: TensorSpec, members: list[tuple[int, tuple[int, ...]]]) -> list[Family]:
    """One family where every combination of numbers is there, else one for every first number, and so on."""
    numbers = [n for _, n in members]
    values = [sorted(set(column)) for column in zip(*numbers, strict=True)]
    if math.prod(map(len, values)) == len(members):
        named = _slot_names(pieces)
        slots = tuple(Slot(name, tuple(column)) for name, column in zip(named, values, strict=True))
        return [Family(tuple(pieces), slots, spec, members[0][0])]
    first = {n[0] for n in numbers}
    return [
        family
        for value in sorted(first)
        for family in _families(pieces, spec, [m for m in members if m[1][0] == value])
    ]


def _slot_names(pieces: Sequence[str]) -> list[str]:
    """What each slot counts, by the word before it; each name once."""
    named: list[str] = []
    for piece in pieces[:-1]:
        word = (words(piece) or ["i"])[-1]
        name = CONTAINERS.get(word, word)
        while name in named:
            name += "2"
        named.append(name)
    return named


def _counting(names: Mapping[str, object]) -> dict[str, list[tuple[int, int]]]:
    """Of every name, where the numbers that count are: not in ``wi_0`` and ``wi_1``, but in ``layers_0``, where there
    is more than one kind of tensor under it or the word before it says so."""
    found: dict[str, list[tuple[int, int]]] = {name: [] for name in names}
    numbers = {name: [m.span() for m in NUMBER.finditer(name)] for name in names}
    for depth in range(max(map(len, numbers.values()), default=0)):
        seen: dict[str, tuple[set[int], set[str]]] = {}
        spans = {name: spans[depth] for name, spans in numbers.items() if len(spans) > depth}
        for name, (start, end) in spans.items():
            values, below = seen.setdefault(_masked(name[:start], found[name]), (set(), set()))
            values.add(int(name[start:end]))
            below.add(re.sub(r"[./\-]?[^./\-]*$", "", NUMBER.sub("0", name[end:])))
        for name, (start, end) in spans.items():
            prefix = _masked(name[:start], found[name])
            values, below = seen[prefix]
            container = (words(prefix) or [""])[-1] in CONTAINERS and values == set(range(len(values)))
            if len(values) > 1 and (len(below) > 1 or container):
                found[name].append((start, end))
    return found


def _masked(prefix: str, spans: Sequence[tuple[int, int]]) -> str:
    """A prefix with a sign for every number in it that counts."""
    for start, end in reversed(spans):
        prefix = f"{prefix[:start]}#{prefix[end:]}"
    return prefix
