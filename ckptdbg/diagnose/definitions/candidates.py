"""What can be tried on a source: every setting it holds, with the values that the other model may have in its place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ckptdbg.diagnose.definitions.fields import FieldDifference, shown
from ckptdbg.diagnose.definitions.meanings import (
    ACTIVATION,
    BASE,
    CAUSAL,
    EMBEDDING_SCALE,
    EPSILON,
    EXPERTS,
    FINAL_CAP,
    FRACTION,
    QUERY_SCALAR,
    SCALE,
    SCORE_CAP,
    STRETCH,
    WINDOW,
    Meaning,
    meaning_of,
)

Array = NDArray[Any]
Changes = dict[str, Any]

# Values in use: published models' configurations have these.
_EPSILONS = (1e-5, 1e-6, 1e-8, 1e-12, 1e-3)
_BASES = (1e4, 1e5, 1.5e5, 5e5, 1e6, 5e6, 1e7, 1e3)
_FRACTIONS = (0.25, 0.5, 0.75, 0.4)
_STRETCHES = (2.0, 4.0, 8.0, 16.0, 32.0)
_FACTORS = (0.5, 2.0)
_CAPS = (30.0, 50.0)
_NO_WINDOW = 2**30
"""A window wider than any sequence: what a model without one computes."""


class Knobs(Protocol):
    """The settings of a model; see ``models.torch_side.knobs``."""

    def values(self) -> dict[str, Any]: ...
    def tables(self) -> dict[str, Array]: ...
    def activations(self) -> dict[str, str]: ...


@dataclass(frozen=True)
class Candidate:
    """Another value of one setting, everywhere in the source."""

    meaning: Meaning
    before: str
    after: str
    changes: Changes
    given: FieldDifference | None = None
    """Where the value comes from, if the target's own configuration names it."""
    factor: bool = False
    """Whether that value is a factor on the source's own."""


@dataclass(frozen=True)
class Group:
    """Settings of one name and meaning, tried together; ``family`` gives the changes for a number, where one can be
    searched for."""

    meaning: Meaning
    candidates: Sequence[Candidate]
    family: Callable[[float], Candidate] | None = None
    """The candidate of a factor on the source's own value."""


def groups(knobs: Knobs, differences: Sequence[FieldDifference], sizes: Mapping[str, int]) -> list[Group]:
    """Everything that can be tried, settings in which the two configurations differ first. ``sizes`` are numbers whose
    roots may be factors."""
    found = [*_rotary(knobs.tables(), differences), *_attributes(knobs.values(), differences, sizes)]
    found += [*_activations(knobs.activations(), differences), *_scalars(knobs.tables(), sizes)]
    named = {d.meaning for d in differences}
    return sorted(found, key=lambda g: g.meaning not in named)


def joined(candidates: Sequence[Candidate]) -> Candidate:
    """Several settings at once."""
    first, *rest = candidates
    names, before, after = ([getattr(c, key) for c in candidates] for key in ("meaning", "before", "after"))
    meaning = replace(first.meaning, name=" and ".join(m.name for m in names))
    changes = {path: value for c in candidates for path, value in c.changes.items()}
    return Candidate(meaning, " and ".join(before), " and ".join(after), changes, first.given if not rest else None)


def _given(meaning: Meaning, differences: Iterable[FieldDifference]) -> list[tuple[Any, FieldDifference | None]]:
    return [(d.target_value, d) for d in differences if d.meaning is meaning]


def _attributes(
    values: Mapping[str, Any], differences: Sequence[FieldDifference], sizes: Mapping[str, int]
) -> Iterator[Group]:
    """Plain settings, those of one name together."""
    named: dict[tuple[Meaning, str], dict[str, Any]] = {}
    for path, value in values.items():
        meaning = meaning_of(path)
        if meaning is not None:
            named.setdefault((meaning, path.rpartition(".")[2]), {})[path] = value
    for (meaning, _), settings in named.items():
        set_ones = {p: v for p, v in settings.items() if v is not None}
        if meaning is CAUSAL and all(isinstance(v, bool) for v in settings.values()):
            yield Group(meaning, [_flipped(meaning, settings, differences)])
        elif not set_ones and meaning.absent:
            wanted = [(v, d) for v, d in _given(meaning, differences) if v is not None]
            if meaning in (SCORE_CAP, FINAL_CAP):
                wanted += [(v, None) for v in _CAPS]
            yield Group(meaning, [_set(meaning, settings, v, d) for v, d in wanted])
        elif set_ones and not any(isinstance(v, bool) for v in set_ones.values()):
            yield _numbers(meaning, set_ones, differences, sizes)
        elif all(isinstance(v, bool) for v in set_ones.values()):
            yield Group(meaning, [_flipped(meaning, set_ones, differences)])


def _flipped(meaning: Meaning, settings: Mapping[str, Any], differences: Sequence[FieldDifference]) -> Candidate:
    value = not next(iter(settings.values()))
    given = next((d for v, d in _given(meaning, differences) if v is value), None)
    return _set(meaning, settings, value, given)


def _set(meaning: Meaning, settings: Mapping[str, Any], value: Any, given: FieldDifference | None) -> Candidate:
    # what is held more than once may differ in type (a module's flag, a configuration's): the first speaks for all
    written = _NO_WINDOW if meaning is WINDOW and value is None else value
    return Candidate(meaning, _first(settings), shown(value), dict.fromkeys(settings, written), given)


def _numbers(
    meaning: Meaning, settings: dict[str, Any], differences: Sequence[FieldDifference], sizes: Mapping[str, int]
) -> Group:
    def scaled(factor: float) -> Candidate:
        changes = {path: value * factor for path, value in settings.items()}
        return Candidate(meaning, _first(settings), _first(changes), changes)

    wanted: list[tuple[Any, FieldDifference | None]] = _given(meaning, differences)
    factors: list[float] = []
    if meaning is EPSILON:
        wanted += [(v, None) for v in _EPSILONS]
    elif meaning in (SCALE, QUERY_SCALAR, EMBEDDING_SCALE):
        factors = [*_FACTORS, *_roots(sizes)]
    elif meaning in (SCORE_CAP, FINAL_CAP):
        wanted.append((None, None))
    elif meaning is WINDOW:
        own = int(next(iter(settings.values())))
        wanted += [(w, None) for w in (None, own + 1, own - 1, 2 * own, own // 2) if w is None or w > 0]
    elif meaning is EXPERTS or not wanted:
        return Group(meaning, [])
    tried = [_set(meaning, settings, v, d) for v, d in wanted if v != next(iter(settings.values()))]
    named = [(v, d) for v, d in wanted if factors and isinstance(v, float) and v not in (0.0, 1.0)]
    tried += [replace(scaled(v), given=d, factor=True) for v, d in named]
    tried += [scaled(f) for f in dict.fromkeys(factors) if f != 1]
    return Group(meaning, tried, scaled if meaning is not WINDOW else None)


def _roots(sizes: Mapping[str, int]) -> Iterator[float]:
    for size in dict.fromkeys(sizes.values()):
        yield size**0.5
        yield size**-0.5


def _first(settings: Mapping[str, Any]) -> str:
    return shown(next(iter(settings.values())))


def _activations(found: Mapping[str, str], differences: Sequence[FieldDifference]) -> Iterator[Group]:
    from_code = ("silu", "gelu", "gelu by tanh", "relu", "gelu by sigmoid", "relu squared", "tanh")
    kinds: dict[str, list[str]] = {}
    for path, name in found.items():
        kinds.setdefault(name, []).append(path)
    for own, paths in kinds.items():
        given = {ACTIVATION.normal(v): d for v, d in _given(ACTIVATION, differences)}
        names = [*(n for n in given if n in from_code), *(n for n in from_code if n not in given)]
        tried = [Candidate(ACTIVATION, own, str(n), dict.fromkeys(paths, n), given.get(n)) for n in names if n != own]
        yield Group(ACTIVATION, tried)


def _scalars(tables: Mapping[str, Array], sizes: Mapping[str, int]) -> Iterator[Group]:
    """Constants that a model keeps as tensors of one element."""
    found = {path: t for path, t in tables.items() if t.ndim == 0 and meaning_of(path) is not None}
    for path, table in found.items():
        meaning, own = meaning_of(path), float(table)
        assert meaning is not None

        def scaled(factor: float, path: str = path, own: float = own, meaning: Meaning = meaning) -> Candidate:
            return Candidate(meaning, shown(own), shown(own * factor), {path: np.asarray(own * factor)})

        factors = dict.fromkeys([1 / own if own else 1.0, *_FACTORS, *_roots(sizes)])
        yield Group(meaning, [scaled(f) for f in factors if f != 1], scaled)


def _rotary(tables: Mapping[str, Array], differences: Sequence[FieldDifference]) -> Iterator[Group]:
    """Tables that fall geometrically from 1 are rotary frequencies, whatever they are called."""
    found = {path: t for path, t in tables.items() if _base(t) is not None}
    if not found:
        return
    base = _base(next(iter(found.values())))
    assert base is not None

    def with_base(factor: float) -> Candidate:
        changes: Changes = {p: _frequencies(base * factor, len(t), len(t)) for p, t in found.items()}
        return Candidate(BASE, shown(round(base, 3)), shown(base * factor), changes)

    def part(fraction: float, given: FieldDifference | None, apart: bool) -> Candidate:
        changes: Changes = {}
        for path, table in found.items():
            width = max(round(fraction * len(table)), 1)
            turned = _frequencies(base, width, width if apart else len(table))
            changes[path] = np.concatenate([turned, np.zeros(len(table) - width)])
        return Candidate(FRACTION, "all of it", f"the first {shown(fraction)} of it", changes, given)

    def stretched(factor: float, given: FieldDifference | None) -> Candidate:
        changes: Changes = {path: table / factor for path, table in found.items()}
        return Candidate(STRETCH, "1", shown(factor), changes, given)

    bases = [(v, d) for v, d in _given(BASE, differences) if isinstance(v, int | float) and v > 0]
    tried = [Candidate(BASE, c.before, shown(v), c.changes, d) for v, d in bases for c in [with_base(v / base)]]
    named = {v for v, _ in bases}
    tried += [with_base(v / base) for v in _BASES if v not in named and not np.isclose(v, base)]
    yield Group(BASE, tried, with_base)
    parts = [(v, d) for v, d in _given(FRACTION, differences) if isinstance(v, float) and 0 < v < 1]
    parts += [(v, None) for v in _FRACTIONS if v not in {x for x, _ in parts}]
    yield Group(FRACTION, [part(v, d, apart) for v, d in parts for apart in (True, False)])
    factors = [(v, d) for v, d in _given(STRETCH, differences) if isinstance(v, int | float) and v > 0]
    factors += [(v, None) for v in _STRETCHES if v not in {x for x, _ in factors}]
    yield Group(STRETCH, [stretched(v, d) for v, d in factors], lambda f: stretched(f, None))


def _base(table: Array) -> float | None:
    """The base of rotary frequencies ``base ** (-i / n)``; None for any other table."""
    if table.ndim != 1 or len(table) < 2 or table[0] != 1 or not (table > 0).all():
        return None
    steps = table[1:] / table[:-1]
    if not (steps < 1).all() or not np.allclose(steps, steps[0], rtol=1e-4):
        return None
    base = float(table[-1] ** (-len(table) / (len(table) - 1)))
    return float(np.format_float_positional(base, precision=5, fractional=False))


def _frequencies(base: float, count: int, over: int) -> Array:
    """``base ** (-i / over)`` as models compute it, in single precision."""
    exponent = np.arange(0, 2 * count, 2, dtype=np.float32) / np.float32(2 * over)
    return (np.float32(1) / np.float32(base) ** exponent).astype(np.float64)
