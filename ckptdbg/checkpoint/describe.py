"""A checkpoint as a table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ckptdbg.checkpoint.base import Array, Checkpoint


def describe(checkpoint: Checkpoint, stats: bool = False) -> Iterator[dict[str, Any]]:
    """One row per tensor, ready for ``pandas.DataFrame``: name, shape, dtype, size (elements).

    With ``stats`` also mean, std, min, max (float64, of the finite elements; None where there are none) and nonfinite
    (how many are NaN or infinite). One tensor is in memory at a time.
    """
    for name, spec in checkpoint.specs.items():
        row: dict[str, Any] = {
            "name": name,
            "shape": spec.shape,
            "dtype": spec.dtype,
            "size": int(np.prod(spec.shape, dtype=np.int64)),
        }
        yield {**row, **statistics(checkpoint.read(name))} if stats else row


def statistics(array: Array) -> dict[str, float | int | None]:
    """Statistics of one tensor; of a complex one, of its magnitudes."""
    values = np.abs(array) if array.dtype.kind == "c" else array
    values = values.astype(np.float64)
    finite = values[np.isfinite(values)]
    found: dict[str, float | int | None] = {"mean": None, "std": None, "min": None, "max": None}
    if finite.size:
        found = {key: float(getattr(finite, key)()) for key in found}
    return {**found, "nonfinite": int(values.size - finite.size)}
