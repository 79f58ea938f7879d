"""``.npz``: NumPy's archive of arrays."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from ckptdbg.checkpoint.base import Array, Checkpoint
from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.errors import CheckpointError

# Besides what is no archive: a wrong checksum, a stream that ends or makes no sense, a password, another compression.
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError)


class NpzCheckpoint(Checkpoint):
    """One ``.npz`` file. It cannot tell bfloat16 and float8, which NumPy stores as untyped bytes."""

    def __init__(self, path: Path) -> None:
        try:
            with zipfile.ZipFile(path) as archive:
                names = [name for name in archive.namelist() if name.endswith(".npy")]
                specs = {name.removesuffix(".npy"): _spec(archive, name, path) for name in names}
        except _DAMAGED as cause:
            raise CheckpointError(f"not an npz file, or cut short: {cause}", where=str(path)) from cause
        super().__init__(path, specs)

    def _read(self, name: str) -> Array:
        assert self.path is not None
        try:
            with np.load(self.path, allow_pickle=False) as archive:
                return archive[name]
        except _DAMAGED as cause:
            problem = f"tensor {name} cannot be read: {cause}"
            raise CheckpointError(problem, where=str(self.path), hint="copy it again") from cause


def _spec(archive: zipfile.ZipFile, name: str, path: Path) -> TensorSpec:
    with archive.open(name) as file:
        version = npy.read_magic(file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        try:
            shape, _, dtype = read(file)
        except ValueError as cause:  # float8 leaves a descriptor that NumPy itself cannot read
            raise _untyped(name, cause, path) from cause
    if dtype.kind not in "fiubc":
        raise _untyped(name, dtype, path)
    return TensorSpec(tuple(shape), dtype.name)


def _untyped(name: str, found: object, path: Path) -> CheckpointError:
    problem = f"tensor {name.removesuffix('.npy')} has no numeric dtype"
    return CheckpointError(
        problem, where=str(path), found=found, hint="npz cannot hold bfloat16 or float8: write .safetensors"
    )
