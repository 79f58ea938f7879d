"""Shape and dtype of a tensor, known without reading it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TensorSpec:
    """Shape and dtype (NumPy spelling, ``bfloat16`` and ``float8_*`` of ml_dtypes included)."""

    shape: tuple[int, ...]
    dtype: str
