"""A repair as lines of a diff."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import SequenceMatcher

from ckptdbg.report.names import op
from ckptdbg.result import Repair

# Of more entries than this what is the same of all is said once.
_MOST_ALIKE = 3


def changes(repair: Repair) -> list[tuple[str, str]]:
    """``("-", line)`` for what goes, ``("+", line)`` for what comes, ``(" ", line)`` for what stays.

    Where the ops stay (a tensor made again, other sources) the one line says what is done. Corrections that belong
    together follow each other, each below the name of its entry; the same of many is said once.
    """
    parts = repair.parts()
    several = len(parts) > 1
    alike = len({part.change for part in parts}) == 1 and all(_ops_stay(part) for part in parts)
    if alike and len(parts) > _MOST_ALIKE:
        return [(" ", f"each of them: {repair.change}")]
    return [line for part in parts for line in _one(part, several)]


def whose(repair: Repair) -> list[str]:
    """The entries that it corrects."""
    return list(dict.fromkeys(part.entry for part in repair.parts()))


def in_one_line(repair: Repair) -> str:
    """What changes, in one line: what is the same of every entry, once."""
    parts = repair.parts()
    alike = len({part.change for part in parts}) == 1
    return repair.change if alike else "; ".join(f"{part.entry}: {part.change}" for part in parts)


def _ops_stay(repair: Repair) -> bool:
    return repair.ops_before == repair.ops_after


def _one(repair: Repair, named: bool) -> Iterator[tuple[str, str]]:
    before, after = [op(o) for o in repair.ops_before], [op(o) for o in repair.ops_after]
    if _ops_stay(repair):
        yield " ", f"{repair.entry}: {repair.change}"
        return
    if named:
        yield " ", f"{repair.entry}:"
    for tag, i, j, k, m in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag == "equal":
            yield from ((" ", line) for line in before[i:j])
        else:
            yield from (("-", line) for line in before[i:j])
            yield from (("+", line) for line in after[k:m])
