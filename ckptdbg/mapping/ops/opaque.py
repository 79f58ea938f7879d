"""A tensor that a function makes in a way that no op says: dequantised, clamped, averaged."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from ckptdbg.errors import MappingError
from ckptdbg.mapping.ops.base import Array, Op, OpError, Shape, register
from ckptdbg.mapping.ops.values import dtype_named

Make = Callable[[str, Mapping[str, Array]], Array]
"""A conversion function for one target, by name, from the source tensors that it depends on, by name."""


@register
@dataclass(frozen=True)
class Opaque(Op):
    """What ``function`` makes of the entry's sources for the entry's target. It has no index map and no reverse.

    A mapping file is data: the function is not looked for, imported or run unless it is handed over (``placed``).
    """

    kind: ClassVar[str] = "opaque"
    main: ClassVar[str] = "function"
    words: ClassVar[frozenset[str]] = frozenset({"function", "dtype"})
    lists: ClassVar[frozenset[str]] = frozenset({"shape"})
    required: ClassVar[frozenset[str]] = frozenset({"function", "shape", "dtype"})

    function: str = ""
    """As a config names it: ``convert.py:convert``."""
    shape: Shape = ()
    dtype: str = ""
    """What the function returns."""
    make: Callable[[Sequence[Array]], Array] | None = field(default=None, kw_only=True, compare=False)
    """The function, where it is at hand: from the sources, as stored, to the target."""

    def __post_init__(self) -> None:
        dtype_named(self.dtype)

    @classmethod
    def keys(cls, fields: Mapping[str, Any]) -> set[str]:
        return super().keys(fields) - {"make"}

    def apply(self, arrays: Sequence[Array], rounding: bool = True) -> list[Array]:
        if self.make is None:
            raise MappingError(
                f"what makes this tensor is the function {self.function}, and a mapping file runs none",
                where=self.where or None,
                hint=f"say so in the config, mapping: {{file: FILE, trace: {self.function}}}, or ignore the tensor",
            )
        made = np.asarray(self.make(arrays))
        if made.shape != self.shape:
            raise MappingError(
                f"{self.function} makes another shape than the mapping says",
                where=self.where or None,
                found=made.shape,
                expected=self.shape,
            )
        return [made.astype(np.result_type(np.float32, *(a.dtype for a in arrays if a.dtype == np.float64)))]

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        return [self.shape]

    def inverse(self, shapes: Sequence[Shape]) -> tuple[Op, ...]:
        raise OpError(f"{self.function} tells no way back")

    def dropped(self, shapes: Sequence[Shape]) -> str:
        return f"made by {self.function}; the reverse is not known"

    def data(self) -> dict[str, Any]:
        return {key: value for key, value in super().data().items() if key != "make"}

    def placed(self, make: Make, sources: Sequence[str], dtypes: Sequence[np.dtype], target: str) -> Opaque:
        """The op with its function: it is given the sources in the dtypes that they are stored in."""

        def made(arrays: Sequence[Array]) -> Array:
            stored = (array.astype(dtype, copy=False) for array, dtype in zip(arrays, dtypes, strict=True))
            return make(target, dict(zip(sources, stored, strict=True)))

        return dataclasses.replace(self, make=made)
