"""``.safetensors``: eight bytes of length, a JSON header, the data end to end.

Read from the header and a memory map, because the library's NumPy side knows neither bfloat16 nor float8.
https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ckptdbg.checkpoint.base import Array, Checkpoint
from ckptdbg.checkpoint.dtypes import CODES, SAFETENSORS, as_dtype
from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.errors import CheckpointError

LENGTH = 8  # bytes that hold the header's length


class Place(NamedTuple):
    """A tensor and where its bytes are, counted from the beginning of the file."""

    spec: TensorSpec
    start: int
    stop: int


class SafetensorsCheckpoint(Checkpoint):
    """One ``.safetensors`` file."""

    def __init__(self, path: Path) -> None:
        self._places = read_header(path)
        super().__init__(path, {name: place.spec for name, place in self._places.items()})
        # copy on write: an array that a framework wants writable never changes the file
        self._bytes = np.memmap(path, np.uint8, mode="c")

    def _read(self, name: str) -> Array:
        spec, start, stop = self._places[name]
        flat = np.asarray(self._bytes[start:stop]).view(as_dtype(spec.dtype))
        return np.require(flat, requirements="A").reshape(spec.shape)

    def read_apart(self, name: str) -> Array:
        if name not in self._places:
            return self.read(name)  # says what there is
        spec, start, stop = self._places[name]
        assert self.path is not None
        flat = np.fromfile(self.path, np.uint8, stop - start, offset=start)
        return flat.view(as_dtype(spec.dtype)).reshape(spec.shape)


def read_header(path: Path) -> dict[str, Place]:
    """Every tensor's place; ``CheckpointError`` where the file is cut short or is something else."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH), "little")
        begin = LENGTH + length
        text = file.read(length) if size >= begin else None
    try:
        header = json.loads(text, object_pairs_hook=lambda pairs: _unique(pairs, path)) if text else None
    except (ValueError, RecursionError):  # JSON and UTF-8 errors alike; brackets without end
        header = None
    if not isinstance(header, dict):
        problem = "not a safetensors file, or cut short inside its header"
        raise CheckpointError(problem, where=str(path), found=f"{size} bytes", hint="copy it again")
    header.pop("__metadata__", None)
    places = {name: _place(name, item, begin, path) for name, item in header.items()}
    end = max((place.stop for place in places.values()), default=begin)
    if end > size:
        problem = "the file is cut short"
        raise CheckpointError(
            problem, where=str(path), found=f"{size} bytes", expected=f"{end} by its header", hint="copy it again"
        )
    return places


def _unique(pairs: list[tuple[str, Any]], path: Path) -> dict[str, Any]:
    """A JSON object; which of two tensors of one name is meant nobody can say."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        hint = "write the file again: names must differ"
        raise CheckpointError(f"{twice} stands twice in its header", where=str(path), hint=hint)
    return found


def _place(name: str, item: Any, begin: int, path: Path) -> Place:
    try:
        code, shape, (start, stop) = item["dtype"], tuple(item["shape"]), item["data_offsets"]
        if not all(type(n) is int and 0 <= n < 2**63 for n in (*shape, start, stop)):
            raise ValueError("shape and offsets are whole numbers from 0")
    except (KeyError, TypeError, ValueError) as cause:
        raise CheckpointError(f"tensor {name} has no proper header", where=str(path), found=repr(item)) from cause
    if not isinstance(code, str) or code not in SAFETENSORS:
        expected = f"one of {', '.join(SAFETENSORS)}"
        raise CheckpointError(f"tensor {name} has an unknown dtype", where=str(path), found=code, expected=expected)
    spec = TensorSpec(shape, SAFETENSORS[code])
    expected = math.prod(shape) * as_dtype(spec.dtype).itemsize
    if stop - start != expected:
        problem = f"tensor {name} of shape {shape} and {spec.dtype} has the wrong number of bytes"
        raise CheckpointError(problem, where=str(path), found=stop - start, expected=expected)
    return Place(spec, begin + start, begin + stop)


def write_safetensors(
    path: str | Path, items: Iterable[tuple[str, Array]], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors as they come, one in memory at a time. The file is there whole or not at all.

    ``metadata`` defaults to ``{"format": "pt"}``, which Hugging Face libraries ask for.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    header: dict[str, Any] = {"__metadata__": dict(metadata or {"format": "pt"})}
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        data, whole = Path(folder, "data"), Path(folder, "whole")
        # the header comes first but is known last
        with data.open("wb") as file:
            for name, array in items:
                _append(file, header, name, np.asarray(array), path)
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % LENGTH)
        with whole.open("wb") as file, data.open("rb") as body:
            file.write(len(text).to_bytes(LENGTH, "little") + text)
            shutil.copyfileobj(body, file, 1 << 24)
        os.replace(whole, path)


def _append(file: Any, header: dict[str, Any], name: str, array: Array, path: Path) -> None:
    if name in header:
        raise CheckpointError(f"tensor {name} comes twice", where=str(path), hint="names must differ")
    if array.dtype.name not in CODES:
        expected = f"one of {', '.join(CODES)}"
        problem = f"tensor {name} has a dtype that safetensors cannot hold"
        raise CheckpointError(problem, where=str(path), found=array.dtype.name, expected=expected)
    start = file.tell()
    little = array.astype(array.dtype.newbyteorder("<"), copy=False) if array.dtype.byteorder == ">" else array
    file.write(np.ascontiguousarray(little).reshape(-1).view(np.uint8).data)
    header[name] = {
        "dtype": CODES[array.dtype.name],
        "shape": list(array.shape),
        "data_offsets": [start, file.tell()],
    }
