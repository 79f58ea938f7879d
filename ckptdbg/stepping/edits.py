"""What to try: the repair of a finding, or ops that a person typed, as a changed mapping and changed tensors."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ckptdbg.documents import parse_yaml, plain
from ckptdbg.errors import CkptdbgError, MappingError
from ckptdbg.mapping import Mapping as TensorMapping
from ckptdbg.mapping.parse import parse_op
from ckptdbg.repair import Diagnosis, made_by
from ckptdbg.result import Finding, Repair

if TYPE_CHECKING:
    from ckptdbg.session import Session

Array = NDArray[Any]
At = Literal["all", "first", "last"]
TYPED = "what was typed"


@dataclass(frozen=True)
class Edited:
    """A mapping after some repairs, and the target tensors that are made anew by it."""

    mapping: TensorMapping
    patches: Mapping[str, Array]
    """All tensors that stand in for the target's own, by the name the mapping gives them; float64."""
    repairs: tuple[Repair, ...]


def parse_ops(text: str | dict[str, Any] | list[Any]) -> list[Any]:
    """One op or a list of ops, as YAML or as the same in Python, checked by the parser of mapping files. Raises
    MappingError."""
    ops = text
    if isinstance(text, str):
        try:
            # on lines of its own, so that any form is fine: braces, brackets, or lines as in a mapping file
            ops = plain(parse_yaml(f"ops:\n{textwrap.indent(text, '  ')}", TYPED, MappingError)["ops"])
        except MappingError as cause:
            raise MappingError(
                cause.problem, where=TYPED, found=repr(text), hint="write {scale: 2} or [{transpose: [1, 0]}, ...]"
            ) from cause
    ops = ops if isinstance(ops, list) else [] if ops is None else [ops]
    for op in ops:
        parse_op(op, TYPED)
    return ops


def typed(session: Session, edited: Edited, entry: str, ops: str | dict[str, Any] | list[Any], at: At) -> Edited:
    """Other ops for one entry: in place of all it has, or before or behind them. Raises MappingError for ops that do
    not parse, an entry that is not there, and shapes that do not fit."""
    before, given = edited.mapping.ops(entry), parse_ops(ops)
    after = {"all": given, "first": [*given, *before], "last": [*before, *given]}[at]
    if after == before:
        raise MappingError(f"entry {entry} has these ops already", where=TYPED, found=before, hint="type other ops")
    repair = Repair(entry=entry, change="ops typed by hand", ops_before=before, ops_after=after, verified=False)
    return _with(session, edited, edited.mapping.with_ops(entry, after), (repair,))


def repaired(session: Session, edited: Edited, number: int, diagnosis: Diagnosis) -> Edited:
    """The repair of a finding, counted from 1 as reports do. Raises CkptdbgError where it has none."""
    finding = _finding(diagnosis.findings, number)
    if finding.repair is None:
        raise CkptdbgError(
            f"finding {number} has no repair to try", found=finding.explanation, hint="type ops for an entry instead"
        )
    repairs = tuple(finding.repair.parts())
    if finding.cause == "checkpoint":
        return _remade(session, edited, repairs)
    mapping, mended = edited.mapping, diagnosis.tried or diagnosis.mapping
    for repair in repairs:
        mapping = _with_source(mapping.with_ops(repair.entry, repair.ops_after), repair.entry, mended)
    if mapping.text == edited.mapping.text:
        raise CkptdbgError(f"the repair of finding {number} changes nothing here", hint="it may be applied already")
    return _with(session, edited, mapping, repairs)


def _finding(findings: list[Finding], number: int) -> Finding:
    if not 1 <= number <= len(findings):
        expected = f"1 to {len(findings)}" if findings else "none: nothing was found"
        raise CkptdbgError("no such finding", found=number, expected=expected)
    return findings[number - 1]


def _remade(session: Session, edited: Edited, repairs: tuple[Repair, ...]) -> Edited:
    """Tensors of a checkpoint that are not what the mapping makes, made again; the mapping stays."""
    entries, entry_of = {repair.entry for repair in repairs}, session.mapping.entry_of_target
    wrong = [d.tensor for d in session.evidence.tensors if entry_of[d.tensor].name in entries]
    if not wrong:
        raise CkptdbgError("these tensors are as the mapping makes them", hint="the repair may be applied already")
    return Edited(edited.mapping, {**edited.patches, **{t: session.made[t] for t in wrong}}, repairs)


def _with_source(mapping: TensorMapping, entry: str, mended: TensorMapping) -> TensorMapping:
    """The sources of an entry as a mended mapping has them: a repair may exchange or reorder them."""
    source = mended.source(entry)
    if source == mapping.source(entry):
        return mapping
    mapping = mapping.with_source(entry, source)
    for name in [source] if isinstance(source, str) else source:
        mapping = mapping.without_ignored(name)
    return mapping


def _with(session: Session, edited: Edited, mapping: TensorMapping, repairs: tuple[Repair, ...]) -> Edited:
    made = made_by(session, mapping, {repair.entry for repair in repairs})
    return Edited(mapping, {**edited.patches, **{t: np.asarray(v) for t, v in made.items()}}, repairs)
