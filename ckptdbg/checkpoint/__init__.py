"""Named tensors on disk: one file per format, the same verbs in each."""

from ckptdbg.checkpoint.base import Checkpoint, MemoryCheckpoint, spec_of
from ckptdbg.checkpoint.describe import describe, statistics
from ckptdbg.checkpoint.opening import open_checkpoint
from ckptdbg.checkpoint.safetensors_file import write_safetensors
from ckptdbg.checkpoint.spec import TensorSpec

__all__ = [
    "Checkpoint",
    "MemoryCheckpoint",
    "TensorSpec",
    "describe",
    "open_checkpoint",
    "spec_of",
    "statistics",
    "write_safetensors",
]
