"""``.npz``: NumPy's archive of arrays."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from ckptdbg.checkpoint.base import Array, Checkpoint
from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.errors import CheckpointError


class NpzCheckpoint(Checkpoint):
    """One ``.npz`` file. It cannot tell bfloat16 and float8, which NumPy stores as untyped bytes."""

    def __init__(self, path: Path) -> None:
        try:
            with zipfile.ZipFile(path) as archive:
                names = [name for name in archive.namelist() if name.endswith(".npy")]
                specs = {name.removesuffix(".npy"): _spec(archive, name, path) for name in names}
        except (zipfile.BadZipFile, EOFError, ValueError) as cause:
            raise CheckpointError(f"not an npz file, or cut short: {cause}", where=str(path)) from cause
        super().__init__(path, specs)

    def _read(self, name: str) -> Array:
        assert self.path is not None
        with np.load(self.path, allow_pickle=False) as archive:
            return archive[name]


def _spec(archive: zipfile.ZipFile, name: str, path: Path) -> TensorSpec:
    with archive.open(name) as file:
        version = npy.read_magic(file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read(file)
    if dtype.kind not in "fiubc":
        raise CheckpointError(
            f"tensor {name.removesuffix('.npy')} has no numeric dtype",
            where=str(path),
            found=dtype,
            hint="npz cannot hold bfloat16 or float8: write .safetensors",
        )
    return TensorSpec(tuple(shape), dtype.name)
