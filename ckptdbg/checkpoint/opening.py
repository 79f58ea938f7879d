"""Which format a path has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ckptdbg.checkpoint.base import Checkpoint, CheckpointPart
from ckptdbg.checkpoint.context_file import ContextCheckpoint
from ckptdbg.checkpoint.dcp_folder import DcpCheckpoint
from ckptdbg.checkpoint.folders import find_config, find_folder
from ckptdbg.checkpoint.gguf_file import GgufCheckpoint
from ckptdbg.checkpoint.huggingface import HuggingFaceCheckpoint, read_json
from ckptdbg.checkpoint.msgpack_file import MsgpackCheckpoint
from ckptdbg.checkpoint.npz_file import NpzCheckpoint
from ckptdbg.checkpoint.orbax_folder import OrbaxCheckpoint
from ckptdbg.checkpoint.safetensors_file import SafetensorsCheckpoint
from ckptdbg.checkpoint.torch_file import TorchCheckpoint
from ckptdbg.errors import CheckpointError

FORMATS: dict[str, Callable[[Path], Checkpoint]] = {
    ".safetensors": SafetensorsCheckpoint,
    ".npz": NpzCheckpoint,
    ".pt": TorchCheckpoint,
    ".pth": TorchCheckpoint,
    ".bin": TorchCheckpoint,
    ".msgpack": MsgpackCheckpoint,
    ".gguf": GgufCheckpoint,
    ".json": ContextCheckpoint,
}


def open_checkpoint(path: str | Path, under: str | None = None) -> Checkpoint:
    """A checkpoint of any format: a folder of Hugging Face's, of torch's Distributed Checkpoint or of Orbax, or a file
    that ends in one of ``FORMATS``. A ``.json`` is a context file: names and shapes alone. With ``under`` only what
    stands under this key, by the rest of its name.

    No tensor data is read. ``CheckpointError`` where the path is missing, its suffix is unknown, it is damaged or not
    what its suffix says, there are several checkpoints in a folder, or nothing is under the key.
    """
    if under is not None:
        return CheckpointPart(open_checkpoint(path), under)
    path = Path(path)
    if not path.is_dir():
        return open_file(path)
    try:
        return _open_folder(path)
    except OSError as cause:
        raise CheckpointError(f"cannot be read: {cause.strerror or cause}", where=str(path)) from cause


def _open_folder(path: Path) -> Checkpoint:
    kind, folder = find_folder(path)
    if kind == "huggingface":
        return HuggingFaceCheckpoint(folder, open_file)
    file = find_config(path)
    config = read_json(file) if file is not None else None
    return DcpCheckpoint(folder, config) if kind == "dcp" else OrbaxCheckpoint(folder, config)


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
