"""Tensors of every dtype and shape, and what is asked of every format."""

import ml_dtypes
import numpy as np
import pytest
import torch

from ckptdbg.checkpoint import open_checkpoint
from ckptdbg.errors import CheckpointError

DTYPES = [
    "float64",
    "float32",
    "float16",
    "bfloat16",
    "float8_e4m3fn",
    "float8_e5m2",
    "int64",
    "int8",
    "bool",
    "complex64",
]
SHAPES = [(), (7,), (3, 5), (2, 3, 4), (0, 3)]


def numpy_dtype(name):
    return np.dtype(getattr(ml_dtypes, name, None) or name)


def random_tensors(dtype):
    """One tensor per shape; in front an odd number of bytes, so that the others lie askew in a file."""
    rng = np.random.default_rng(7)
    tensors = {"odd": rng.integers(0, 9, 3).astype(np.int8)}
    for shape in SHAPES:
        values = 3 * rng.standard_normal(shape)
        tensors["t" + "x".join(map(str, shape))] = np.asarray(values).astype(numpy_dtype(dtype))
    return tensors


def same_bytes(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def as_torch(array):
    dtype = getattr(torch, array.dtype.name)
    if not array.size:
        return torch.empty(array.shape, dtype=dtype)
    return torch.from_numpy(np.frombuffer(array.tobytes(), np.uint8).copy()).view(dtype).reshape(array.shape)


def fails(path, message):
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    assert message in str(caught.value)
