"""Which format a path has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ckptdbg.checkpoint.base import Checkpoint
from ckptdbg.checkpoint.context_file import ContextCheckpoint
from ckptdbg.checkpoint.huggingface import HuggingFaceCheckpoint
from ckptdbg.checkpoint.npz_file import NpzCheckpoint
from ckptdbg.checkpoint.safetensors_file import SafetensorsCheckpoint
from ckptdbg.checkpoint.torch_file import TorchCheckpoint
from ckptdbg.errors import CheckpointError

FORMATS: dict[str, Callable[[Path], Checkpoint]] = {
    ".safetensors": SafetensorsCheckpoint,
    ".npz": NpzCheckpoint,
    ".pt": TorchCheckpoint,
    ".pth": TorchCheckpoint,
    ".bin": TorchCheckpoint,
    ".json": ContextCheckpoint,
}


def open_checkpoint(path: str | Path) -> Checkpoint:
    """A checkpoint of any format: a Hugging Face directory, ``.safetensors``, ``.npz``, ``.pt``, ``.pth``, ``.bin``.

    A ``.json`` is a context file: names and shapes alone.

    No tensor data is read. ``CheckpointError`` where the path is missing, its suffix is unknown, or the file is
    damaged or not what its suffix says.
    """
    path = Path(path)
    if path.is_dir():
        return HuggingFaceCheckpoint(path, open_file)
    return open_file(path)


def open_file(path: Path) -> Checkpoint:
    """The same for a single file."""
    if not path.exists():
        near = sorted(p.name for p in path.parent.glob("*") if p.suffix in FORMATS)[:5] if path.parent.is_dir() else []
        hint = f"beside it: {', '.join(near)}" if near else "check the path"
        raise CheckpointError("no such checkpoint", where=str(path), hint=hint)
    if path.suffix not in FORMATS:
        expected = f"a directory or one of {', '.join(FORMATS)}"
        raise CheckpointError(
            "unknown kind of checkpoint", where=str(path), found=path.suffix or "no suffix", expected=expected
        )
    try:
        return FORMATS[path.suffix](path)
    except OSError as cause:
        raise CheckpointError(f"cannot be read: {cause.strerror or cause}", where=str(path)) from cause
