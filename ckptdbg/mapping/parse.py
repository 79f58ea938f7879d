"""From a mapping file's nodes to entries with expressions: checked as far as it goes without tensors or config."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ckptdbg.documents import line_of, plain
from ckptdbg.errors import MappingError
from ckptdbg.mapping.expressions import Expression, Number, Scope, near, whole
from ckptdbg.mapping.ops import REGISTRY, Of, Op, OpError, one_line
from ckptdbg.mapping.templates import Template, pieces

ENTRY_KEYS = ("name", "source", "target", "ops", "for", "stack")


@dataclass(frozen=True)
class OpTemplate:
    """One op as written: its fields are words, expressions, or tuples of expressions."""

    cls: type[Op]
    fields: dict[str, Any]
    written: str
    where: str
    of: tuple[Expression, ...] | None = None
    """Which of several arrays it is for; None for all of them together."""

    def bind(self, scope: Scope, targets: int) -> Op:
        """The op with numbers. ``targets`` is how many the entry has: the default number of parts of a split."""
        values = {key: self._number(key, value, scope) for key, value in self.fields.items()}
        try:
            op = self.cls.build(values, targets)
        except OpError as cause:
            raise MappingError(f"{self.cls.kind} {cause}", where=self.where) from cause
        if self.of is not None:
            op = Of(op, tuple(whole(i.value(scope), f"of in {self.cls.kind}", self.where) for i in self.of))
        return dataclasses.replace(op, where=self.where, written=self.written)

    def _number(self, key: str, value: Any, scope: Scope) -> Any:
        if isinstance(value, tuple):
            return tuple(self._number(key, item, scope) for item in value)
        if not isinstance(value, Expression):
            return value
        number = value.value(scope)
        return number if key in self.cls.reals else whole(number, f"{key} of {self.cls.kind}", self.where)


@dataclass(frozen=True)
class Range:
    """The values that one placeholder takes: ``a .. b`` (b not included) or a list."""

    name: str
    ends: tuple[Expression, Expression] | None
    items: tuple[Expression, ...]
    where: str

    def values(self, scope: Scope) -> list[int]:
        """In the order written; ``MappingError`` where there are none."""
        if self.ends is None:
            found = [whole(item.value(scope), f"{self.name} in for", self.where) for item in self.items]
        else:
            start, stop = (whole(end.value(scope), f"{self.name} in for", self.where) for end in self.ends)
            found = list(range(start, stop))
        if not found:
            raise MappingError(
                f"for {self.name} takes no value", where=self.where, hint="the end must be above the start"
            )
        return found


@dataclass(frozen=True)
class StackTemplate:
    """``{over: name, axis: n}``: one axis of the finished tensor runs over a placeholder."""

    over: str
    axis: Expression
    where: str


@dataclass(frozen=True)
class Entry:
    """How source tensors become target tensors, for every value of the placeholders."""

    name: str
    file: str
    line: int
    sources: tuple[Template, ...]
    targets: tuple[Template, ...]
    ops: tuple[OpTemplate, ...]
    ranges: tuple[Range, ...]
    stacks: tuple[StackTemplate, ...]

    @property
    def where(self) -> str:
        """file:line"""
        return f"{self.file}:{self.line}"


def parse_entry(node: Any, file: str, line: int) -> Entry:
    """One item of ``entries``."""
    where = f"{file}:{line}"
    if not isinstance(node, dict):
        raise MappingError("not an entry", where=where, found=repr(plain(node)), expected="keys source and target")
    check_keys(node, ENTRY_KEYS, "an entry", file)
    for key in ("source", "target"):
        if not node.get(key):
            raise MappingError(
                f"an entry without {key}", where=where, hint=f"add {key}: a tensor name or a list of them"
            )
    targets = _templates(node, "target", file)
    return Entry(
        name=str(node.get("name") or derived_name(targets[0].text)),
        file=file,
        line=line,
        sources=_templates(node, "source", file),
        targets=targets,
        ops=tuple(
            parse_op(op, f"{file}:{_item_line(node, 'ops', i)}") for i, op in enumerate(_items(node, "ops", file))
        ),
        ranges=_ranges(node, file),
        stacks=_stacks(node, file),
    )


def derived_name(target: str) -> str:
    """A name for an entry from its target: ``decoder/layers_{layer}/mlp/wi`` is ``decoder.layers.mlp.wi``."""
    parts = (part.strip("_") for part in re.split(r"[./]", "".join(pieces(target)[::2])))
    return ".".join(part for part in parts if part) or target


def parse_op(node: Any, where: str) -> OpTemplate:
    """One item of ``ops``: ``{kind: main value, other keys}``, ``{kind: {keys}}`` or just ``kind``."""
    data = plain(node)
    data = {data: None} if isinstance(data, str) else data
    if not isinstance(data, dict) or not data:
        raise MappingError("not an op", where=where, found=repr(data), expected="a key such as rearrange")
    kind = next((key for key in data if key in REGISTRY), None)
    if kind is None:
        first = next(iter(data))
        hint = near(first, REGISTRY) or f"the ops are {', '.join(sorted(REGISTRY))}"
        raise MappingError(f"unknown op {first}", where=where, hint=hint)
    cls, value = REGISTRY[kind], data.pop(kind)
    of = _indices(data.pop("of"), cls, where) if "of" in data else None
    fields = {**value, **data} if isinstance(value, dict) else {**({} if value is None else {cls.main: value}), **data}
    _check_fields(cls, fields, where)
    parsed = {key: item if key in cls.words else _expressions(item, where) for key, item in fields.items()}
    return OpTemplate(cls, parsed, one_line(plain(node)), where, of)


def _indices(value: Any, cls: type[Op], where: str) -> tuple[Expression, ...]:
    if not isinstance(value, list) or not value:
        problem = f"of in {cls.kind} is no list"
        raise MappingError(problem, where=where, found=repr(value), expected="which sources it is for, such as [0, 1]")
    return _expressions(value, where)


def _check_fields(cls: type[Op], fields: dict[str, Any], where: str) -> None:
    if missing := sorted(cls.required - fields.keys()):
        raise MappingError(f"{cls.kind} without {missing[0]}", where=where, hint=f"write {cls.kind}: <{missing[0]}>")
    for key in cls.words & fields.keys():
        if not isinstance(fields[key], str):
            raise MappingError(f"{key} of {cls.kind} is not text", where=where, found=repr(fields[key]))
    try:
        known = cls.keys(fields)
    except OpError as cause:
        raise MappingError(f"{cls.kind} {cause}", where=where) from cause
    for key, value in fields.items():
        if key not in known:
            hint = near(key, known) or f"it takes {', '.join(sorted(known))}"
            raise MappingError(f"{cls.kind} has no key {key}", where=where, hint=hint)
        if key not in cls.either and isinstance(value, list) != (key in cls.lists):
            expected = "a list" if key in cls.lists else "one value"
            raise MappingError(
                f"{key} of {cls.kind} has the wrong form", where=where, found=repr(value), expected=expected
            )


def _expressions(value: Any, where: str) -> Any:
    if isinstance(value, list):
        return tuple(_expressions(item, where) for item in value)
    if value is None or isinstance(value, bool | dict):
        raise MappingError("not a number or expression", where=where, found=repr(value))
    return Expression(str(value), where)


def check_keys(node: dict[str, Any], known: Sequence[str], what: str, file: str) -> None:
    """``MappingError`` at the first key that nobody reads."""
    for key in node:
        if key not in known:
            hint = near(str(key), known) or f"it takes {', '.join(known)}"
            raise MappingError(f"{what} has no key {key}", where=f"{file}:{line_of(node, key)}", hint=hint)


def _items(node: dict[str, Any], key: str, file: str) -> list[Any]:
    value = node.get(key)
    if value is not None and not isinstance(value, list):
        raise MappingError(f"{key} is not a list", where=f"{file}:{line_of(node, key)}", found=repr(plain(value)))
    return value or []


def _item_line(node: dict[str, Any], key: str, index: int) -> int:
    return line_of(node[key], index)


def _templates(node: dict[str, Any], key: str, file: str) -> tuple[Template, ...]:
    value = node[key]
    if isinstance(value, list):
        return tuple(Template(str(item), f"{file}:{line_of(value, i)}") for i, item in enumerate(value))
    return (Template(str(value), f"{file}:{line_of(node, key)}"),)


def _ranges(node: dict[str, Any], file: str) -> tuple[Range, ...]:
    value, where = node.get("for") or {}, f"{file}:{line_of(node, 'for')}"
    if not isinstance(value, dict):
        raise MappingError("for is not a mapping", where=where, found=repr(plain(value)), expected="{name: 0 .. 6}")
    found = []
    for name, span in value.items():
        where = f"{file}:{line_of(value, name)}"
        if isinstance(span, list):
            found.append(Range(name, None, tuple(Expression(str(item), where) for item in span), where))
            continue
        ends = str(span).split("..")
        if len(ends) != 2:
            raise MappingError(f"not a range: {span!r}", where=where, expected='"0 .. 6" or a list')
        found.append(Range(name, (Expression(ends[0], where), Expression(ends[1], where)), (), where))
    return tuple(found)


def _stacks(node: dict[str, Any], file: str) -> tuple[StackTemplate, ...]:
    found = []
    for i, item in enumerate(_items(node, "stack", file)):
        where = f"{file}:{_item_line(node, 'stack', i)}"
        if not isinstance(item, dict) or set(item) != {"over", "axis"}:
            raise MappingError("not a stack", where=where, found=repr(plain(item)), expected="{over: name, axis: 0}")
        found.append(StackTemplate(str(item["over"]), Expression(str(item["axis"]), where), where))
    return tuple(found)


@dataclass(frozen=True)
class Variable:
    """A name for the first of some expressions over the config that has a value."""

    name: str
    alternatives: tuple[Expression, ...]
    where: str

    def value(self, scope: Scope) -> Number:
        """``MappingError`` where no alternative has a value."""
        missing = []
        for expression in self.alternatives:
            try:
                return expression.try_value(scope)
            except LookupError as cause:
                missing.append(str(cause.args[0]))
        hint = near(missing[0], scope.names()) or ("" if scope.config else "the source has no config")
        found = f"none of {', '.join(dict.fromkeys(missing))} in the source's config"
        raise MappingError(f"variable {self.name} has no value", where=self.where, found=found, hint=hint or None)


def parse_variable(name: str, value: Any, where: str) -> Variable:
    """One line of ``variables``."""
    if value is None or isinstance(value, bool | dict | list):
        raise MappingError(f"variable {name} is not an expression", where=where, found=repr(plain(value)))
    return Variable(name, tuple(Expression(part, where) for part in str(value).split("|")), where)
