"""``.pt``, ``.pth`` and ``.bin``: torch's own format, loaded as data only (``weights_only=True``)."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from ckptdbg.checkpoint.base import Array, Checkpoint
from ckptdbg.checkpoint.dtypes import as_dtype
from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.errors import CheckpointError


class TorchCheckpoint(Checkpoint):
    """One file that ``torch.save`` wrote. Dicts in dicts are flattened, their keys joined by dots."""

    def __init__(self, path: Path) -> None:
        try:
            # torch wrote tar and plain pickle files before it wrote zip files: those cannot be mapped
            self._tensors = flatten(load(path, str(path), mmap=zipfile.is_zipfile(path)))
        except RecursionError as cause:
            raise CheckpointError("a dict in it holds itself", where=str(path), expected="a state_dict") from cause
        if not self._tensors:
            raise CheckpointError("holds no tensors", where=str(path), expected="a dict of tensors (a state_dict)")
        specs = {name: TensorSpec(tuple(t.shape), dtype_of(name, t, str(path))) for name, t in self._tensors.items()}
        super().__init__(path, specs)

    def _read(self, name: str) -> Array:
        return as_array(self._tensors[name])


def load(file: Path | IO[bytes], where: str, *, mmap: bool = False) -> Any:
    """What the file holds, tensors memory-mapped where asked for; ``CheckpointError`` where torch cannot."""
    torch = import_torch(where)
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)
    except OSError:
        raise
    except Exception as cause:  # a damaged pickle fails in any way that an instruction can
        first_line = f"{str(cause).strip()}\n".splitlines()[0] or type(cause).__name__
        problem = f"torch cannot load it as data: {first_line}"
        hint = "it must be a state_dict saved with torch.save, whole, without code"
        raise CheckpointError(problem, where=where, hint=hint) from cause


def import_torch(where: str) -> Any:
    """torch; ``CheckpointError`` where it is not installed."""
    try:
        import torch
    except ImportError as cause:
        raise CheckpointError("needs torch", where=where, hint="pip install 'ckptdbg[torch]'") from cause
    return torch


def as_array(tensor: Any) -> Array:
    """A dense tensor on the CPU as an array, without a copy where its memory is in order."""
    import torch

    tensor = tensor.detach()
    dtype = as_dtype(str(tensor.dtype).removeprefix("torch."))
    if dtype.isbuiltin == 1:
        return tensor.resolve_conj().resolve_neg().numpy()
    # NumPy knows bfloat16 and float8 through ml_dtypes only: the same bytes under another name
    return tensor.flatten().view(torch.uint8).numpy().view(dtype).reshape(tuple(tensor.shape))


def as_tensor(array: Array, where: str) -> Any:
    """The reverse, always a copy; ``CheckpointError`` where torch has no such dtype."""
    import torch

    dtype = torch_dtype(array.dtype.name, where)
    flat = np.array(array.astype(array.dtype.newbyteorder("="), copy=False), order="C").reshape(-1)
    if not flat.size:
        return torch.empty(array.shape, dtype=dtype)
    return torch.from_numpy(flat.view(np.uint8)).view(dtype).reshape(array.shape)


def torch_dtype(name: str, where: str) -> Any:
    """torch's dtype of a NumPy or ml_dtypes name; ``CheckpointError`` where there is none."""
    torch = import_torch(where)
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise CheckpointError("torch has no such dtype", where=where, found=name, hint="write .safetensors")
    return found


def flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    """Tensors by dotted path; what is no tensor is left out."""
    import torch

    if isinstance(node, torch.Tensor):
        return {prefix: node}
    if not isinstance(node, Mapping):
        return {}
    found: dict[str, Any] = {}
    for key, value in node.items():
        found.update(flatten(value, f"{prefix}.{key}" if prefix else str(key)))
    return found


def dtype_of(name: str, tensor: Any, where: str) -> str:
    """NumPy's name of a dtype; ``CheckpointError`` where the tensor cannot be an array."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    try:
        found = as_dtype(dtype).name
    except TypeError as cause:
        raise CheckpointError(f"tensor {name} has a dtype without a NumPy twin", where=where, found=dtype) from cause
    if str(tensor.layout) != "torch.strided":
        raise CheckpointError(f"tensor {name} is sparse", where=where, expected="dense tensors")
    if tensor.is_meta:
        raise CheckpointError(f"tensor {name} has no values", where=where, found="device meta", expected="cpu")
    return found
