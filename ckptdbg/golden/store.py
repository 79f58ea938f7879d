"""Sketches on disk: a folder with ``sketch.json``, one readable line for each place, and ``sketch.safetensors``.

The text changes where the source's values do, in the fourth figure or so, and is what a diff shows; everything that a
comparison computes with is in the other file. Nothing is unpickled, and records are made from a fixed list of classes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.checkpoint import Checkpoint, open_checkpoint, write_safetensors
from ckptdbg.compare.store import pack, unpack
from ckptdbg.errors import CheckpointError
from ckptdbg.golden.arrays import Shelf, written_array
from ckptdbg.golden.likely import Likely
from ckptdbg.golden.signs import ALGORITHM, VECTORS
from ckptdbg.golden.sketch import Place, Sketch
from ckptdbg.models.records import Summary

Array = NDArray[Any]
SCHEMA = "ckptdbg.sketch/1"
TEXT, NUMBERS = "sketch.json", "sketch.safetensors"
_MOST_TEXT = 2**28
"""Bytes of the unpacked structure: 256 MB, a thousand times what a large model needs."""
_PLAIN = ("config", "environment")
"""Fields that are JSON already."""
_DAMAGED = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, zlib.error)


def is_sketch(path: Path) -> bool:
    """Whether a folder holds a sketch and nothing else."""
    held = {file.name for file in path.iterdir()} if path.is_dir() else set()
    return TEXT in held <= {TEXT, NUMBERS}


def write_sketch(path: Path, sketch: Sketch) -> Path:
    """Write a folder. Raises CheckpointError where something else than a sketch is in the way."""
    if path.exists() and not is_sketch(path):
        raise CheckpointError(
            "there is something else than a sketch here already", where=str(path), hint="choose another path for -o"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        write_safetensors(fresh / NUMBERS, _numbers(sketch).items())
        (fresh / TEXT).write_text(_text(sketch, _digest(fresh / NUMBERS)), encoding="utf-8")
        fresh.chmod(0o755)
        if path.exists():
            shutil.rmtree(path)
        os.replace(fresh, path)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return path


def _numbers(sketch: Sketch) -> dict[str, Array]:
    """All arrays: those of the places one after another, and everything else in one compressed text."""
    shelf, packed, every = Shelf(), {}, [*sketch.places, *sketch.tensors.values()]
    apart = ("places", "tensors", "likely", *_PLAIN)
    rest = pack({f.name: getattr(sketch, f.name) for f in fields(sketch) if f.name not in apart}, packed)
    structure = {
        "sketch": rest,
        "packed": [shelf.put(array) for array in packed.values()],
        "places": [[shelf.put(p.rows), len(p.quanta), p.features, p.dtype, p.stream] for p in every],
        "tensors": list(sketch.tensors),
        "arrays": shelf.written,
        **{name: getattr(sketch, name) for name in _PLAIN},
    }
    text = json.dumps(structure, separators=(",", ":")).encode()
    return {
        "structure": np.frombuffer(zlib.compress(text, 9), np.uint8),
        "quanta": np.concatenate([p.quanta for p in every]),
        "exponents": np.concatenate([p.exponents for p in every]),
        "sizes": np.concatenate([p.sizes for p in every], axis=1),
        **({} if sketch.likely is None else {"likely.ids": sketch.likely.ids, "likely.log_p": sketch.likely.log_p}),
        **shelf.tensors,
    }


def _text(sketch: Sketch, digest: str) -> str:
    """Readable, a place a line, for people and for diffs."""
    head = {
        "schema": SCHEMA,
        "signs": ALGORITHM,
        "numbers": digest,
        "environment": sketch.environment,
        "probe": {name: list(np.shape(value)) for name, value in sketch.inputs.items()},
    }
    lines = [f'"{key}": {json.dumps(value)}' for key, value in head.items()]
    lines += [f'"places": {_lines(_place_lines(sketch))}', f'"tensors": {_lines(_tensor_lines(sketch))}']
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _lines(items: Iterable[Mapping[str, Any]]) -> str:
    return "[\n" + ",\n".join(f" {json.dumps(item)}" for item in items) + "\n]"


def _place_lines(sketch: Sketch) -> list[dict[str, Any]]:
    names: dict[int, list[str]] = {sketch.output: ["output"]}
    for anchor, places in zip(sketch.view.graph.anchors, sketch.ports, strict=True):
        for port, place in zip(("in", "out"), places, strict=True):
            if place is not None:
                names.setdefault(place, []).append(f"{' + '.join(anchor.parameters)} {port}")
    return [{"sites": names[i], "rows": len(p.rows), **_said(p)} for i, p in enumerate(sketch.places)]


def _tensor_lines(sketch: Sketch) -> list[dict[str, Any]]:
    specs = sketch.view.specs
    return [{"tensor": n, "shape": list(specs[n].shape), **_said(p)} for n, p in sketch.tensors.items()]


def _said(place: Place) -> dict[str, Any]:
    stats = {name: float(f"{getattr(place.stats, name):.5g}") for name in ("mean", "std", "min", "max")}
    return {"features": place.features, "dtype": place.dtype, **stats}


def read_sketch(path: Path) -> Sketch:
    """Read a folder that ``write_sketch`` wrote. Raises CheckpointError."""
    head = _head(path / TEXT)
    numbers = open_checkpoint(path / NUMBERS)
    if _digest(path / NUMBERS) != head.get("numbers"):
        problem = f"not the file that {TEXT} was written with"
        raise CheckpointError(problem, where=str(path / NUMBERS), hint="restore both files, or capture again")
    try:
        return _sketch(head, numbers)
    except _DAMAGED as cause:
        problem = f"a damaged sketch: {type(cause).__name__}: {cause}"
        raise CheckpointError(problem, where=str(path), hint="capture again") from cause


def _head(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise CheckpointError(
            "not a sketch", where=str(file.parent), expected="a folder written by `ckptdbg capture --sketch`"
        )
    try:
        head = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as cause:
        raise CheckpointError(f"a damaged sketch: {cause}", where=str(file), hint="capture again") from cause
    said = [head.get(key) for key in ("schema", "signs")] if isinstance(head, dict) else [type(head).__name__, None]
    if said != [SCHEMA, ALGORITHM]:
        found, expected = (", ".join(map(str, each)) for each in (said, (SCHEMA, ALGORITHM)))
        raise CheckpointError("another sketch format", where=str(file), found=found, expected=expected)
    return head


def _sketch(head: dict[str, Any], numbers: Checkpoint) -> Sketch:
    structure = json.loads(_inflated(numbers.read("structure").tobytes()))
    arrays = [written_array(item, numbers.read) for item in structure["arrays"]]
    rest = unpack(structure["sketch"], lambda name: arrays[structure["packed"][int(name)]])
    rest |= {name: structure[name] for name in _PLAIN}
    places = _places(structure, arrays, [*head["places"], *head["tensors"]], numbers)
    names = structure["tensors"]
    count = len(places) - len(names)
    kept = "likely.ids" in numbers.specs
    likely = Likely(numbers.read("likely.ids"), numbers.read("likely.log_p")) if kept else None
    made = Sketch(
        places=tuple(places[:count]), tensors=dict(zip(names, places[count:], strict=True)), likely=likely, **rest
    )
    _check(made)
    return made


def _inflated(packed: bytes) -> bytes:
    unpacker = zlib.decompressobj()
    text = unpacker.decompress(packed, _MOST_TEXT)
    if not unpacker.eof:
        raise ValueError("its structure is cut short or unreasonably long")
    return text


def _places(structure: dict[str, Any], arrays: list[Array], said: list[dict], numbers: Checkpoint) -> list[Place]:
    quanta, exponents, sizes = (numbers.read(name) for name in ("quanta", "exponents", "sizes"))
    found, start = [], 0
    for (rows, groups, features, dtype, stream), line in zip(structure["places"], said, strict=True):
        end = start + groups
        part = quanta[start:end], exponents[start:end], sizes[:, start:end]
        stats = Summary(*(float(line[name]) for name in ("mean", "std", "min", "max")), nonfinite=0)
        found.append(Place(arrays[rows], *part, features, dtype, stats, stream))
        start = end
    if quanta.shape != (start, VECTORS) or exponents.shape != (start,) or sizes.shape != (3, start):
        raise ValueError(f"projections {list(quanta.shape)}, expected {[start, VECTORS]}")
    if not all(0 < len(p.quanta) <= len(p.rows) for p in found):
        raise ValueError("more groups than rows")
    return found


def _check(sketch: Sketch) -> None:
    """That the parts fit together, so that nothing later trips over them."""
    anchors, places = sketch.view.graph.anchors, range(len(sketch.places))
    used = [p for ports in sketch.ports for p in ports if p is not None] + [sketch.output]
    if len(sketch.ports) != len(anchors) or not all(p in places for p in used):
        raise ValueError("its sites do not fit its places")
    for anchor, (into, out) in zip(anchors, sketch.ports, strict=True):
        for place, features in ((into, anchor.contraction), (out, anchor.features)):
            if place is not None and sketch.places[place].features != features:
                raise ValueError(f"{' + '.join(anchor.parameters)} has another number of features than its place")


def _digest(file: Path) -> str:
    return hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest()
