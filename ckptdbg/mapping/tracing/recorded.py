"""What a recording of a conversion tells: the ops that make each target tensor, whoever recorded them."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Protocol

from numpy.typing import NDArray

from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.mapping.tracing.spread import Spread

Array = NDArray[Any]
Label = Callable[[int], Spread]


class Program(Protocol):
    """What makes one target tensor, by itself."""

    @property
    def spec(self) -> TensorSpec: ...
    @property
    def sources(self) -> tuple[str, ...]:
        """The source tensors that go into it."""
        ...

    @property
    def key(self) -> Hashable:
        """Equal for programs that differ in nothing but the names of their sources and in ``selected``."""
        ...

    @property
    def selected(self) -> tuple[tuple[int, int], ...]:
        """Of a single source, the axes of which the program takes one index before anything else, and which."""
        ...

    def run(self, read: Callable[[str], Array]) -> Array:
        """The tensor, of real ones."""
        ...

    def spread(self, label: Label, *, exact: bool) -> Spread:
        """What labels of ``sources`` become; ``exact``: in float64 throughout."""
        ...

    @property
    def stacked(self) -> int | None:
        """An axis whose slices were put together, each from tensors of its own; None where none is seen."""
        ...

    def slice(self, axis: int, index: int) -> Program:
        """What makes one slice of the tensor, without that axis."""
        ...
