"""From the places of a tensor's elements, and what became of random values there, to its sources and ops."""

from __future__ import annotations

from collections.abc import Mapping as Dict
from collections.abc import Sequence

import numpy as np

from ckptdbg.checkpoint.dtypes import as_dtype
from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.mapping.tracing.joining import Joiner, Places, Recipe, Unfactored
from ckptdbg.mapping.tracing.numerics import Values, nearly, value_ops
from ckptdbg.mapping.tracing.writing import sizes_of


def recipe_of(places: Places, specs: Sequence[TensorSpec], numbers: Dict[str, float]) -> Recipe:
    """How a tensor is made whose elements come from these places in ``specs``; ``numbers`` are the config's. Raises
    Unfactored."""

    def values(ordinal: int, places: Places) -> Values:
        scale, shift = places.scale.values(), places.shift.values()
        if len(scale) > 1 or len(shift) > 1:
            raise Unfactored("elements of one source that are scaled or shifted differently")
        (before, after), factor, added = places.pairs(), float(scale[0]), float(shift[0])
        found = value_ops(before, after, factor, added, numbers, as_dtype(specs[ordinal].dtype))
        if not found.exact and not nearly(before * factor + added, after.astype(np.float64)):
            raise Unfactored("more goes into its elements than one source element each, scaled and shifted")
        return found

    return Joiner([s.shape for s in specs], sizes_of(numbers), values).recipe(places)
