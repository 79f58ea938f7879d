"""A checkpoint converted through its mapping, in either direction: one entry in memory at a time."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ckptdbg.checkpoint import TensorSpec
from ckptdbg.checkpoint.dtypes import as_dtype
from ckptdbg.checkpoint.placing import Place
from ckptdbg.checkpoint.shards import ShardedWriter, plan_shards, size_of
from ckptdbg.checkpoint.training import Keys
from ckptdbg.checkpoint.trees import NO_KEYS
from ckptdbg.checkpoint.writing import SHARDED, WholeWriter, format_of, is_file
from ckptdbg.errors import CheckpointError, CkptdbgError, MappingError
from ckptdbg.mapping import BoundMapping, Mapping
from ckptdbg.weights.checkpoints import Tensors

Array = NDArray[Any]
SHARD_SIZE = 5 * 10**9
_UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


@dataclass(frozen=True)
class Conversion:
    """What is made of what."""

    bound: BoundMapping
    """From the tensors that are read to those that are written."""
    read: Tensors
    dropped: list[str] = field(default_factory=list)
    """What this direction loses or leaves out, one line each."""

    def specs(self) -> dict[str, TensorSpec]:
        """Every tensor that is written, in the order in which it is complete."""
        found, made = {}, Counter[str]()
        for entry in self.bound.entries:
            for name, spec in zip(entry.targets, entry.target_specs, strict=True):
                made[name] += 1
                if made[name] == len(self.bound.producers[name]):
                    found[name] = spec
        return found

    def make(self, names: tuple[str, ...]) -> Iterator[tuple[str, Array]]:
        """Some tensors, in their stored dtypes."""
        wanted = set(names)
        entries = tuple(entry for entry in self.bound.entries if wanted & set(entry.targets))
        for name, array, _ in BoundMapping(entries, self.bound.file).values(self.read.read):
            if name in wanted:
                yield name, array

    @property
    def origin(self) -> str:
        """A digest of everything that the tensors depend on."""
        entries = [(e.name, e.sources, e.targets, e.ops_text, e.target_specs) for e in self.bound.entries]
        files = sorted((str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in _files(Path(self.read.where)))
        return hashlib.sha256(repr((entries, files)).encode()).hexdigest()


def forward(mapping: Mapping, source: Tensors, target: Tensors | None, dtype: str | None = None) -> Conversion:
    """From source to target. The dtypes are those of ``target`` where there is one already, else what the mapping says,
    else the source's; ``dtype`` stands for all floating-point ones. Raises MappingError."""
    config = source.config or (target.config if target is not None else None) or {}
    bound = mapping.bind_as_made(config, source.specs, target.specs if target is not None else {})
    if dtype is not None:
        kind = _floating(dtype)
        bound = BoundMapping(
            tuple(replace(e, target_specs=tuple(_with(s, kind) for s in e.target_specs)) for e in bound.entries),
            bound.file,
        )
    return Conversion(bound, source, _dropped(bound, back=False))


def backward(mapping: Mapping, source: Tensors, target: Tensors) -> Conversion:
    """From target to source: shapes, dtypes and sizes are those of the source that is there. Raises MappingError where
    an op has no inverse."""
    config = source.config or target.config or {}
    bound = mapping.bind(config, source.specs, target.specs)
    back = bound.reversed()
    left = [n for n in source.specs if n not in bound.entries_of_source]
    dropped = _dropped(bound, back=True) + [f"{name}: ignored by the mapping, and not made" for name in left]
    return Conversion(back, target, dropped)


def write(
    conversion: Conversion,
    out: Path,
    *,
    format: str | None = None,
    under: Keys = (),
    shard_size: int = SHARD_SIZE,
    overwrite: bool = False,
    extra: dict[str, str] | None = None,
    inputs: Sequence[Path] = (),
    progress: Callable[[str], None] = lambda _: None,
) -> list[str]:
    """Write a conversion to a folder or a file, in the ``format`` asked for or told by its name (``format_of``); a tree
    goes below the keys ``under``. All is read back and compared. What the conversion reads, and ``inputs`` besides, is
    never replaced. Returns the shards that an earlier, interrupted run had finished: of safetensors only. Raises
    CheckpointError, MappingError."""
    specs, chosen = conversion.specs(), format_of(out, format)
    place = Place(out, overwrite, [*_files(Path(conversion.read.where)), *inputs])
    if chosen != SHARDED:
        WholeWriter(place, chosen, progress, under).write(specs, conversion.make, extra)
        return []
    if under:
        raise CheckpointError(NO_KEYS, where=str(out), found="/".join(under))
    total = sum(map(size_of, specs.values()))
    shards = plan_shards(specs, total if is_file(out) else shard_size)
    return ShardedWriter(place, shards, conversion.origin, progress).write(conversion.make, total, extra)


def parse_size(text: str) -> int:
    """Bytes of ``5GB``, ``500 MB``, ``2GiB``. Raises CkptdbgError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", text.lower())
    size = int(float(match[1]) * _UNITS[match[2]]) if match and match[2] in _UNITS else 0
    if size < 1:
        raise CkptdbgError("not a size", where="--shard-size", found=repr(text), expected="such as 5GB or 500MB")
    return size


def _dropped(bound: BoundMapping, *, back: bool) -> list[str]:
    """What each entry says that it loses in one direction, once for all its layers."""
    lines = [f"{e.name} ({e.where}): {text}" for e in bound.entries for text in e.dropped()]
    return [text for text in dict.fromkeys(lines) if ("reverse" in text if back else ": the reverse" not in text)]


def _floating(dtype: str) -> str:
    try:
        kind = as_dtype(dtype)
    except TypeError:
        kind = None
    if kind is None or kind.kind in "iubc":
        raise MappingError("not a floating-point dtype", where="--dtype", found=dtype, expected="such as bfloat16")
    return kind.name


def _with(spec: TensorSpec, dtype: str) -> TensorSpec:
    return spec if as_dtype(spec.dtype).kind in "iubc" else TensorSpec(spec.shape, dtype)


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
