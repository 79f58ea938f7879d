"""``.gguf``: llama.cpp's file, read through its gguf package.

Shapes are the usual ones (rows first; the file has them the other way round). F32, F16, BF16 and whole numbers are read
as stored; quantised tensors are made float32 by the package's own code, and ``notes`` says which.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from ckptdbg.checkpoint.base import Array, Checkpoint
from ckptdbg.checkpoint.dtypes import as_dtype
from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.errors import CheckpointError

PLAIN = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
}
PARTS = "split.count"


class GgufCheckpoint(Checkpoint):
    """One ``.gguf`` file, mapped. A quantised tensor that is read is held in float32."""

    def __init__(self, path: Path) -> None:
        gguf = _import(path)
        reader, fields = _open(gguf, path)
        self._gguf, self._tensors = gguf, {tensor.name: tensor for tensor in reader.tensors}
        if fields.get(PARTS, 1) > 1:
            problem = f"it is one of {fields[PARTS]} files that belong together"
            raise CheckpointError(problem, where=str(path), hint="merge them with llama-gguf-split --merge")
        if not self._tensors:
            raise CheckpointError("holds no tensors", where=str(path), expected="a model")
        super().__init__(path, {name: _spec(tensor) for name, tensor in self._tensors.items()}, _nested(fields))
        types = {name: tensor.tensor_type.name for name, tensor in self._tensors.items()}
        self.notes = {name: f"{kind}, dequantised" for name, kind in types.items() if kind not in PLAIN}

    def _read(self, name: str) -> Array:
        tensor, spec = self._tensors[name], self.specs[name]
        if name not in self.notes:
            flat = np.ascontiguousarray(tensor.data).reshape(-1)
            return np.require(flat.view(as_dtype(spec.dtype)), requirements="A").reshape(spec.shape)
        try:
            return self._gguf.dequantize(tensor.data, tensor.tensor_type).reshape(spec.shape)
        except NotImplementedError as cause:
            problem = f"tensor {name} is of a type that the gguf package cannot dequantise"
            raise CheckpointError(problem, where=str(self.path), found=tensor.tensor_type.name) from cause


def _spec(tensor: Any) -> TensorSpec:
    shape = tuple(int(size) for size in reversed(tensor.shape.tolist()))
    return TensorSpec(shape, PLAIN.get(tensor.tensor_type.name, "float32"))


def _import(path: Path) -> Any:
    try:
        import gguf
    except ImportError as cause:
        raise CheckpointError("needs gguf to be read", where=str(path), hint="pip install 'ckptdbg[gguf]'") from cause
    return gguf


def _open(gguf: Any, path: Path) -> tuple[Any, dict[str, Any]]:
    """The package's reader, held to what the file has (on its own it takes what lies beyond the end as empty), and the
    values of all keys but arrays."""

    class Reader(gguf.GGUFReader):
        def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
            end = int(offset) + int(count) * np.dtype(dtype).itemsize
            if end > len(self.data):
                raise ValueError(
                    f"the file is cut short: {len(self.data)} bytes, where something is said to end at {end}"
                )
            return super()._get(offset, dtype, count, override_order)

    try:
        with np.errstate(all="raise"):
            reader = Reader(path)
            fields = {n: f.contents() for n, f in reader.fields.items() if gguf.GGUFValueType.ARRAY not in f.types}
    except (ValueError, KeyError, IndexError, OverflowError, FloatingPointError, RecursionError) as cause:
        problem = f"not a GGUF file, or damaged: {cause}"
        raise CheckpointError(problem, where=str(path), hint="copy it again") from cause
    for tensor in reader.tensors:
        if math.prod(map(int, tensor.shape)) != tensor.n_elements:
            problem = f"tensor {tensor.name} has a shape beyond all bounds"
            raise CheckpointError(problem, where=str(path), found=tensor.shape.tolist())
    return reader, fields


def _nested(fields: dict[str, Any]) -> dict[str, Any]:
    """``a.b`` as ``{"a": {"b": ...}}``, so that a mapping finds it as it finds what is in a ``config.json``."""
    config: dict[str, Any] = {}
    for name, value in fields.items():
        *folders, leaf = name.split(".")
        node = config
        for folder in folders:
            node = node.setdefault(folder, {}) if isinstance(node, dict) else node
        if isinstance(node, dict) and leaf not in node:
            node[leaf] = value
        else:  # one name within another
            config[name] = value
    return config
