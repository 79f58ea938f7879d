"""Reading a pickle of plain values and NumPy arrays, and of nothing else: no name in the file is ever imported.

What NumPy leaves in a pickle are calls of a few of its functions. They are met here by functions of our own that make
arrays from bytes; every other name, and so every way to run code, is refused by its name.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ckptdbg.errors import CheckpointError

_CODE = re.compile(r"[iufb][1-8]")


class Refused(Exception):
    """The pickle asks for something else than values."""


class _Kind:
    """Stands for ``numpy.ndarray`` where a pickle names it."""


class _Dtype:
    """What a pickle says of a dtype."""

    def __init__(self, code: object, *_: object) -> None:
        if not isinstance(code, str) or not _CODE.fullmatch(code):
            raise Refused(f"an array of dtype {code!r}")
        self.code, self.order = code, "<"

    def __setstate__(self, state: tuple) -> None:
        self.order = {"<": "<", ">": ">", "|": "|", "=": "="}[state[1]]

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.order + self.code)


class _Array:
    """What a pickle says of an array; ``value`` once it is told."""

    value: NDArray[Any] | None = None

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, column_major, raw = state
        self.value = _made(raw, dtype, shape, "F" if column_major else "C")


def _made(raw: Any, dtype: Any, shape: Any, order: Any) -> NDArray[Any]:
    if not isinstance(dtype, _Dtype) or not isinstance(raw, bytes | bytearray | str):
        raise Refused("an array of objects")
    data = raw.encode("latin1") if isinstance(raw, str) else bytes(raw)
    return np.frombuffer(data, dtype.dtype).reshape(shape, order="F" if order == "F" else "C")


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _scalar(dtype: Any, raw: Any) -> Any:
    return _made(raw, dtype, (), "C")[()]


def _encode(text: object, encoding: object) -> bytes:
    if encoding != "latin1" or not isinstance(text, str):
        raise Refused(f"the encoding {encoding!r}")
    return text.encode("latin1")


_KNOWN: dict[tuple[str, str], Any] = {("numpy", "ndarray"): _Kind, ("numpy", "dtype"): _Dtype}
for core in ("numpy.core", "numpy._core"):
    _KNOWN[f"{core}.multiarray", "_reconstruct"] = _reconstruct
    _KNOWN[f"{core}.multiarray", "scalar"] = _scalar
    _KNOWN[f"{core}.numeric", "_frombuffer"] = _made
_KNOWN["_codecs", "encode"] = _encode


class _Unpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Callable[..., Any]:
        known = _KNOWN.get((module_name, global_name))
        if known is None:
            raise Refused(f"{module_name}.{global_name}")
        return known

    def persistent_load(self, pid: Any) -> Any:
        raise Refused("something outside of it")


def read_pickle(path: Path) -> Any:
    """The value in a pickle. Raises CheckpointError where it holds, or does, anything but plain values and arrays."""
    with path.open("rb") as file:
        return _plain(_load(file, path))


def _load(file: BinaryIO, path: Path) -> Any:
    try:
        return _Unpickler(file).load()
    except Refused as cause:
        raise CheckpointError(
            "this pickle asks for more than values, and was not run",
            where=str(path),
            found=cause,
            expected="lists, dicts, text, numbers and NumPy arrays",
            hint="ask whoever made it for a .jsonl file",
        ) from cause
    except Exception as cause:  # a damaged pickle raises whatever its bytes happen to lead to
        problem = f"not a pickle, or damaged: {type(cause).__name__}: {cause}"
        raise CheckpointError(problem, where=str(path), hint="copy it again") from cause


def _plain(value: Any) -> Any:
    """``value`` with its arrays as arrays."""
    if isinstance(value, _Array):
        return value.value
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
