"""What can be tried on a source: every setting it holds, with the values that the other model may have in its place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ckptdbg.diagnose.definitions.candidate import Candidate, Group, values_given
from ckptdbg.diagnose.definitions.fields import FieldDifference, shown
from ckptdbg.diagnose.definitions.meanings import (
    ACTIVATION,
    CAUSAL,
    EMBEDDING_SCALE,
    EPSILON,
    EXPERTS,
    FINAL_CAP,
    QUERY_SCALAR,
    SCALE,
    SCORE_CAP,
    WINDOW,
    Meaning,
    meaning_of,
)
from ckptdbg.diagnose.definitions.rotary import rotary_groups

Array = NDArray[Any]

# Values in use: published models' configurations have these.
_EPSILONS = (1e-5, 1e-6, 1e-8, 1e-12, 1e-3)
_FACTORS = (0.5, 2.0)
_CAPS = (30.0, 50.0)
_NO_WINDOW = 2**30
"""A window wider than any sequence: what a model without one computes."""


class Knobs(Protocol):
    """The settings of a model; see ``models.torch_side.knobs``."""

    def values(self) -> dict[str, Any]: ...
    def tables(self) -> dict[str, Array]: ...
    def activations(self) -> dict[str, str]: ...


def groups(knobs: Knobs, differences: Sequence[FieldDifference], sizes: Mapping[str, int]) -> list[Group]:
    """Everything that can be tried, settings in which the two configurations differ first. ``sizes`` are numbers whose
    roots may be factors."""
    found = [*rotary_groups(knobs.tables(), differences), *_attributes(knobs.values(), differences, sizes)]
    found += [*_activations(knobs.activations(), differences), *_scalars(knobs.tables(), sizes)]
    named = {d.meaning for d in differences}
    return sorted(found, key=lambda g: g.meaning not in named)


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
            wanted = [(v, d) for v, d in values_given(meaning, differences) if v is not None]
            if meaning in (SCORE_CAP, FINAL_CAP):
                wanted += [(v, None) for v in _CAPS]
            yield Group(meaning, [_set(meaning, settings, v, d) for v, d in wanted])
        elif set_ones and not any(isinstance(v, bool) for v in set_ones.values()):
            values = dict.fromkeys(set_ones.values())
            for value in values if len(values) > 1 else ():  # a norm of another kind has an epsilon of its own
                alike = {path: v for path, v in set_ones.items() if v == value}
                yield _numbers(meaning, alike, differences, sizes)
            yield _numbers(meaning, set_ones, differences, sizes)
        elif all(isinstance(v, bool) for v in set_ones.values()):
            yield Group(meaning, [_flipped(meaning, set_ones, differences)])


def _flipped(meaning: Meaning, settings: Mapping[str, Any], differences: Sequence[FieldDifference]) -> Candidate:
    value = not next(iter(settings.values()))
    given = next((d for v, d in values_given(meaning, differences) if v is value), None)
    return _set(meaning, settings, value, given)


def _set(meaning: Meaning, settings: Mapping[str, Any], value: Any, given: FieldDifference | None) -> Candidate:
    # what is held more than once may differ in type (a module's flag, a configuration's): the first speaks for all
    wide = meaning is WINDOW and value is None
    written = _NO_WINDOW if wide else value
    # that the probe meets no bound is all that a run can show; that there is none, a configuration must say
    after = "none that the probe reaches" if wide and given is None else shown(value)
    return Candidate(meaning, _first(settings), after, dict.fromkeys(settings, written), given)


def _numbers(
    meaning: Meaning, settings: dict[str, Any], differences: Sequence[FieldDifference], sizes: Mapping[str, int]
) -> Group:
    def scaled(factor: float) -> Candidate:
        changes = {path: value * factor for path, value in settings.items()}
        return Candidate(meaning, _first(settings), _first(changes), changes)

    wanted: list[tuple[Any, FieldDifference | None]] = values_given(meaning, differences)
    factors: list[float] = []
    if meaning is EPSILON:
        wanted += [(v, None) for v in _EPSILONS]
    elif meaning in (SCALE, QUERY_SCALAR, EMBEDDING_SCALE):
        factors = [*_FACTORS, *_roots(sizes)]
    elif meaning in (SCORE_CAP, FINAL_CAP):
        wanted.append((None, None))
    if meaning is SCALE:  # the same number in other words
        roots = values_given(QUERY_SCALAR, differences)
        wanted += [(v**-0.5, d) for v, d in roots if isinstance(v, int | float) and v > 0]
    elif meaning is WINDOW:
        own = int(next(iter(settings.values())))
        wanted += [(w, None) for w in (None, own + 1, own - 1, 2 * own, own // 2, 1) if w is None or w > 0]
    elif meaning is EXPERTS or not wanted:
        return Group(meaning, [])
    tried = [_set(meaning, settings, v, d) for v, d in wanted if any(v != own for own in settings.values())]
    named = [(v, d) for v, d in wanted if factors and isinstance(v, float) and v not in (0.0, 1.0)]
    tried += [replace(scaled(v), given=d, factor=True) for v, d in named]
    tried += [scaled(f) for f in dict.fromkeys(factors) if f != 1]
    return Group(meaning, tried, scaled if meaning is not WINDOW else None)


def _roots(sizes: Mapping[str, int]) -> Iterator[float]:
    for size in dict.fromkeys(sizes.values()):
        yield size**0.5
        yield size**-0.5


def _first(settings: Mapping[str, Any]) -> str:
    """The value in use; all of them where they differ."""
    return " and ".join(dict.fromkeys(map(shown, settings.values())))


def _activations(found: Mapping[str, str], differences: Sequence[FieldDifference]) -> Iterator[Group]:
    from_code = ("silu", "gelu", "gelu by tanh", "relu", "gelu by sigmoid", "relu squared", "tanh")
    kinds: dict[str, list[str]] = {}
    for path, name in found.items():
        kinds.setdefault(name, []).append(path)
    for own, paths in kinds.items():
        given = {ACTIVATION.normal(v): d for v, d in values_given(ACTIVATION, differences)}
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
