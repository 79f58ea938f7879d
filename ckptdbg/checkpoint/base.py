"""What every checkpoint offers, whatever its format."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.errors import CheckpointError

Array = NDArray[Any]


class Checkpoint(ABC):
    """Named tensors. Opening one reads no tensor data."""

    path: Path | None
    """None for tensors in memory."""
    config: dict[str, Any] | None
    """The model's ``config.json``, where the format has one."""
    specs: dict[str, TensorSpec]
    """Shape and dtype of every tensor, in the order of the file."""
    left_out: dict[str, str]
    """What else is there, by name, and why it is no tensor of the model."""
    notes: dict[str, str]
    """What a reader should know of a tensor: that it is stored in another way than it is read."""

    def __init__(self, path: Path | None, specs: dict[str, TensorSpec], config: dict[str, Any] | None = None) -> None:
        self.path, self.specs, self.config = path, specs, config
        self.left_out, self.notes = {}, {}

    def read(self, name: str) -> Array:
        """One tensor in its own dtype (bfloat16 and float8 as ml_dtypes), not to be written to.

        ``CheckpointError`` where there is no tensor of this name.
        """
        if name not in self.specs:
            close = difflib.get_close_matches(name, self.specs, n=3)
            hint = f"did you mean {', '.join(close)}?" if close else f"it has {len(self.specs)} tensors"
            raise CheckpointError(f"no tensor {name}", where=str(self.path or "<memory>"), hint=hint)
        return self._read(name)

    def read_apart(self, name: str) -> Array:
        """The same, and nothing of the file stays in memory once the array is gone: for going through many."""
        return self.read(name)

    @abstractmethod
    def _read(self, name: str) -> Array: ...


class MemoryCheckpoint(Checkpoint):
    """Arrays that are already there, with the verbs of a checkpoint."""

    def __init__(self, tensors: Mapping[str, Array], config: dict[str, Any] | None = None) -> None:
        super().__init__(None, {name: spec_of(array) for name, array in tensors.items()}, config)
        self._tensors = dict(tensors)

    def _read(self, name: str) -> Array:
        return self._tensors[name]


class CheckpointPart(Checkpoint):
    """The tensors of a checkpoint whose names begin with ``key`` and a dot or a slash, by the rest of their names.

    ``CheckpointError`` where there are none."""

    def __init__(self, whole: Checkpoint, key: str) -> None:
        self._whole = whole
        self._names = {n[len(key) + 1 :]: n for n in whole.specs if n.startswith((f"{key}.", f"{key}/"))}
        if not self._names:
            first = sorted({n.replace("/", ".").split(".")[0] for n in whole.specs})
            problem, expected = f"nothing is under {key}", f"one of {', '.join(first[:5])}"
            raise CheckpointError(problem, where=str(whole.path or "<memory>"), expected=expected)
        super().__init__(whole.path, {short: whole.specs[n] for short, n in self._names.items()}, whole.config)
        taken = set(self._names.values())
        self.left_out = whole.left_out | {n: f"not under {key}" for n in whole.specs if n not in taken}
        self.notes = {short: whole.notes[n] for short, n in self._names.items() if n in whole.notes}

    def _read(self, name: str) -> Array:
        return self._whole.read(self._names[name])

    def read_apart(self, name: str) -> Array:
        """The same, and nothing of the file stays in memory once the array is gone: for going through many."""
        return self._whole.read_apart(self._names[name]) if name in self._names else self.read(name)


def spec_of(array: Array) -> TensorSpec:
    """Shape and dtype of an array."""
    return TensorSpec(tuple(np.shape(array)), np.asarray(array).dtype.name)
