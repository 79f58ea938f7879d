"""What looking over a mapping gave: written as JSON (``schema: ckptdbg.mapping-check/1``)."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from ckptdbg.errors import MappingError

Level = Literal["error", "note"]
Topic = Literal[
    "binding",
    "coverage",
    "ignore",
    "twice",
    "layers",
    "order",
    "axes",
    "square",
    "idle",
    "norms",
    "variables",
    "round-trip",
    "rotary",
    "scale",
]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Remark(_Record):
    """One thing found in a mapping."""

    level: Level
    """``error``: the mapping cannot be right. ``note``: true, and for a person to judge."""
    topic: Topic
    where: str
    """file:line"""
    entry: str | None = None
    found: str
    """One line."""
    advice: str = ""
    """What to do; empty where there is nothing to do."""

    @classmethod
    def of(cls, cause: MappingError, topic: Topic, entry: str | None, where: str) -> Remark:
        """An error that would have stopped ``bind``."""
        text = " ".join(line.strip() for line in cause.problem.splitlines())
        told = [text.removeprefix(f"entry {entry}: ")]
        told += [f"{word} {value}" for word, value in (("found", cause.found), ("expected", cause.expected)) if value]
        return cls(
            level="error",
            topic=topic,
            where=cause.where or where,
            entry=entry,
            found="; ".join(told),
            advice=cause.hint or "",
        )


class Checked(_Record):
    """Everything found, errors first, then in the order of the file."""

    schema_: Literal["ckptdbg.mapping-check/1"] = Field(default="ckptdbg.mapping-check/1", alias="schema")
    mapping: str
    source: str
    target: str
    entries: int
    """How many the mapping has."""
    remarks: tuple[Remark, ...]

    @property
    def errors(self) -> tuple[Remark, ...]:
        """What the mapping cannot be right with."""
        return tuple(remark for remark in self.remarks if remark.level == "error")
