"""``.msgpack``: what flax's ``serialization.to_bytes`` makes of a tree, arrays as an extension type of msgpack.

An array is ``(shape, dtype, bytes)``, packed once more; one beyond a gibibyte is a map of flat pieces.
https://flax.readthedocs.io/en/latest/api_reference/flax.serialization.html
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from ckptdbg.checkpoint.base import Array, Checkpoint
from ckptdbg.checkpoint.dtypes import as_dtype, is_numeric
from ckptdbg.checkpoint.msgpack_frame import Frame, Head, Node, import_msgpack
from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.checkpoint.training import OTHER, TRAINER, Keys
from ckptdbg.checkpoint.trees import parameter_names, tree_of
from ckptdbg.errors import CheckpointError

ARRAY, SCALAR = 1, 3  # flax's extension types that hold an array
PIECES = "__msgpack_chunked_array__"
PIECE = 2**30  # bytes beyond which flax cuts an array up


class Stored(NamedTuple):
    """An array, or a flat piece of one, and where its bytes are in the file."""

    spec: TensorSpec
    spans: tuple[tuple[int, int], ...]


class MsgpackCheckpoint(Checkpoint):
    """One ``.msgpack`` file, mapped: nothing is copied when it is read, except an array in pieces."""

    def __init__(self, path: Path) -> None:
        frame = Frame(path)
        leaves = dict(_leaves(frame, frame.tree(), ()))
        arrays = {keys: leaf for keys, leaf in leaves.items() if leaf is not None}
        if not arrays or () in arrays:
            raise CheckpointError("holds no named arrays", where=str(path), expected="a tree that flax serialised")
        names = parameter_names(list(arrays), str(path))
        self._stored = {name: arrays[keys] for keys, name in names.items()}
        self._bytes = frame.data
        super().__init__(path, {name: stored.spec for name, stored in self._stored.items()})
        self.left_out = {
            "/".join(keys): OTHER if leaf is None else TRAINER for keys, leaf in leaves.items() if keys not in names
        }

    def _read(self, name: str) -> Array:
        spec, spans = self._stored[name]
        flat = [np.asarray(self._bytes[start:stop]) for start, stop in spans]
        whole = flat[0] if len(flat) == 1 else np.concatenate(flat)
        return np.require(whole.view(as_dtype(spec.dtype)), requirements="A").reshape(spec.shape)


def _leaves(frame: Frame, node: Node, keys: Keys) -> Iterator[tuple[Keys, Stored | None]]:
    """Every leaf; None for what is no array."""
    if isinstance(node, Head):
        yield keys, _array(frame, keys, node) if node.kind == "ext" and node.code in (ARRAY, SCALAR) else None
    elif PIECES in node:
        yield keys, _whole(frame, keys, node)
    else:
        for key, member in node.items():
            yield from _leaves(frame, member, (*keys, key))


def _array(frame: Frame, keys: Keys, head: Head) -> Stored:
    """What ``(shape, dtype, bytes)`` says, held against how many bytes there are."""
    packed = frame.tree(head.start, head.stop)
    match packed:
        case {"0": dict(numbers), "1": Head("bytes") as text, "2": Head("bytes") as data}:
            shape, dtype = _shape(frame, numbers), frame.value(text)
        case _:
            shape, dtype, data = None, None, head
    if shape is None or dtype is None or not is_numeric(dtype):
        found = None if shape is None else dtype
        raise CheckpointError(
            f"array {'/'.join(keys)} has no proper shape and dtype", where=str(frame.path), found=found
        )
    if (size := math.prod(shape) * as_dtype(dtype).itemsize) != data.count:
        problem = f"array {'/'.join(keys)} of shape {shape} and {dtype} has the wrong number of bytes"
        raise CheckpointError(problem, where=str(frame.path), found=data.count, expected=size)
    return Stored(TensorSpec(shape, dtype), ((data.start, data.stop),))


def _whole(frame: Frame, keys: Keys, node: dict[str, Node]) -> Stored:
    """An array from its pieces."""
    shape, chunks = node.get("shape"), node.get("chunks")
    pieces = [piece for _, piece in _leaves(frame, chunks, keys)] if isinstance(chunks, dict) else []
    sizes = _shape(frame, shape) if isinstance(shape, dict) else None
    whole = [piece for piece in pieces if piece is not None]
    kinds = {piece.spec.dtype for piece in whole}
    held = sum(math.prod(piece.spec.shape) for piece in whole)
    if sizes is None or len(kinds) != 1 or math.prod(sizes) != held:
        problem = f"the pieces of array {'/'.join(keys)} do not make it up"
        raise CheckpointError(problem, where=str(frame.path), found=f"{held} elements", expected=f"shape {sizes}")
    return Stored(TensorSpec(sizes, kinds.pop()), tuple(span for piece in whole for span in piece.spans))


def _shape(frame: Frame, numbers: dict[str, Node]) -> tuple[int, ...] | None:
    found = [frame.value(number) for number in numbers.values() if isinstance(number, Head)]
    proper = len(found) == len(numbers) and all(type(n) is int and 0 <= n < 2**63 for n in found)
    return tuple(found) if proper else None


def write_msgpack(
    file: Path, specs: Mapping[str, TensorSpec], read: Callable[[str], Array], where: str, under: Keys = ()
) -> None:
    """Write a tree as flax does, below the keys ``under``. One array is in memory at a time, and up to a gibibyte of it
    thrice more. Raises OSError, and CheckpointError, which says ``where``."""
    msgpack = import_msgpack(where)
    packer = msgpack.Packer()

    def put(node: Any, stream: IO[bytes]) -> None:
        if isinstance(node, str):
            _put_array(packer, stream, read(node))
            return
        stream.write(packer.pack_map_header(len(node)))
        for key, member in node.items():
            stream.write(packer.pack(key))
            put(member, stream)

    with file.open("wb") as stream:
        put(tree_of(specs, where, under), stream)


def _put_array(packer: Any, stream: IO[bytes], array: Array) -> None:
    array = np.ascontiguousarray(array).reshape(array.shape)
    if array.nbytes <= PIECE:
        fields = (array.shape, array.dtype.name, array.tobytes())
        stream.write(packer.pack_ext_type(ARRAY, packer.pack(fields)))
        return
    flat, step = array.reshape(-1), max(1, PIECE // array.itemsize)
    stream.write(packer.pack_map_header(3) + packer.pack(PIECES) + packer.pack(True))
    stream.write(
        packer.pack("shape") + packer.pack({str(i): n for i, n in enumerate(array.shape)}) + packer.pack("chunks")
    )
    starts = range(0, flat.size, step)
    stream.write(packer.pack_map_header(len(starts)))
    for number, start in enumerate(starts):
        stream.write(packer.pack(str(number)))
        _put_array(packer, stream, flat[start : start + step])
