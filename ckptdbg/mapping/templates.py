"""Tensor names with placeholders: ``model.layers.{layer}.mlp.weight``, ``model.layers.{6*block + inner}.weight``.

A brace that is part of a name is written twice: ``a{{0}}`` is the tensor ``a{0}``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from ckptdbg.errors import MappingError
from ckptdbg.mapping.expressions import Expression, Number, Scope, UnknownName, whole

_PIECE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")
NUMBER = r"(?:0|[1-9][0-9]*)"  # "03" is a name, not a number: it would come back as "3"


def pieces(text: str) -> list[str]:
    """Literal text, and what the placeholders hold, alternating, literal first."""
    found, end = [""], 0
    for piece in _PIECE.finditer(text):
        found[-1] += text[end : piece.start()]
        if piece[1] is None:
            found[-1] += piece[0][0]
        else:
            found += [piece[1], ""]
        end = piece.end()
    found[-1] += text[end:]
    return found


def literal(name: str) -> str:
    """A tensor's name as a template that stands for it alone."""
    return name.replace("{", "{{").replace("}", "}}")


@dataclass(frozen=True)
class Template:
    """A tensor name that stands for many. ``text`` is as written, ``where`` the file:line."""

    text: str
    where: str

    def __post_init__(self) -> None:
        if not self.text or re.search(r"[{}]", _PIECE.sub("", self.text)):
            raise MappingError(
                f"not a tensor name: {self.text!r}",
                where=self.where,
                expected="a name with placeholders such as {layer}; a brace of the name itself is written twice",
            )
        _ = self.parts

    @cached_property
    def parts(self) -> tuple[str | Expression, ...]:
        """Literal text and expressions, alternating, literal first."""
        return tuple(Expression(p, self.where) if i % 2 else p for i, p in enumerate(pieces(self.text)))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names used in braces, in order of appearance."""
        found: dict[str, None] = {}
        for part in self.parts:
            if isinstance(part, Expression):
                found.update(dict.fromkeys(sorted(part.names, key=part.text.find)))
        return tuple(found)

    def numbers(self, scope: Scope) -> tuple[int, ...]:
        """What each pair of braces holds."""
        found = (p.value(scope) for p in self.parts if isinstance(p, Expression))
        return tuple(whole(number, f"the index in {self.text}", self.where) for number in found)

    def fill(self, scope: Scope) -> str:
        """The name of one tensor."""
        numbers = iter(self.numbers(scope))
        return "".join(str(next(numbers)) if isinstance(p, Expression) else p for p in self.parts)

    def matches(self, names: Iterable[str], scope: Scope) -> list[dict[str, Number]] | None:
        """Values of the placeholders that ``scope`` leaves open, one dict per name that fits.

        None where names cannot tell them: an open placeholder occurs inside an expression only.
        """
        pattern, seen, unsolved = "", set(), set()
        for part in self.parts:
            if not isinstance(part, Expression):
                pattern += re.escape(part)
                continue
            try:
                pattern += re.escape(str(whole(part.try_value(scope), "an index", self.where)))
            except UnknownName:
                name = part.text.strip()
                if "." in name:  # a path, and placeholders are plain names
                    part.value(scope)
                if name not in part.names:
                    unsolved |= {n for n in part.names if n not in scope.values}
                    pattern += NUMBER
                elif name in seen:
                    pattern += f"(?P={name})"
                else:
                    seen.add(name)
                    pattern += f"(?P<{name}>{NUMBER})"
        if unsolved - seen:
            return None
        prefix = self.parts[0] if isinstance(self.parts[0], str) else ""
        search = re.compile(pattern).fullmatch
        found = (search(name) for name in names if name.startswith(prefix))
        return [{key: int(value) for key, value in match.groupdict().items()} for match in found if match]
