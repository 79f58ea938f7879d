"""All checks, one after another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.mapping.check.axes import mixed_axes, square_matrices
from ckptdbg.mapping.check.coverage import made_twice, unaccounted
from ckptdbg.mapping.check.ignored import ignored
from ckptdbg.mapping.check.layers import missing_layers
from ckptdbg.mapping.check.norms import uneven_norms
from ckptdbg.mapping.check.order import text_order
from ckptdbg.mapping.check.records import Checked, Remark
from ckptdbg.mapping.check.round_trip import round_trip
from ckptdbg.mapping.check.subject import Subject, read_subject
from ckptdbg.mapping.check.unused import idle_ops, unused_variables
from ckptdbg.mapping.file import Mapping as MappingFile

Check = Callable[[Subject], Iterable[Remark]]
CHECKS: tuple[Check, ...] = (
    unaccounted,
    made_twice,
    ignored,
    missing_layers,
    text_order,
    mixed_axes,
    square_matrices,
    uneven_norms,
    idle_ops,
    unused_variables,
    round_trip,
)


def check_mapping(
    mapping: MappingFile,
    config: Mapping[str, Any],
    source: Mapping[str, TensorSpec],
    target: Mapping[str, TensorSpec],
    more: Iterable[Remark] = (),
    names: tuple[str, str] = ("source", "target"),
) -> Checked:
    """Look over a mapping between tensors of these names and shapes; no weights are read.

    ``config`` is the source's ``config.json``. ``more`` are remarks from elsewhere, and ``names`` say to people what
    the two sides are. Nothing in the mapping raises: what ``bind`` would stop at is an error among others.
    """
    subject = read_subject(mapping, config, source, target)
    found = [*subject.errors, *(remark for check in CHECKS for remark in check(subject)), *more]
    found.sort(key=lambda remark: (remark.level != "error", _line(remark)))
    return Checked(
        mapping=mapping.file,
        source=names[0],
        target=names[1],
        entries=len(mapping.entries),
        remarks=tuple(found),
    )


def _line(remark: Remark) -> int:
    number = remark.where.rpartition(":")[2]
    return int(number) if number.isdigit() else 0
