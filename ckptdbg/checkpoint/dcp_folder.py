"""A torch Distributed Checkpoint: a folder with ``.metadata`` and the shards that its processes wrote (``*.distcp``).

Read in one process without a process group, however it was sharded. Names are torch's flattened ones: a state dict
saved under a key ``model`` keeps the prefix ``model.``.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ckptdbg.checkpoint.base import Array, Checkpoint
from ckptdbg.checkpoint.dcp_metadata import Chunk, Stored, read_metadata
from ckptdbg.checkpoint.dtypes import as_dtype
from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.checkpoint.torch_file import as_array, as_tensor, import_torch, load, torch_dtype
from ckptdbg.checkpoint.training import OTHER, TRAINER, Keys, beside_the_model
from ckptdbg.checkpoint.trees import NO_KEYS
from ckptdbg.errors import CheckpointError


class DcpCheckpoint(Checkpoint):
    """One such folder. Reading a tensor holds it, and its largest shard twice."""

    def __init__(self, path: Path, config: dict[str, Any] | None = None) -> None:
        stored = read_metadata(path)
        keys = {name: stored.keys.get(name) or (name,) for name in stored.specs}
        beside = beside_the_model(keys.values())
        super().__init__(path, {n: spec for n, spec in stored.specs.items() if keys[n] not in beside}, config)
        self.left_out = dict.fromkeys(stored.others, OTHER)
        self.left_out |= dict.fromkeys((n for n in stored.specs if keys[n] in beside), TRAINER)
        self._chunks = {name: stored.chunks[name] for name in self.specs}
        _check_files(path, stored)
        if not self.specs:
            raise CheckpointError("holds no tensors", where=str(path), expected="a state dict of a model")

    def _read(self, name: str) -> Array:
        spec, chunks = self.specs[name], self._chunks[name]
        if len(chunks) == 1:
            return self._load(name, chunks[0])
        whole = np.empty(spec.shape, as_dtype(spec.dtype))
        for chunk in chunks:
            box = tuple(slice(start, start + size) for start, size in zip(chunk.offsets, chunk.sizes, strict=True))
            whole[box] = self._load(name, chunk)
        return whole

    def _load(self, name: str, chunk: Chunk) -> Array:
        where = str(chunk.file)
        try:
            with chunk.file.open("rb") as file:
                file.seek(chunk.start)
                stored = io.BytesIO(file.read(chunk.length))
        except OSError as cause:
            raise CheckpointError(f"tensor {name} cannot be read: {cause.strerror or cause}", where=where) from cause
        tensor = load(stored, f"{where}: tensor {name}")
        found = (type(tensor).__name__, str(getattr(tensor, "dtype", "")), tuple(getattr(tensor, "shape", ())))
        expected = ("Tensor", f"torch.{self.specs[name].dtype}", chunk.sizes)
        if found != expected:
            problem = f"the shard of tensor {name} is not what .metadata says"
            raise CheckpointError(problem, where=where, found=found, expected=expected)
        return as_array(tensor)


def _check_files(path: Path, stored: Stored) -> None:
    """Every shard that tensors are in, there and long enough."""
    ends: dict[Path, int] = {}
    for chunk in (chunk for chunks in stored.chunks.values() for chunk in chunks):
        ends[chunk.file] = max(ends.get(chunk.file, 0), chunk.start + chunk.length)
    for file, end in ends.items():
        if not file.is_file():
            lost = sum(any(chunk.file == file for chunk in chunks) for chunks in stored.chunks.values())
            problem = f"shard {file.relative_to(path)} is missing; {lost} tensors are in it"
            raise CheckpointError(problem, where=str(path), hint="copy it again, all of its files")
        if (size := file.stat().st_size) < end:
            expected = f"{end} by .metadata"
            raise CheckpointError(
                "the file is cut short", where=str(file), found=f"{size} bytes", expected=expected, hint="copy it again"
            )


def write_dcp(
    folder: Path, specs: Mapping[str, TensorSpec], read: Callable[[str], Array], where: str, under: Keys = ()
) -> None:
    """Write tensors through torch, one file and one in memory at a time, as a flat state dict, which is ``under`` no
    keys. Raises OSError, and CheckpointError, which says ``where``."""
    if under:
        raise CheckpointError(NO_KEYS, where=where, found="/".join(under))
    torch = import_torch(where)
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
    from torch.distributed.checkpoint.filesystem import FileSystemWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    class Streaming(DefaultSavePlanner):
        """Plans with tensors that have a shape and no memory, and asks for each when it is written."""

        def lookup_object(self, index: Any) -> Any:
            return as_tensor(read(index.fqn), where)

    plan = {n: torch.empty((), dtype=torch_dtype(s.dtype, where)).expand(s.shape) for n, s in specs.items()}
    writer = FileSystemWriter(folder, single_file_per_rank=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
        try:
            save(plan, storage_writer=writer, planner=Streaming(), no_dist=True)
        except CheckpointException as cause:
            raise _inner(next(iter(cause.failures.values()))[0], where) from cause


def _inner(failure: BaseException, where: str) -> BaseException:
    """What went wrong, inside what torch makes of it: of a full disk, an error of its own archive."""
    if not isinstance(failure, RuntimeError):
        return failure
    context = failure.__cause__ or failure.__context__
    while context is not None and not isinstance(context, OSError):
        context = context.__cause__ or context.__context__
    return context or CheckpointError(f"torch cannot write it: {str(failure).splitlines()[0]}", where=where)
