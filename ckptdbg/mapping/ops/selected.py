"""An op on some of several arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ckptdbg.mapping.ops.base import Array, Op, OpError, Shape


@dataclass(frozen=True)
class Of(Op):
    """Any op with ``of: [0, 2]``: done to each of these arrays by itself; the others stay as they are."""

    inner: Op
    arrays: tuple[int, ...]

    @property
    def kind(self) -> str:  # type: ignore[override]
        return self.inner.kind

    @property
    def elementwise(self) -> bool:  # type: ignore[override]
        return self.inner.elementwise

    def apply(self, arrays: Sequence[Array], rounding: bool = True) -> list[Array]:
        out = list(arrays)
        for i in self._checked(len(out)):
            out[i] = self.inner.apply([out[i]], rounding)[0]
        return out

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        out = list(shapes)
        for i in self._checked(len(out)):
            made = self.inner.shapes([out[i]])
            if len(made) != 1:
                raise OpError(f"makes {len(made)} arrays of one: leave out `of`")
            out[i] = made[0]
        return out

    def inverse(self, shapes: Sequence[Shape]) -> tuple[Op, ...]:
        return tuple(Of(undo, (i,)) for i in self.arrays for undo in self.inner.inverse([shapes[i]]))

    def dropped(self, shapes: Sequence[Shape]) -> str:
        lost = (self.inner.dropped([shapes[i]]) for i in self.arrays)
        return "; ".join(dict.fromkeys(text for text in lost if text))

    def data(self) -> dict[str, Any]:
        return {**self.inner.data(), "of": list(self.arrays)}

    def _checked(self, count: int) -> tuple[int, ...]:
        for i in self.arrays:
            if not 0 <= i < count:
                raise OpError(f"has no array {i} in `of`: there are {count}, counted from 0")
        return self.arrays
