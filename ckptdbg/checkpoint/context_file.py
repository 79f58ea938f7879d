"""A context file: names and shapes without values, as MaxText's conversion agent writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from ckptdbg.checkpoint.base import Array, Checkpoint
from ckptdbg.checkpoint.huggingface import read_json
from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.errors import CheckpointError


class ContextCheckpoint(Checkpoint):
    """Flat JSON, ``name -> shape``. The dtype is not written there: float32 stands for it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, {name: _spec(path, name, shape) for name, shape in read_json(path).items()})

    def _read(self, name: str) -> Array:
        hint = "give the checkpoint itself where values are needed"
        raise CheckpointError(
            f"{name} has no values: a context file holds names and shapes", where=str(self.path), hint=hint
        )


def _spec(path: Path, name: str, shape: object) -> TensorSpec:
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        expected = 'a flat object, name to shape, such as {"layers.0.weight": [4, 8]}'
        raise CheckpointError(f"no shape under {name}", where=str(path), found=repr(shape)[:60], expected=expected)
    return TensorSpec(tuple(shape), "float32")


def context_text(specs: Mapping[str, TensorSpec]) -> str:
    """The text of a context file, one tensor on a line."""
    lines = (f"  {json.dumps(name)}: {json.dumps(list(spec.shape))}" for name, spec in specs.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"
