"""What ``ignore`` hides: nothing at all, or matrices."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fnmatch import fnmatchcase

from ckptdbg.mapping.bind import Tensors
from ckptdbg.mapping.check.records import Remark
from ckptdbg.mapping.check.subject import LISTED, Subject


def ignored(subject: Subject) -> Iterator[Remark]:
    """A remark per glob that matches nothing, is a whole side, or hides matrices."""
    for tensors in (subject.source, subject.target):
        for i, glob in enumerate(tensors.ignored):
            hidden = [name for name in tensors.all if fnmatchcase(name, glob)]
            where = subject.line("ignore", tensors.side, i)
            if not hidden:
                found = f"ignore.{tensors.side}: {glob} matches no tensor"
                advice = "leave it out, unless other checkpoints of the family have such tensors"
                yield Remark(level="note", topic="ignore", where=where, found=found, advice=advice)
                continue
            matrices = [name for name in hidden if sum(size > 1 for size in tensors.all[name].shape) > 1]
            if matrices:
                yield _hiding(tensors, glob, matrices, where)


def _hiding(tensors: Tensors, glob: str, matrices: list[str], where: str) -> Remark:
    total = sum(math.prod(spec.shape) for spec in tensors.all.values())
    share = sum(math.prod(tensors.all[name].shape) for name in matrices) / total
    most = sorted(matrices, key=lambda name: -math.prod(tensors.all[name].shape))
    listed = ", ".join(f"{name} {tensors.all[name].shape}" for name in most[:LISTED])
    more = f" and {len(most) - LISTED} more" if len(most) > LISTED else ""
    return Remark(
        level="note",
        topic="ignore",
        where=where,
        found=f"ignore.{tensors.side}: {glob} hides {share:.2%} of the {tensors.side}'s elements: {listed}{more}",
        advice="a matrix that is ignored is not converted: be sure that nothing needs it",
    )
