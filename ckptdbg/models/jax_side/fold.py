"""Between a framework's axes and the canonical matrix: a transposition and a reshape, and back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Fold:
    """``groups`` of the axes of ``shape``, each flattened in its order; every axis is in one group."""

    shape: tuple[int, ...]
    groups: tuple[tuple[int, ...], ...]

    @property
    def order(self) -> tuple[int, ...]:
        return tuple(axis for group in self.groups for axis in group)

    @property
    def folded(self) -> tuple[int, ...]:
        """The canonical shape."""
        return tuple(math.prod(self.shape[axis] for axis in group) for group in self.groups)

    def fold(self, native: Any) -> Any:
        """``shape`` -> ``folded``; NumPy or JAX."""
        return native.transpose(self.order).reshape(self.folded)

    def unfold(self, canonical: Any) -> Any:
        """``folded`` -> ``shape``; the inverse of ``fold``."""
        order = self.order
        inverse = sorted(range(len(order)), key=order.__getitem__)
        return canonical.reshape([self.shape[axis] for axis in order]).transpose(inverse)
