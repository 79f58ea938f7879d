"""A mapping as it is written: read, checked, changed, written back."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping as Dict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from glob import escape
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ruamel.yaml.comments import CommentedMap

from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.documents import dump_yaml, line_of, lists_in_line, parse_yaml, plain, read_text
from ckptdbg.errors import MappingError
from ckptdbg.mapping.bind import bind
from ckptdbg.mapping.bound import BoundMapping
from ckptdbg.mapping.edit import replace_ops
from ckptdbg.mapping.expressions import Scope, near
from ckptdbg.mapping.ops import Make
from ckptdbg.mapping.parse import Entry, Variable, check_keys, parse_entry, parse_variable

KEYS = ("version", "variables", "entries", "ignore")


@dataclass(frozen=True)
class Ignore:
    """Globs of tensor names that no entry needs to mention."""

    source: tuple[str, ...] = ()
    target: tuple[str, ...] = ()


@dataclass(frozen=True)
class Mapping:
    """How a source checkpoint becomes a target checkpoint. Made by ``load``, ``loads`` or ``from_dict``."""

    file: str
    text: str
    """The YAML it was read from."""
    variables: tuple[Variable, ...]
    entries: tuple[Entry, ...]
    ignore: Ignore
    functions: Dict[str, Make] = field(default_factory=dict, compare=False)
    """What runs the functions of opaque ops, by name: empty unless the user has asked for them."""

    @classmethod
    def load(cls, path: str | Path) -> Mapping:
        """Read and check a mapping file; ``MappingError`` with file:line where it is not one."""
        return cls.loads(read_text(Path(path), MappingError), file=str(path))

    @classmethod
    def from_dict(cls, data: dict[str, Any], file: str = "<mapping>") -> Mapping:
        """The same from a dict; lines count in the YAML it would be written as."""
        return cls.loads(dump_yaml(data), file=file)

    @classmethod
    def loads(cls, text: str, file: str = "<mapping>") -> Mapping:
        """The same from YAML text."""
        document = parse_yaml(text, file, MappingError)
        check_keys(document, KEYS, "a mapping", file)
        if document.get("version") != 1:
            where = f"{file}:{line_of(document, 'version')}"
            raise MappingError("unknown version", where=where, found=plain(document.get("version")), expected=1)
        nodes = document.get("entries")
        if not isinstance(nodes, list) or not nodes:
            raise MappingError("a mapping without entries", where=f"{file}:{line_of(document, 'entries')}")
        entries = _unique([parse_entry(node, file, line_of(nodes, i)) for i, node in enumerate(nodes)])
        return cls(file, text, _variables(document, file), entries, _ignore(document, file))

    def with_functions(self, functions: Dict[str, Make]) -> Mapping:
        """The mapping with functions that its opaque ops may run, by the name under which they stand there."""
        return dataclasses.replace(self, functions={**self.functions, **functions})

    def scope(self, config: Dict[str, Any] | None) -> Scope:
        """Every variable with its number; ``MappingError`` where one has none."""
        scope = Scope({}, config or {})
        for variable in self.variables:
            scope = scope.with_values({variable.name: variable.value(scope)})
        return scope

    def sizes(self, config: Dict[str, Any] | None) -> dict[str, int]:
        """Whole numbers above 1 that variables and config name, the variables first: what a size in a repair may be,
        or a factor come from."""
        scope = self.scope(config)
        found = {name: scope.find(name) for name in scope.names()}
        return {n: v for n, v in found.items() if isinstance(v, int) and not isinstance(v, bool) and v > 1}

    def bind(
        self, config: Dict[str, Any] | None, source: Dict[str, TensorSpec], target: Dict[str, TensorSpec]
    ) -> BoundMapping:
        """Every entry with its tensors and numbers, complete and of the right shapes; ``MappingError`` where not."""
        return self._bind(config, source, target, as_made=False)

    def bind_as_made(
        self,
        config: Dict[str, Any] | None,
        source: Dict[str, TensorSpec],
        target: Dict[str, TensorSpec] = MappingProxyType({}),
    ) -> BoundMapping:
        """The same for a target that is still to be made, or whose tensors are to be counted: the shapes are those that
        the ops make. The dtype is that of ``target`` where it has the tensor, else of the last ``cast``, else the
        source's. ``MappingError`` where the entries do not fit the source."""
        return self._bind(config, source, target, as_made=True)

    def _bind(
        self, config: Dict[str, Any] | None, source: Dict[str, TensorSpec], target: Dict[str, TensorSpec], as_made: bool
    ) -> BoundMapping:
        names = {variable.name for variable in self.variables}
        ignored = self.ignore.source, self.ignore.target
        bound = bind(self.entries, self.scope(config), names, source, target, *ignored, self.file, as_made)
        entries = tuple(entry.with_functions(self.functions) for entry in bound.entries)
        return dataclasses.replace(bound, entries=entries)

    def ops(self, name: str) -> list[Any]:
        """The ops of the entry of this name, as they stand in the file (dicts, or text for an op without keys)."""
        return plain(self._node(self._document, name).get("ops")) or []

    def with_ops(self, name: str, ops: Sequence[Any]) -> Mapping:
        """The mapping with other ops in one entry; the rest of the text stays. Write ``Mapping.text`` to a file."""
        document = parse_yaml(self.text, self.file, MappingError)
        return self._reread(replace_ops(self.text, document, self._node(document, name), ops))

    def source(self, name: str) -> Any:
        """The source of the entry of this name, as it stands in the file: text or a list of texts."""
        return plain(self._node(self._document, name)["source"])

    def with_source(self, name: str, source: Any) -> Mapping:
        """The mapping with another source (text or a list) in one entry; comments and order stay."""
        document = parse_yaml(self.text, self.file, MappingError)
        self._node(document, name)["source"] = source
        return self._reread(dump_yaml(document, like=self.text))

    def with_range(self, name: str, placeholder: str, values: Sequence[int]) -> Mapping:
        """The mapping with other values for one placeholder of an entry, in this order."""
        document = parse_yaml(self.text, self.file, MappingError)
        node, span = self._node(document, name), list(range(values[0], values[-1] + 1))
        ranges = {**plain(node.get("for") or {}), placeholder: list(values)}
        if list(values) == span:
            ranges[placeholder] = f"{values[0]} .. {values[-1] + 1}"
        node["for"] = lists_in_line(ranges)
        return Mapping.loads(dump_yaml(document, like=self.text), self.file)

    def without_ignored(self, name: str) -> Mapping:
        """The mapping without this source tensor under ``ignore``."""
        document = parse_yaml(self.text, self.file, MappingError)
        ignored = (document.get("ignore") or {}).get("source") or []
        for i in reversed([i for i, glob in enumerate(ignored) if str(glob) in (name, escape(name))]):
            del ignored[i]
        return self._reread(dump_yaml(document, like=self.text))

    @cached_property
    def _document(self) -> CommentedMap:
        """To be read only: a search asks for every entry by itself."""
        return parse_yaml(self.text, self.file, MappingError)

    def _reread(self, text: str) -> Mapping:
        return Mapping.loads(text, self.file).with_functions(self.functions)

    def _node(self, document: Any, name: str) -> Any:
        for entry, node in zip(self.entries, document["entries"], strict=True):
            if entry.name == name:
                return node
        hint = near(name, [entry.name for entry in self.entries]) or None
        raise MappingError(f"no entry {name}", where=self.file, hint=hint)


def _variables(document: Any, file: str) -> tuple[Variable, ...]:
    nodes = document.get("variables") or {}
    if not isinstance(nodes, dict):
        raise MappingError("variables is not a mapping", where=f"{file}:{line_of(document, 'variables')}")
    return tuple(parse_variable(str(key), value, f"{file}:{line_of(nodes, key)}") for key, value in nodes.items())


def _ignore(document: Any, file: str) -> Ignore:
    node, where = document.get("ignore") or {}, f"{file}:{line_of(document, 'ignore')}"
    if not isinstance(node, dict):
        raise MappingError("ignore is not a mapping", where=where, expected="{source: [globs], target: [globs]}")
    check_keys(node, ("source", "target"), "ignore", file)
    globs = {key: plain(value) or [] for key, value in node.items()}
    for key, value in globs.items():
        if not isinstance(value, list):
            raise MappingError(f"ignore {key} is not a list", where=f"{file}:{line_of(node, key)}", found=repr(value))
    return Ignore(**{key: tuple(map(str, value)) for key, value in globs.items()})


def _unique(entries: list[Entry]) -> tuple[Entry, ...]:
    """Entries whose names differ: reports tell entries apart by name."""
    seen: dict[str, Entry] = {}
    counts: Counter[str] = Counter()
    for entry in entries:
        counts[entry.name] += 1
        name = entry.name if counts[entry.name] == 1 else f"{entry.name}#{counts[entry.name]}"
        seen[name] = dataclasses.replace(entry, name=name)
    return tuple(seen.values())
