"""A checkpoint written in shards, so that what is finished outlives an interruption.

Everything is written into a folder beside the destination, whose manifest says of every finished shard what it holds;
at the end that folder (or its one file) is moved into place. Names and index are those of Hugging Face.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ckptdbg.checkpoint.base import Array
from ckptdbg.checkpoint.dtypes import as_dtype
from ckptdbg.checkpoint.opening import open_checkpoint
from ckptdbg.checkpoint.placing import Place, remove
from ckptdbg.checkpoint.safetensors_file import write_safetensors
from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.errors import CheckpointError

SCHEMA = "ckptdbg.conversion/1"
MANIFEST = "manifest.json"
GO_ON = "the shards that are finished are kept: the same command goes on from there"
Make = Callable[[tuple[str, ...]], Iterable[tuple[str, Array]]]
"""Some tensors by name, one at a time."""


def plan_shards(specs: Mapping[str, TensorSpec], limit: int) -> list[tuple[str, ...]]:
    """Names of each shard, in order, of at most ``limit`` bytes; a tensor beyond that is alone in its shard."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, spec in specs.items():
        size = size_of(spec)
        if shards[-1] and filled + size > limit:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return [tuple(shard) for shard in shards]


def size_of(spec: TensorSpec) -> int:
    """Bytes of one tensor."""
    return math.prod(spec.shape) * as_dtype(spec.dtype).itemsize


@dataclass
class ShardedWriter:
    """Writes one checkpoint to its place: a single file where that ends in ``.safetensors``, else a folder."""

    place: Place
    shards: list[tuple[str, ...]]
    origin: str
    """A digest of what the tensors are made from: shards of another origin are not gone on with."""
    progress: Callable[[str], None] = lambda _: None
    _done: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def part(self) -> Path:
        """Where it is written until it is complete."""
        return self.place.part

    def write(self, make: Make, total: int, extra: Mapping[str, str] | None = None) -> list[str]:
        """Write what is not there yet, check it by reading it back, move it into place. ``extra`` are small files for
        the folder. Returns the shards that an earlier run had finished. Raises CheckpointError; nothing that was there
        before is lost."""
        self.place.check_free()
        try:
            kept = self._resume()
            for number, names in enumerate(self.shards):
                if (file := self._name(number)) not in self._done:
                    self.progress(f"shard {number + 1} of {len(self.shards)}: {len(names)} tensors")
                    self._write_shard(file, names, make)
            self._write_index(total)
            for name, text in (extra or {}).items():
                (self.part / name).write_text(text, encoding="utf-8")
            self._move()
        except OSError as cause:
            raise CheckpointError(
                f"cannot be written: {cause.strerror or cause}", where=str(self.place.out), hint=GO_ON
            ) from cause
        return kept

    def _name(self, number: int) -> str:
        if len(self.shards) == 1:
            return "model.safetensors"
        return f"model-{number + 1:05d}-of-{len(self.shards):05d}.safetensors"

    def _resume(self) -> list[str]:
        """What an earlier run finished, from the same origin and unharmed."""
        manifest = self.part / MANIFEST
        known = read_manifest(manifest)
        if not known and self.part.exists() and any(self.part.iterdir()):
            raise CheckpointError("there is something else here already", where=str(self.part), hint="move it away")
        if known.get("origin") != self.origin or known.get("shards") != [list(names) for names in self.shards]:
            shutil.rmtree(self.part, ignore_errors=True)
            known = {}
        self.part.mkdir(parents=True, exist_ok=True)
        self._done = {f: d for f, d in known.get("done", {}).items() if holds(self.part / f, d)}
        for left in self.part.iterdir():  # what a run that was killed had begun
            if left.name not in (*self._done, manifest.name):
                remove(left)
        self._note()
        return list(self._done)

    def _note(self) -> None:
        text = json.dumps({"schema": SCHEMA, "origin": self.origin, "shards": self.shards, "done": self._done})
        fresh = self.part / f"{MANIFEST}.new"
        fresh.write_text(text, encoding="utf-8")
        os.replace(fresh, self.part / MANIFEST)

    def _write_shard(self, file: str, names: tuple[str, ...], make: Make) -> None:
        digests: dict[str, str] = {}

        def noted() -> Iterator[tuple[str, Array]]:
            for name, made in make(names):
                self.progress(f"{file}: {name}")
                array = np.asarray(made, order="C")  # once for both its digest and its bytes
                digests[name] = digest(array)
                yield name, array

        write_safetensors(self.part / file, noted())
        if not holds(self.part / file, digests) or set(digests) != set(names):
            (self.part / file).unlink()
            problem = f"{file} does not hold what was written"
            raise CheckpointError(problem, where=str(self.part), hint="the disk may be failing: write elsewhere")
        self._done[file] = digests
        self._note()

    def _write_index(self, total: int) -> None:
        if len(self.shards) > 1:
            places = {name: self._name(number) for number, names in enumerate(self.shards) for name in names}
            index = {"metadata": {"total_size": total}, "weight_map": places}
            (self.part / "model.safetensors.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")

    def _move(self) -> None:
        single = self.place.out.suffix == ".safetensors"
        self.place.take(self.part / self._name(0) if single else self.part)
        remove(self.part if single else self.place.out / MANIFEST)


def digest(array: Array) -> str:
    """Of a tensor's dtype, shape and bytes."""
    found = hashlib.sha256(f"{array.dtype.name} {array.shape}".encode())
    found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def holds(file: Path, digests: Mapping[str, str]) -> bool:
    """Whether a checkpoint is there and holds exactly these tensors."""
    try:
        shard = open_checkpoint(file)
        return set(shard.specs) == set(digests) and all(digest(shard.read_apart(n)) == d for n, d in digests.items())
    except CheckpointError:
        return False


def read_manifest(file: Path) -> dict[str, Any]:
    """What an earlier run noted; empty where there is none of ours."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and found.get("schema") == SCHEMA else {}
