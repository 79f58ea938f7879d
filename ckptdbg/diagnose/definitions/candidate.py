"""One setting with another value, as something that can be tried."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ckptdbg.diagnose.definitions.fields import FieldDifference
from ckptdbg.diagnose.definitions.meanings import Meaning

Changes = dict[str, Any]


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


def joined(candidates: Sequence[Candidate]) -> Candidate:
    """Several settings at once."""
    first, *rest = candidates
    # one setting may be held under two names
    told = list(dict.fromkeys((c.meaning.name, c.before, c.after) for c in candidates))
    names, before, after = ([each[i] for each in told] for i in range(3))
    meaning = replace(first.meaning, name=" and ".join(dict.fromkeys(names) if len(set(names)) == 1 else names))
    changes = {path: value for c in candidates for path, value in c.changes.items()}
    return Candidate(meaning, " and ".join(before), " and ".join(after), changes, first.given if not rest else None)


def values_given(meaning: Meaning, differences: Iterable[FieldDifference]) -> list[tuple[Any, FieldDifference | None]]:
    """What the target's configuration says of a setting in which it differs."""
    return [(d.target_value, d) for d in differences if d.meaning is meaning]
