"""Whether a mapping speaks of a checkpoint's names or of those that its tensors have once they are loaded."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Literal

from ckptdbg.errors import MappingError
from ckptdbg.mapping.file import Mapping
from ckptdbg.mapping.templates import Template, numbered

Which = Literal["source", "target"]


def names_in_memory(
    mapping: Mapping, side: Which, disk: Collection[str], memory: Collection[str], tied: Collection[str]
) -> list[str] | None:
    """The names in memory, where the mapping speaks of any that are not on disk as well; None where it does not.

    Of ``tied`` ones, which are other names of tensors in ``memory``, only those that the mapping speaks of. Raises
    MappingError where it speaks of names that are on disk alone too.
    """
    used = {name: template for template in _templates(mapping, side) for name in _fitting(template, [*disk, *memory])}
    loaded = [name for name in used if name not in disk]
    if not loaded:
        return None
    stored = [name for name in used if name not in memory]
    if stored:
        raise MappingError(
            f"the mapping mixes names of the {side} on disk with names in memory",
            where=used[loaded[0]].where,
            found=f"{loaded[0]}, in memory alone, and {stored[0]} ({used[stored[0]].where}), on disk alone",
            hint="write all of it for one of the two",
        )
    return [name for name in memory if name not in tied or name in used]


def speaks_of_others(mapping: Mapping, side: Which, names: Collection[str]) -> bool:
    """Whether some name in the mapping fits none of ``names``."""
    return any(not _fitting(template, names) for template in _templates(mapping, side))


def _templates(mapping: Mapping, side: Which) -> Iterator[Template]:
    for entry in mapping.entries:
        yield from entry.sources if side == "source" else entry.targets


def _fitting(template: Template, names: Collection[str]) -> list[str]:
    """Whatever the placeholders stand for, they stand for numbers."""
    pattern = numbered(template.text)
    return [name for name in names if pattern.fullmatch(name)]
