"""The border between torch tensors and NumPy arrays (bfloat16 and float8 cross as ml_dtypes)."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import torch
from torch import Tensor

from ckptdbg.models.records import Array

_BY_BITS = {
    "bfloat16": (torch.int16, ml_dtypes.bfloat16),
    "float8_e4m3fn": (torch.uint8, ml_dtypes.float8_e4m3fn),
    "float8_e4m3fnuz": (torch.uint8, ml_dtypes.float8_e4m3fnuz),
    "float8_e5m2": (torch.uint8, ml_dtypes.float8_e5m2),
    "float8_e5m2fnuz": (torch.uint8, ml_dtypes.float8_e5m2fnuz),
}
"""dtypes that NumPy does not have: the integer type they are seen through, and the ml_dtypes type."""


def dtype_name(dtype: torch.dtype) -> str:
    """``torch.bfloat16`` -> ``"bfloat16"``: the NumPy spelling."""
    return str(dtype).removeprefix("torch.")


def to_numpy(tensor: Tensor) -> Array:
    """A copy of ``tensor``: same shape, same dtype, C-contiguous."""
    tensor = tensor.detach().cpu()
    known = _BY_BITS.get(dtype_name(tensor.dtype))
    if known is None:
        return np.array(tensor.resolve_conj().resolve_neg().numpy(), order="C")
    bits, numpy_dtype = known
    return np.array(tensor.contiguous().view(bits).numpy(), order="C").view(numpy_dtype)


def to_torch(array: Array) -> Tensor:
    """A tensor with a copy of ``array``: same shape, same dtype."""
    array = np.array(array, order="C")
    if array.dtype.name not in _BY_BITS:
        return torch.from_numpy(array)
    same_bits = array.view(np.int16 if array.itemsize == 2 else np.uint8)
    return torch.from_numpy(same_bits).view(getattr(torch, array.dtype.name))
