"""Two models' configurations, field by field, as far as both say the same thing under whatever name."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ckptdbg.diagnose.definitions.meanings import Meaning, meaning_of


@dataclass(frozen=True)
class FieldDifference:
    """A setting that the two configurations do not have in common."""

    meaning: Meaning
    source: str
    """The source's field (dotted); empty where it has none of this meaning."""
    source_value: Any
    target: str
    target_value: Any

    def turned(self) -> FieldDifference:
        """The same difference with the two sides in each other's place."""
        return FieldDifference(self.meaning, self.target, self.target_value, self.source, self.source_value)

    def __str__(self) -> str:
        theirs = f"the source has {self.source}: {shown(self.source_value)}" if self.source else "the source names none"
        return f"{self.meaning.name}: {theirs}, the target has {self.target}: {shown(self.target_value)}"


def field_differences(source: Mapping[str, Any], target: Mapping[str, Any]) -> list[FieldDifference]:
    """Settings of the target that no field of the same meaning in the source's configuration agrees with.

    Where several fields of the source have that meaning (an epsilon for each kind of norm), one that agrees is enough.
    A setting that only the source names is no difference: the target may have it in its code.
    """
    theirs: dict[str, list[tuple[str, Any]]] = {}
    for field, value in _flat(source):
        if (meaning := meaning_of(field)) is not None:
            theirs.setdefault(meaning.name, []).append((field, value))
    found = []
    for field, value in _flat(target):
        meaning = meaning_of(field)
        if meaning is None:
            continue
        among = theirs.get(meaning.name, [])
        if any(same(meaning, value, other) for _, other in among):
            continue
        name, other = among[0] if among else ("", None)
        found.append(FieldDifference(meaning, name, other, field, value))
    return found


def settings_of(config: Mapping[str, Any] | None, options: Mapping[str, Any], knobs: Any = None) -> dict[str, Any]:
    """What is known of one model's definition: its configuration and the options of its loader; without either, the
    settings that its modules hold alike."""
    found = {**(config or {}), **options}
    if found or knobs is None:
        return found
    held: dict[str, list[Any]] = {}
    for path, value in [*knobs.values().items(), *knobs.activations().items()]:
        held.setdefault(path.rpartition(".")[2], []).append(value)
    return {name: values[0] for name, values in held.items() if all(v == values[0] for v in values)}


def same(meaning: Meaning, a: Any, b: Any) -> bool:
    """Whether two values of one setting are the same for every purpose."""
    if isinstance(a, bool | None) or isinstance(b, bool | None):
        return a is b
    if isinstance(a, int | float) and isinstance(b, int | float):
        return math.isclose(a, b, rel_tol=1e-6)
    return meaning.normal(a) == meaning.normal(b)


def shown(value: Any) -> str:
    """A value as people write it."""
    if isinstance(value, float):
        return f"{value:.8g}"
    return "none" if value is None else str(value)


def _flat(config: Mapping[str, Any], start: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{start}{name}.")
        elif value is None or isinstance(value, bool | int | float | str):
            yield f"{start}{name}", value
