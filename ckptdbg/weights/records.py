"""What ``verify`` found: written as JSON (``schema: ckptdbg.verification/1``)."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from ckptdbg.result import EntryRef


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)


class Worst(_Record):
    """The element that is farthest from what it should be."""

    index: list[int]
    found: float | None
    """None where it is NaN or infinite."""
    expected: float | None
    origin: str | None = None
    """The source element it was made from, ``name[index]``; None for padding."""


class TensorReport(_Record):
    """One target tensor against what the mapping makes of the source."""

    tensor: str
    entry: EntryRef
    layer: str | None
    status: Literal["equal", "rounded", "differs"]
    """``rounded``: nothing but rounding to the stored dtype."""
    shape: list[int]
    dtype: str
    """As stored."""
    how: str = ""
    """Where it differs: what it is instead."""
    wrong: int = 0
    """Elements that rounding does not explain."""
    worst: Worst | None = None
    """None where nothing differs."""


class Missing(_Record):
    """A tensor that the mapping makes and the target lacks."""

    tensor: str
    entry: EntryRef
    layer: str | None


class Verification(_Record):
    """All tensors of one conversion."""

    schema_: Literal["ckptdbg.verification/1"] = Field(default="ckptdbg.verification/1", alias="schema")
    source: str
    target: str
    tensors: list[TensorReport]
    """In the order of the mapping."""
    missing: list[Missing]
    extra: list[str]
    """Tensors of the target that no entry makes."""

    @property
    def differing(self) -> list[TensorReport]:
        """The tensors at fault."""
        return [tensor for tensor in self.tensors if tensor.status == "differs"]

    @property
    def good(self) -> bool:
        """Whether the target is the mapping of the source, within rounding, and nothing else."""
        return not (self.differing or self.missing or self.extra)
