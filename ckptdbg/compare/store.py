"""Traces on disk, so that the two models may run in two environments: a folder with ``manifest.json`` and
``arrays.safetensors``.

Records are written field by field under their class names and read back through a fixed list of classes: nothing is
unpickled and nothing outside the list can be made.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.checkpoint import open_checkpoint, write_safetensors
from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.compare.comparison import SourceSide
from ckptdbg.compare.runs import Runs, SourceRuns
from ckptdbg.compare.views import View
from ckptdbg.errors import CheckpointError
from ckptdbg.mapping.layout import Along, Layout
from ckptdbg.models.records import Anchor, Cast, Choice, Choose, Graph, Meeting, Opaque, Record, Trace, Where

Array = NDArray[Any]
SCHEMA = "ckptdbg.trace/1"
_CLASSES = {
    c.__name__: c
    for c in (
        SourceSide, View, SourceRuns, Runs, TensorSpec, Graph, Anchor, Meeting, Choice, Cast, Opaque, Where, Trace,
        Record, Choose, Layout, Along,
    )
}  # fmt: skip


@dataclass(frozen=True)
class StoredSource:
    """A source that ran elsewhere: everything a comparison needs of it but its tensors, which stay in its
    checkpoint."""

    side: SourceSide
    inputs: dict[str, Array]
    config: dict[str, Any]
    """The source's ``config.json``."""

    @property
    def view(self) -> View:
        return self.side.view


def write_source(path: Path, stored: StoredSource) -> None:
    """Write a trace folder. Raises CheckpointError where something else than a trace is in the way."""
    if path.exists() and not _is_trace(path):
        raise CheckpointError(
            "there is something else here already", where=str(path), hint="choose another path for -o"
        )
    arrays: dict[str, Array] = {}
    manifest = {
        "schema": SCHEMA,
        "side": pack(stored.side, arrays),
        "inputs": pack(stored.inputs, arrays),
        "config": stored.config,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        write_safetensors(fresh / "arrays.safetensors", arrays.items())
        (fresh / "manifest.json").write_text(json.dumps(manifest))
        if path.exists():
            shutil.rmtree(path)
        os.replace(fresh, path)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _is_trace(path: Path) -> bool:
    """Whether a folder holds a trace and nothing else: many things have a manifest."""
    held = {file.name for file in path.iterdir()} if path.is_dir() else set()
    return "manifest.json" in held <= {"manifest.json", "arrays.safetensors"}


def read_source(path: Path) -> StoredSource:
    """Read a trace folder. Raises CheckpointError."""
    manifest_file = path / "manifest.json"
    if not manifest_file.is_file():
        raise CheckpointError("not a trace", where=str(path), expected="a folder written by `ckptdbg capture`")
    try:
        manifest = json.loads(manifest_file.read_text())
    except ValueError as error:
        raise CheckpointError(f"damaged manifest: {error}", where=str(manifest_file), hint="capture again") from error
    if manifest.get("schema") != SCHEMA:
        raise CheckpointError("another trace format", where=str(path), found=manifest.get("schema"), expected=SCHEMA)
    read = open_checkpoint(path / "arrays.safetensors").read
    return StoredSource(unpack(manifest["side"], read), unpack(manifest["inputs"], read), manifest["config"])


def pack(value: Any, arrays: dict[str, Array]) -> Any:
    """``value`` as JSON, its arrays left in ``arrays``."""
    if isinstance(value, np.ndarray):
        name = str(len(arrays))
        arrays[name] = np.ascontiguousarray(value).reshape(value.shape)
        return {"array": name}
    if is_dataclass(value) and not isinstance(value, type):
        packed = {f.name: pack(getattr(value, f.name), arrays) for f in fields(value)}
        return {"record": type(value).__name__, "fields": packed}
    if isinstance(value, Mapping):
        return {"dict": [[key, pack(item, arrays)] for key, item in value.items()]}
    if isinstance(value, tuple | list):
        return {"tuple": [pack(item, arrays) for item in value]}
    if isinstance(value, frozenset):
        return {"set": sorted(value)}
    return value.item() if isinstance(value, np.generic) else value


def unpack(value: Any, read: Any) -> Any:
    """What ``pack`` was given; ``read`` gives an array by name. Raises CheckpointError for an unknown record."""
    if not isinstance(value, dict):
        return value
    if "array" in value:
        return read(value["array"])
    if "tuple" in value:
        return tuple(unpack(item, read) for item in value["tuple"])
    if "set" in value:
        return frozenset(value["set"])
    if "dict" in value:
        return {key: unpack(item, read) for key, item in value["dict"]}
    made = _CLASSES.get(value.get("record", ""))
    if made is None:
        raise CheckpointError("the trace holds an unknown record", found=value.get("record"), hint="capture again")
    return made(**{name: unpack(item, read) for name, item in value["fields"].items()})
