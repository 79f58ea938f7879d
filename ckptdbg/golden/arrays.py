"""Arrays in a sketch: most hold whole numbers that run evenly, and take no room as what they are."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.checkpoint.dtypes import as_dtype

Array = NDArray[Any]
_MOST = 2**28
"""Elements. A file that asks for more is not one of ours."""


class Shelf:
    """Arrays by number, each content once. Whole numbers are written out; others are kept for a file of tensors."""

    def __init__(self) -> None:
        self.written: list[dict[str, Any]] = []
        self.tensors: dict[str, Array] = {}
        self._seen: dict[tuple, int] = {}

    def put(self, array: Array) -> int:
        """The number under which ``written`` has it."""
        array = np.ascontiguousarray(array).reshape(np.shape(array))
        key = (array.dtype.name, array.shape, hashlib.blake2b(array.tobytes()).digest())
        number = self._seen.setdefault(key, len(self.written))
        if number == len(self.written):
            self.written.append(self._write(array, f"array.{number}"))
        return number

    def _write(self, array: Array, name: str) -> dict[str, Any]:
        head = {"dtype": array.dtype.name, "shape": list(array.shape)}
        whole = _whole(array)
        if whole is None:
            self.tensors[name] = array
            return {**head, "tensor": name}
        step = int(whole[1] - whole[0]) if len(whole) > 1 else 0
        if len(whole) and np.array_equal(whole, whole[0] + step * np.arange(len(whole))):
            return {**head, "start": int(whole[0]), "step": step}
        return {**head, "values": whole.tolist()}


def written_array(item: dict[str, Any], read: Any) -> Array:
    """The array that ``Shelf`` wrote as ``item``; ``read`` gives a tensor by name. Raises KeyError, TypeError or
    ValueError for anything else."""
    shape, dtype = tuple(item["shape"]), as_dtype(item["dtype"])
    size = math.prod(shape)
    if not all(type(n) is int and n >= 0 for n in shape) or size > _MOST:
        raise ValueError(f"an array of shape {shape}")
    if "tensor" in item:
        found = np.asarray(read(item["tensor"]))
        if found.shape != shape or found.dtype != dtype:
            raise ValueError(f"{item['tensor']} is {found.dtype} {found.shape}, not {dtype} {shape}")
        return found
    if "values" in item:
        return np.array(item["values"], np.int64).astype(dtype).reshape(shape)
    return (item["start"] + item["step"] * np.arange(size)).astype(dtype).reshape(shape)


def _whole(array: Array) -> Array | None:
    """The elements as int64, where all are whole numbers that every JSON reader holds exactly."""
    if array.dtype.kind in "iub":
        whole = array.reshape(-1).astype(np.int64)
    else:
        flat = array.reshape(-1).astype(np.float64)
        if not (np.abs(flat) < 2**53).all() or (flat != np.rint(flat)).any() or np.signbit(flat[flat == 0]).any():
            return None
        whole = flat.astype(np.int64)
    return whole
