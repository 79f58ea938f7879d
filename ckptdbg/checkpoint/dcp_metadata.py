"""``.metadata`` of a torch Distributed Checkpoint: a pickle, read without letting it name anything but data.

The classes it names are stood in for by plain records made here, so that nothing of torch's is imported, built or
called, and a pickle that names anything else is refused before that is looked up. The layout is that of
``torch/distributed/checkpoint/metadata.py`` and ``filesystem.py``.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from ckptdbg.checkpoint.dtypes import as_dtype, is_numeric
from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.checkpoint.training import Keys
from ckptdbg.errors import CheckpointError

FILE = ".metadata"
_METADATA = "torch.distributed.checkpoint.metadata"
_OLDER = "torch.distributed._shard.sharded_tensor.metadata"
RECORDS = {
    (_METADATA, "Metadata"),
    (_METADATA, "TensorStorageMetadata"),
    (_METADATA, "BytesStorageMetadata"),
    (_METADATA, "ChunkStorageMetadata"),
    (_METADATA, "TensorProperties"),
    (_METADATA, "_MEM_FORMAT_ENCODING"),
    (_METADATA, "MetadataIndex"),
    (_METADATA, "StorageMeta"),
    (_OLDER, "TensorProperties"),
    (_OLDER, "MEM_FORMAT_ENCODING"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
}
VALUES: dict[tuple[str, str], Any] = {
    ("torch", "Size"): tuple,
    ("torch.serialization", "_get_layout"): str,
    ("collections", "OrderedDict"): dict,
    **{("pathlib", name): PurePosixPath for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")},
}


class Chunk(NamedTuple):
    """A box of one tensor, and where it is stored: ``torch.save`` wrote it there."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: Path
    start: int
    length: int


@dataclass(frozen=True)
class Stored:
    """What a checkpoint holds."""

    specs: dict[str, TensorSpec]
    chunks: dict[str, list[Chunk]]
    """They cover each tensor, once."""
    others: list[str]
    """Names of what is no tensor."""
    keys: dict[str, Keys]
    """Where each name stood in the state dict that was saved, where that is known."""


def read_metadata(folder: Path) -> Stored:
    """What ``.metadata`` says. ``CheckpointError`` where it is damaged, holds code, contradicts itself, or leads out of
    the folder. No other file is looked at."""
    file = folder / FILE
    root = _unpickle(file)
    try:
        items = dict(_field(root, "state_dict_metadata"))
        places = {_index(key): info for key, info in _field(root, "storage_data").items()}
        keys = {str(n): tuple(map(str, path)) for n, path in (_field(root, "planner_data") or {}).items()}
        tensors = {str(name): item for name, item in items.items() if _kind(item) == "TensorStorageMetadata"}
        specs = {name: _spec(name, item, file) for name, item in tensors.items()}
        chunks = {name: list(_chunks(name, item, specs[name], places, file)) for name, item in tensors.items()}
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as cause:
        found = f"{type(cause).__name__}: {cause}"
        raise CheckpointError("not the metadata of a distributed checkpoint", where=str(file), found=found) from cause
    for name, boxes in chunks.items():
        _check_cover(name, specs[name].shape, boxes, file)
    return Stored(specs, chunks, [str(name) for name in items if name not in tensors], keys)


class _Record:
    """A record of which nothing but the fields is kept."""

    fields: Any = None

    def __init__(self, *values: Any) -> None:
        self.values = values

    def __setstate__(self, state: Any) -> None:
        self.fields = state


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in RECORDS:
            return type(name, (_Record,), {})
        if (module, name) in VALUES:
            return VALUES[module, name]
        if module == "torch" and is_numeric(name):
            return name
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is no part of such metadata")


def _unpickle(file: Path) -> Any:
    hint = "it is not run; get the checkpoint from where it was saved, whole"
    try:
        with file.open("rb") as stream:
            return _Unpickler(stream).load()
    except OSError as cause:
        raise CheckpointError(f"cannot be read: {cause.strerror or cause}", where=str(file)) from cause
    except Exception as cause:  # a damaged pickle fails in any way that an instruction can
        problem = f"cannot be read as metadata: {str(cause) or type(cause).__name__}"
        raise CheckpointError(problem, where=str(file), hint=hint) from cause


def _kind(record: Any) -> str:
    return type(record).__name__ if isinstance(record, _Record) else ""


def _field(record: Any, name: str) -> Any:
    """A field of a record, None where it is not set."""
    return record.fields.get(name)


def _index(record: Any) -> tuple[str, tuple[int, ...] | None]:
    offset = _field(record, "offset")
    return _field(record, "fqn"), None if offset is None else _whole(offset)


def _spec(name: str, item: Any, file: Path) -> TensorSpec:
    state = _field(item, "properties").fields
    dtype = state["dtype"] if isinstance(state, dict) else state[0]
    if not is_numeric(dtype):
        raise CheckpointError(f"tensor {name} has no dtype that an array can have", where=str(file), found=repr(dtype))
    return TensorSpec(_whole(_field(item, "size")), dtype)


def _chunks(name: str, item: Any, spec: TensorSpec, places: dict[Any, Any], file: Path) -> Iterator[Chunk]:
    boxes = _field(item, "chunks")
    for box in boxes:
        offsets, sizes = _whole(_field(box, "offsets")), _whole(_field(box, "sizes"))
        info = places.get((name, offsets)) or (places.get((name, None)) if len(boxes) == 1 else None)
        if info is None:
            problem = f"tensor {name} is said to be stored nowhere from {offsets} on"
            raise CheckpointError(problem, where=str(file), hint="the checkpoint was not saved whole")
        chunk = Chunk(
            offsets, sizes, _file(name, info, file), *_whole((_field(info, "offset"), _field(info, "length")))
        )
        if (size := math.prod(sizes) * as_dtype(spec.dtype).itemsize) > chunk.length:
            problem = f"tensor {name} of {sizes} and {spec.dtype} is said to be in too few bytes"
            raise CheckpointError(problem, where=str(file), found=chunk.length, expected=f"{size} or more")
        yield chunk


def _file(name: str, info: Any, file: Path) -> Path:
    relative = _field(info, "relative_path")
    if how := _field(info, "transform_descriptors"):
        raise CheckpointError(
            f"tensor {name} is stored in another way", where=str(file), found=how, expected="as it is"
        )
    path = PurePath(relative)
    if not isinstance(relative, str) or path.is_absolute() or not path.parts or ".." in path.parts:
        problem = f"tensor {name} is said to be in something that is no file of this directory"
        raise CheckpointError(problem, where=str(file), found=repr(relative))
    return file.parent / path


def _whole(numbers: Any) -> tuple[int, ...]:
    if not isinstance(numbers, tuple) or not all(type(n) is int and 0 <= n < 2**63 for n in numbers):
        raise ValueError("sizes and offsets are whole numbers from 0")
    return numbers


def _check_cover(name: str, shape: tuple[int, ...], chunks: list[Chunk], file: Path) -> None:
    """Every element once: boxes within the tensor, none over another, as many elements as it has."""
    if any(not len(chunk.offsets) == len(chunk.sizes) == len(shape) for chunk in chunks):
        raise CheckpointError(f"tensor {name} has shards of other dimensions", where=str(file), expected=shape)
    starts = np.array([chunk.offsets for chunk in chunks], np.int64).reshape(len(chunks), len(shape))
    stops = starts + np.array([chunk.sizes for chunk in chunks], np.int64).reshape(len(chunks), len(shape))
    if (stops > np.array(shape, np.int64)).any():
        raise CheckpointError(f"tensor {name} has a shard outside of its shape", where=str(file), found=shape)
    stored = sum(math.prod(chunk.sizes) for chunk in chunks)
    starts, stops = (ends[(stops > starts).all(-1)] for ends in (starts, stops))
    over = np.all(starts[:, None] < stops[None], axis=-1) & np.all(starts[None] < stops[:, None], axis=-1)
    if stored != math.prod(shape) or over.sum() > len(over):  # each is over itself
        problem = f"the shards of tensor {name} do not make it up"
        hint = "a shard is missing, or two hold the same part"
        raise CheckpointError(
            problem, where=str(file), found=f"{stored} elements", expected=f"{math.prod(shape)}, each once", hint=hint
        )
