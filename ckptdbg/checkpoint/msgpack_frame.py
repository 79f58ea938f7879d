"""The frame of a msgpack file: what is in it and where, without reading what is large.

https://github.com/msgpack/msgpack/blob/master/spec.md
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ckptdbg.checkpoint.training import Keys
from ckptdbg.errors import CheckpointError

DEEPEST = 200
_SMALL = 16  # bytes that hold any head, and any number
# By first byte: the kind, and how many bytes say how much of it there is.
_HEADS = {0xC4: ("bytes", 1), 0xC5: ("bytes", 2), 0xC6: ("bytes", 4), 0xC7: ("ext", 1), 0xC8: ("ext", 2)}
_HEADS |= {0xC9: ("ext", 4), 0xD9: ("bytes", 1), 0xDA: ("bytes", 2), 0xDB: ("bytes", 4)}
_HEADS |= {0xDC: ("array", 2), 0xDD: ("array", 4), 0xDE: ("map", 2), 0xDF: ("map", 4)}


class Head(NamedTuple):
    """What an object is (``map``, ``array``, ``bytes``, ``ext``, ``small``), how many members or bytes it has, where
    they begin, and the type of an extension."""

    kind: str
    count: int
    start: int
    code: int = 0

    @property
    def stop(self) -> int:
        """Where its bytes end; of a map or an array, where they begin."""
        return self.start if self.kind in ("map", "array") else self.start + self.count


Node = Head | dict[str, Any]
"""An object, or the members of a map or an array (by their index) under their keys."""


class Frame:
    """One file, mapped. Raises CheckpointError where it is damaged, cut short, or says what cannot be."""

    def __init__(self, path: Path) -> None:
        self._msgpack = import_msgpack(str(path))
        self.path, self.size = path, path.stat().st_size
        # copy on write: an array that a framework wants writable never changes the file
        self.data = np.memmap(path, np.uint8, mode="c") if self.size else np.empty(0, np.uint8)

    def tree(self, at: int = 0, stop: int | None = None) -> Node:
        """The object that begins at ``at`` and ends at ``stop``, at the end of the file where that is not said."""
        node, end = self._walk(at, ())
        if end != (stop := self.size if stop is None else stop):
            raise self.damaged(f"what begins at {at} ends at {end} and not at {stop}")
        return node

    def _walk(self, at: int, keys: Keys) -> tuple[Node, int]:
        head = self.head(at)
        if head.kind not in ("map", "array"):
            return head, head.stop
        if len(keys) > DEEPEST:
            raise self.damaged(f"more than {DEEPEST} maps in one another")
        members, at = {}, head.start
        for index in range(head.count):
            key = str(index)
            if head.kind == "map":
                name = self.head(at)
                key, at = str(self.value(name)), name.stop
            if key in members:
                raise self.damaged(f"the key {'/'.join((*keys, key))} comes twice")
            members[key], at = self._walk(at, (*keys, key))
        return members, at

    def head(self, at: int) -> Head:
        """The object at ``at``."""
        few = self.data[at : at + _SMALL].tobytes()
        first = few[0] if few else 0xC1
        if first in _HEADS:
            kind, width = _HEADS[first]
            head = Head(kind, int.from_bytes(few[1 : 1 + width], "big"), at + 1 + width)
        elif 0xD4 <= first <= 0xD8:
            head = Head("ext", 1 << (first - 0xD4), at + 1)
        elif 0x80 <= first <= 0xBF:
            kind = "map" if first < 0x90 else "array" if first < 0xA0 else "bytes"
            head = Head(kind, first & (0x1F if kind == "bytes" else 0x0F), at + 1)
        else:
            return Head("small", self._small(few, at)[1], at)
        if head.kind == "ext":
            head = head._replace(start=head.start + 1, code=few[head.start - at] if head.start - at < len(few) else 0)
        least = head.count * (2 if head.kind == "map" else 1)  # a member has a byte at least
        if head.start + least > self.size:
            raise self.damaged(
                f"{head.count} {'members' if head.stop == head.start else 'bytes'} are said to be at {at}"
            )
        return head

    def value(self, head: Head) -> Any:
        """A number, a text, or nothing."""
        few = self.data[head.start : head.stop].tobytes()
        if head.kind == "small":
            return self._small(few, head.start)[0]
        try:
            return few.decode("utf-8") if head.kind == "bytes" else None
        except UnicodeDecodeError as cause:
            raise self.damaged(f"a text at {head.start} is none") from cause

    def _small(self, few: bytes, at: int) -> tuple[Any, int]:
        unpacker = self._msgpack.Unpacker()
        unpacker.feed(few)
        try:
            return unpacker.unpack(), unpacker.tell()
        except (ValueError, self._msgpack.exceptions.UnpackException) as cause:
            raise self.damaged(f"it ends or makes no sense at {at}") from cause

    def damaged(self, how: str) -> CheckpointError:
        """The error that says so."""
        problem = f"not a msgpack file, or cut short: {how}"
        return CheckpointError(problem, where=str(self.path), found=f"{self.size} bytes", hint="copy it again")


def import_msgpack(where: str) -> Any:
    """The package; ``CheckpointError`` where it is not installed."""
    try:
        import msgpack
    except ImportError as cause:
        raise CheckpointError("needs msgpack", where=where, hint="pip install 'ckptdbg[msgpack]'") from cause
    return msgpack
