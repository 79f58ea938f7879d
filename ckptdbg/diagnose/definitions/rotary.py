"""Rotary frequencies: found among a model's constant tables by what they are, and what else they may be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.diagnose.definitions.candidate import Candidate, Changes, Group, values_given
from ckptdbg.diagnose.definitions.fields import FieldDifference, shown
from ckptdbg.diagnose.definitions.meanings import BASE, FRACTION, ROPE_TYPE, STRETCH, Meaning

Array = NDArray[Any]
# Values in use: published models' configurations have these.
_BASES = (1e4, 1e5, 1.5e5, 5e5, 1e6, 5e6, 1e7, 1e3)
_FRACTIONS = (0.25, 0.5, 0.75, 0.4)
_STRETCHES = (2.0, 4.0, 8.0, 16.0, 32.0)
# Factor, the two bounds in wavelengths per context, and the context: Llama 3.1 and 3.2 as published.
_LLAMA3 = ((8.0, 1.0, 4.0, 8192.0), (32.0, 1.0, 4.0, 8192.0))


def rotary_groups(tables: Mapping[str, Array], differences: Sequence[FieldDifference]) -> Iterator[Group]:
    """Tables that fall from 1 are rotary frequencies, whatever they are called; those of one base together."""
    found: dict[float, dict[str, Array]] = {}
    scaled: dict[float, dict[str, Array]] = {}
    for path, table in tables.items():
        if table.ndim == 1 and len(table) > 1 and table[0] == 1 and (table > 0).all() and (np.diff(table) < 0).all():
            (found if _geometric(table) else scaled).setdefault(_base(table), {})[path] = table
    for base, alike in found.items():
        yield from _Rotary(base, alike, differences).groups()
    for base, alike in scaled.items():
        yield Group(ROPE_TYPE, [_unscaled(b, alike) for b in dict.fromkeys((base, *_BASES))])


@dataclass(frozen=True)
class _Rotary:
    """Tables of frequencies with one base, and what the other model may have in their place."""

    base: float
    tables: Mapping[str, Array]
    differences: Sequence[FieldDifference]

    def groups(self) -> Iterator[Group]:
        bases = self._given(BASE, _BASES)
        tried = [replace(self._with_base(v / self.base), given=d) for v, d in bases if not np.isclose(v, self.base)]
        yield Group(BASE, tried, self._with_base)
        parts = [(v, d) for v, d in self._given(FRACTION, _FRACTIONS) if v < 1]
        yield Group(FRACTION, [self._part(v, d, apart) for v, d in parts for apart in (True, False)])
        yield Group(STRETCH, [self._stretched(v, d) for v, d in self._given(STRETCH, _STRETCHES)], self._stretched)
        yield Group(ROPE_TYPE, [self._by_frequency(*numbers) for numbers in _LLAMA3])

    def _given(self, meaning: Meaning, usual: Sequence[float]) -> list[tuple[float, FieldDifference | None]]:
        """The target's value, then those in use."""
        said: list[tuple[float, FieldDifference | None]] = [
            (v, d) for v, d in values_given(meaning, self.differences) if isinstance(v, int | float) and v > 0
        ]
        return [*said, *((v, None) for v in usual if v not in {x for x, _ in said})]

    def _with_base(self, factor: float) -> Candidate:
        base = self.base * factor
        changes: Changes = {path: frequencies(base, len(t), len(t)) for path, t in self.tables.items()}
        return Candidate(BASE, shown(round(self.base, 3)), shown(base), changes)

    def _part(self, fraction: float, given: FieldDifference | None, apart: bool) -> Candidate:
        """Only the first part of each head is turned, with frequencies of its own or with the first of the whole."""
        changes: Changes = {}
        for path, table in self.tables.items():
            width = max(round(fraction * len(table)), 1)
            turned = frequencies(self.base, width, width if apart else len(table))
            changes[path] = np.concatenate([turned, np.zeros(len(table) - width)])
        return Candidate(FRACTION, "all of it", f"the first {shown(fraction)} of it", changes, given)

    def _stretched(self, factor: float, given: FieldDifference | None = None) -> Candidate:
        changes: Changes = {path: table / factor for path, table in self.tables.items()}
        return Candidate(STRETCH, "1", shown(factor), changes, given)

    def _by_frequency(self, factor: float, low: float, high: float, context: float) -> Candidate:
        """Slow frequencies divided, fast ones kept, those between in between: the scaling of Llama 3.1 ("The Llama 3
        Herd of Models" and its published configuration)."""
        changes: Changes = {}
        for path, table in self.tables.items():
            turns = context * table / (2 * np.pi)
            kept = np.clip((turns - low) / (high - low), 0, 1)
            changes[path] = (1 - kept) * table / factor + kept * table
        return Candidate(ROPE_TYPE, "none", f"by frequency, {shown(factor)} times over {shown(context)}", changes)


def _unscaled(base: float, tables: Mapping[str, Array]) -> Candidate:
    changes: Changes = {path: frequencies(base, len(t), len(t)) for path, t in tables.items()}
    return Candidate(ROPE_TYPE, "by frequency", f"none over a base of {shown(base)}", changes)


def _geometric(table: Array) -> bool:
    steps = table[1:] / table[:-1]
    return bool(np.allclose(steps, steps[0], rtol=1e-4))


def _base(table: Array) -> float:
    """The base of frequencies ``base ** (-i / n)``; of its first step where later ones are scaled."""
    last = len(table) - 1 if _geometric(table) else 1
    base = float(table[last] ** (-len(table) / last))
    return float(np.format_float_positional(base, precision=5, fractional=False))


def frequencies(base: float, count: int, over: int) -> Array:
    """``base ** (-i / over)`` as models compute it, in single precision."""
    exponent = np.arange(0, 2 * count, 2, dtype=np.float32) / np.float32(2 * over)
    return (np.float32(1) / np.float32(base) ** exponent).astype(np.float64)
