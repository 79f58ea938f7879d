"""Arithmetic in mapping files: ``+ - * / // % **``, parentheses, numbers and names. Nothing is ever executed."""

from __future__ import annotations

import ast
import difflib
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ckptdbg.errors import MappingError

Number = int | float

BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {ast.USub: operator.neg, ast.UAdd: operator.pos}
LARGEST_EXPONENT = 64  # shapes and scales need less; more could build a number that fills the memory


class UnknownName(LookupError):
    """A name that has no value, or the value null."""


def near(name: str, names: Iterable[str], count: int = 3) -> str:
    """A hint that lists the names most like ``name``; empty where none is."""
    found = difflib.get_close_matches(name, list(names), n=count, cutoff=0.6)
    return f"did you mean {', '.join(found)}?" if found else ""


@dataclass(frozen=True)
class Scope:
    """What names stand for: placeholders and variables first, then dotted paths into the source's config."""

    values: Mapping[str, Number] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)

    def with_values(self, values: Mapping[str, Number]) -> Scope:
        """The same scope with more (or other) values."""
        return Scope({**self.values, **values}, self.config)

    def find(self, name: str) -> Any:
        """The value of a name; ``UnknownName`` where it is missing or null."""
        if name in self.values:
            return self.values[name]
        node: Any = self.config
        for part in name.split("."):
            if not isinstance(node, Mapping) or node.get(part) is None:
                raise UnknownName(name)
            node = node[part]
        return node

    def names(self) -> list[str]:
        """Every name that has a number as value."""

        def walk(node: Mapping[str, Any], prefix: str) -> list[str]:
            found = []
            for key, value in node.items():
                if isinstance(value, Mapping):
                    found += walk(value, f"{prefix}{key}.")
                elif isinstance(value, int | float) and not isinstance(value, bool):
                    found.append(f"{prefix}{key}")
            return found

        return [*self.values, *walk(self.config, "")]


@dataclass(frozen=True)
class Expression:
    """One arithmetic expression and the place where it is written (file:line)."""

    text: str
    where: str

    def __post_init__(self) -> None:
        self._check(self.tree)

    @cached_property
    def tree(self) -> ast.expr:
        try:
            return ast.parse(self.text.strip(), mode="eval").body
        except (SyntaxError, ValueError) as cause:
            raise self._error("not an expression") from cause

    @cached_property
    def names(self) -> frozenset[str]:
        """Names the expression depends on, dotted paths as one name."""
        found: set[str] = set()

        def visit(node: ast.AST) -> None:
            if isinstance(node, ast.Name | ast.Attribute):
                found.add(dotted(node))
                return
            for child in ast.iter_child_nodes(node):
                visit(child)

        visit(self.tree)
        return frozenset(found)

    def value(self, scope: Scope) -> Number:
        """The number; ``MappingError`` where a name is unknown or the arithmetic fails."""
        try:
            return self.try_value(scope)
        except UnknownName as cause:
            name = str(cause.args[0])
            problem = f"unknown variable {name} in {self.text!r}"
            hint = near(name, scope.names()) or "declare it under variables, or check the source's config"
            raise MappingError(problem, where=self.where, hint=hint) from None

    def try_value(self, scope: Scope) -> Number:
        """The number; ``UnknownName`` where a name is missing, ``MappingError`` where the arithmetic fails."""
        try:
            return self._evaluate(self.tree, scope)
        except ZeroDivisionError as cause:
            raise self._error("division by zero") from cause
        except OverflowError as cause:
            raise self._error("a number too large") from cause

    def _evaluate(self, node: ast.expr, scope: Scope) -> Number:
        if isinstance(node, ast.Constant):
            return node.value  # type: ignore[return-value]  # _check let numbers through only
        if isinstance(node, ast.UnaryOp):
            return UNARY[type(node.op)](self._evaluate(node.operand, scope))
        if isinstance(node, ast.BinOp):
            left, right = self._evaluate(node.left, scope), self._evaluate(node.right, scope)
            if isinstance(node.op, ast.Pow) and abs(right) > LARGEST_EXPONENT:
                raise self._error(f"an exponent over {LARGEST_EXPONENT}")
            result = BINARY[type(node.op)](left, right)
            if isinstance(result, complex):
                raise self._error("a root of a negative number")
            return result
        value = scope.find(dotted(node))
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise MappingError(
                f"{dotted(node)} in {self.text!r} is not a number",
                where=self.where,
                found=repr(value),
                expected="a number",
            )
        return value

    def _check(self, node: ast.expr) -> None:
        if isinstance(node, ast.BinOp) and type(node.op) in BINARY:
            self._check(node.left)
            self._check(node.right)
        elif isinstance(node, ast.UnaryOp) and type(node.op) in UNARY:
            self._check(node.operand)
        elif not (is_name(node) or (isinstance(node, ast.Constant) and type(node.value) in (int, float))):
            raise self._error("not arithmetic")

    def _error(self, problem: str) -> MappingError:
        expected = "numbers, names, + - * / // % ** and parentheses"
        return MappingError(f"{problem}: {self.text!r}", where=self.where, expected=expected)


def is_name(node: ast.AST) -> bool:
    """Whether the node is a name or a dotted path."""
    return isinstance(node, ast.Name) or (isinstance(node, ast.Attribute) and is_name(node.value))


def dotted(node: ast.AST) -> str:
    """``text_config.hidden_size`` from its syntax tree."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def whole(number: Number, what: str, where: str) -> int:
    """The number as an int; ``MappingError`` where it is not whole."""
    if int(number) != number:
        raise MappingError(f"{what} must be a whole number", where=where, found=number)
    return int(number)
