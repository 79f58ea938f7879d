"""A Hugging Face model directory: ``config.json`` and one file of tensors, or shards with an index."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ckptdbg.checkpoint.base import Array, Checkpoint
from ckptdbg.errors import CheckpointError

# in the order in which transformers looks for them
KNOWN = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


class HuggingFaceCheckpoint(Checkpoint):
    """All shards of a directory as one."""

    def __init__(self, path: Path, open_file: Callable[[Path], Checkpoint]) -> None:
        self._shard_of: dict[str, Checkpoint] = {}
        for file, listed in _shards(path).items():
            if not file.is_file():
                problem = f"shard {file.name} is missing; the index names it for {len(listed or ())} tensors"
                raise CheckpointError(problem, where=str(path), hint="copy it again")
            self._add(open_file(file), listed)
        config_file = path / "config.json"
        config = read_json(config_file) if config_file.is_file() else None
        specs = {name: shard.specs[name] for name, shard in self._shard_of.items()}
        super().__init__(path, specs, config)

    def _add(self, shard: Checkpoint, listed: list[str] | None) -> None:
        for name in shard.specs if listed is None else listed:
            if name not in shard.specs:
                problem = f"tensor {name} is missing; the index says it is here"
                raise CheckpointError(problem, where=str(shard.path), hint="index and shards are of different versions")
            if name in self._shard_of:
                problem = f"tensor {name} is also in {self._shard_of[name].path}"
                raise CheckpointError(problem, where=str(shard.path), hint="keep one of the files, or add an index")
            self._shard_of[name] = shard

    def _read(self, name: str) -> Array:
        return self._shard_of[name].read(name)

    def read_apart(self, name: str) -> Array:
        return self._shard_of[name].read_apart(name) if name in self._shard_of else self.read(name)


def _shards(path: Path) -> dict[Path, list[str] | None]:
    """The files and which of their tensors count (None: all)."""
    for name in KNOWN:
        if not (path / name).is_file():
            continue
        return _listed(path / name) if name.endswith(".json") else {path / name: None}
    files = sorted(path.glob("*.safetensors"))
    if not files:
        held = sorted(entry.name + "/" * entry.is_dir() for entry in path.iterdir())
        found = ", ".join(held[:5]) + (", ..." if len(held) > 5 else "")
        expected = f"*.safetensors or one of {', '.join(KNOWN)}; .metadata of torch's DCP; _METADATA of Orbax"
        raise CheckpointError("no tensors in this directory", where=str(path), found=found or None, expected=expected)
    return dict.fromkeys(files)


def _listed(index: Path) -> dict[Path, list[str] | None]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointError("not an index of shards", where=str(index), expected="a key weight_map")
    listed: dict[Path, list[str]] = {}
    for tensor, file in weight_map.items():
        if not isinstance(file, str) or Path(file).is_absolute() or ".." in Path(file).parts:
            problem = f"tensor {tensor} is said to be in something that is no file of this directory"
            raise CheckpointError(problem, where=str(index), found=repr(file))
        listed.setdefault(index.parent / file, []).append(tensor)
    return {**listed}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; ``CheckpointError`` where the file is not one."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as cause:
        raise CheckpointError(f"not valid JSON: {cause}", where=str(path)) from cause
    if not isinstance(found, dict):
        raise CheckpointError("not a JSON object", where=str(path), found=type(found).__name__)
    return found
