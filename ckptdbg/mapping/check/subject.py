"""A mapping and the tensors of both sides, bound as far as they fit: one error does not hide the others."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.documents import line_of, parse_yaml
from ckptdbg.errors import MappingError
from ckptdbg.mapping.bind import Expansion, Tensors
from ckptdbg.mapping.bound import BoundMapping
from ckptdbg.mapping.check.records import Remark
from ckptdbg.mapping.entry import BoundEntry
from ckptdbg.mapping.expressions import Scope
from ckptdbg.mapping.file import Mapping as MappingFile
from ckptdbg.mapping.parse import Entry
from ckptdbg.mapping.templates import pieces

NUMBER = re.compile(r"\d+")
LISTED = 3  # instances named in a remark; the rest is counted


@dataclass(frozen=True)
class Subject:
    """What the checks look at. Made by ``read_subject``."""

    mapping: MappingFile
    source: Tensors
    target: Tensors
    scope: Scope
    instances: tuple[BoundEntry, ...]
    """Those whose tensors are there, whatever their shapes."""
    fitting: tuple[BoundEntry, ...]
    """Those of them that make exactly the shapes that the target has."""
    errors: tuple[Remark, ...]
    """Why the others are not among them."""

    @cached_property
    def bound(self) -> BoundMapping:
        """All instances."""
        return BoundMapping(self.instances, self.mapping.file)

    @cached_property
    def examples(self) -> tuple[BoundEntry, ...]:
        """The first fitting instance of every entry."""
        first: dict[str, BoundEntry] = {}
        for bound in self.fitting:
            first.setdefault(bound.name, bound)
        return tuple(first.values())

    def claimed(self, side: str) -> Callable[[str], bool]:
        """Whether an entry that could not be bound names a tensor: it is then not forgotten, and the error is said."""
        broken = {remark.entry for remark in self.errors}
        entries = [entry for entry in self.mapping.entries if entry.name in broken]
        templates = [t for entry in entries for t in (entry.sources if side == "source" else entry.targets)]
        patterns = [re.compile(r"\d+".join(map(re.escape, pieces(t.text)[::2]))) for t in templates]
        return lambda name: any(pattern.fullmatch(name) for pattern in patterns)

    @cached_property
    def document(self) -> Any:
        """The YAML, whose nodes know their lines."""
        return parse_yaml(self.mapping.text, self.mapping.file, MappingError)

    def line(self, *path: str | int) -> str:
        """file:line of a node: ``line("ignore", "source", 2)``."""
        node = self.document
        for key in path[:-1]:
            node = node[key]
        return f"{self.mapping.file}:{line_of(node, path[-1])}"


def read_subject(
    mapping: MappingFile, config: Mapping[str, Any], source: Mapping[str, TensorSpec], target: Mapping[str, TensorSpec]
) -> Subject:
    """Bind every entry by itself."""
    sides = Tensors("source", source, mapping.ignore.source), Tensors("target", target, mapping.ignore.target)
    scope, errors = _scope(mapping, config)
    declared = frozenset(variable.name for variable in mapping.variables)
    instances, fitting = [], []
    for entry in mapping.entries:
        made, wrong = _attempts(entry, _makers(entry, Expansion(entry, scope, declared, *sides)))
        instances += made
        misfits = []
        for bound in made:
            try:
                bound.check()
                fitting.append(bound)
            except MappingError as cause:
                misfits.append(Remark.of(cause, "binding", entry.name, entry.where))
        errors += [*alike(wrong), *alike(misfits)]
    return Subject(mapping, *sides, scope, tuple(instances), tuple(fitting), tuple(errors))


def _scope(mapping: MappingFile, config: Mapping[str, Any]) -> tuple[Scope, list[Remark]]:
    """Every variable that has a value, and those that have none."""
    scope, errors = Scope({}, config), []
    for variable in mapping.variables:
        try:
            scope = scope.with_values({variable.name: variable.value(scope)})
        except MappingError as cause:
            errors.append(Remark.of(cause, "variables", None, variable.where))
    return scope, errors


Maker = Callable[[], BoundEntry]


def _makers(entry: Entry, expansion: Expansion) -> list[Maker]:
    try:
        return expansion.each()
    except MappingError as cause:
        return [_raiser(cause)]


def _raiser(cause: MappingError) -> Maker:
    def fail() -> BoundEntry:
        raise cause

    return fail


def _attempts(entry: Entry, makers: list[Maker]) -> tuple[list[BoundEntry], list[Remark]]:
    made, wrong = [], []
    for make in makers:
        try:
            made.append(make())
        except MappingError as cause:
            wrong.append(Remark.of(cause, "binding", entry.name, entry.where))
    return made, wrong


def alike(remarks: Iterable[Remark]) -> list[Remark]:
    """One for all that are found in one place and differ in numbers only."""
    groups: dict[tuple[str, str], list[Remark]] = {}
    for remark in remarks:
        groups.setdefault((remark.where, NUMBER.sub("0", remark.found)), []).append(remark)
    return [_counted(group[0], len(group) - 1) for group in groups.values()]


def _counted(remark: Remark, more: int) -> Remark:
    return remark.model_copy(update={"found": f"{remark.found} (and {more} more like it)"}) if more else remark
