"""``.pt``, ``.pth`` and ``.bin``: torch's own format, loaded as data only (``weights_only=True``)."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ckptdbg.checkpoint.base import Array, Checkpoint
from ckptdbg.checkpoint.dtypes import as_dtype
from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.errors import CheckpointError


class TorchCheckpoint(Checkpoint):
    """One file that ``torch.save`` wrote. Dicts in dicts are flattened, their keys joined by dots."""

    def __init__(self, path: Path) -> None:
        try:
            self._tensors = flatten(load(path))
        except RecursionError as cause:
            raise CheckpointError("a dict in it holds itself", where=str(path), expected="a state_dict") from cause
        if not self._tensors:
            raise CheckpointError("holds no tensors", where=str(path), expected="a dict of tensors (a state_dict)")
        specs = {name: TensorSpec(tuple(t.shape), _dtype(name, t, path)) for name, t in self._tensors.items()}
        super().__init__(path, specs)

    def _read(self, name: str) -> Array:
        import torch

        tensor = self._tensors[name].detach()
        dtype = as_dtype(self.specs[name].dtype)
        if dtype.isbuiltin == 1:
            return tensor.resolve_conj().resolve_neg().numpy()
        # NumPy knows bfloat16 and float8 through ml_dtypes only: the same bytes under another name
        return tensor.flatten().view(torch.uint8).numpy().view(dtype).reshape(tuple(tensor.shape))


def load(path: Path) -> Any:
    """What the file holds, tensors memory-mapped where its format allows; ``CheckpointError`` where torch cannot."""
    try:
        import torch
    except ImportError as cause:
        raise CheckpointError("needs torch to be read", where=str(path), hint="pip install 'ckptdbg[torch]'") from cause
    try:
        # torch wrote tar and plain pickle files before it wrote zip files: those cannot be mapped
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError) as cause:
        first_line = f"{str(cause).strip()}\n".splitlines()[0] or type(cause).__name__
        problem = f"torch cannot load it as data: {first_line}"
        hint = "it must be a state_dict saved with torch.save, whole, without code"
        raise CheckpointError(problem, where=str(path), hint=hint) from cause


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


def _dtype(name: str, tensor: Any, path: Path) -> str:
    dtype = str(tensor.dtype).removeprefix("torch.")
    try:
        found = as_dtype(dtype).name
    except TypeError as cause:
        raise CheckpointError(
            f"tensor {name} has a dtype without a NumPy twin", where=str(path), found=dtype
        ) from cause
    if str(tensor.layout) != "torch.strided":
        raise CheckpointError(f"tensor {name} is sparse", where=str(path), expected="dense tensors")
    if tensor.is_meta:
        raise CheckpointError(f"tensor {name} has no values", where=str(path), found="device meta", expected="cpu")
    return found
