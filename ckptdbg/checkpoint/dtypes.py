"""Names of dtypes: NumPy's (with ``bfloat16`` and ``float8_*`` from ml_dtypes) and those in safetensors headers."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

SAFETENSORS = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
    "C64": "complex64",
}
CODES = {name: code for code, name in SAFETENSORS.items()}


def as_dtype(name: str) -> np.dtype:
    """The dtype of a NumPy or ml_dtypes name; ``TypeError`` where there is none."""
    found = getattr(ml_dtypes, name, None)
    return np.dtype(found if isinstance(found, type) else name)


def is_numeric(name: Any) -> bool:
    """Whether it is the name of a dtype of numbers, as NumPy or ml_dtypes write it."""
    try:
        found = as_dtype(name) if isinstance(name, str) else None
    except TypeError:
        return False
    return found is not None and found.name == name and (found.kind in "fiubc" or hasattr(ml_dtypes, name))
