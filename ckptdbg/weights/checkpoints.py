"""The two checkpoints of a config, read by the names that its mapping speaks of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ckptdbg.checkpoint import Checkpoint, TensorSpec, open_checkpoint
from ckptdbg.config import ModelConfig
from ckptdbg.errors import CheckpointError, ConfigError

Array = NDArray[Any]


@dataclass(frozen=True)
class Tensors:
    """Named tensors, wherever they come from."""

    specs: dict[str, TensorSpec]
    reader: Callable[[str], Array]
    config: dict[str, Any] | None
    """The ``config.json`` beside them."""
    where: str
    """For people."""

    def read(self, name: str) -> Array:
        """One tensor in its stored dtype."""
        return self.reader(name)


def open_side(side: ModelConfig, name: str, file: Path) -> Tensors:
    """The checkpoint that a config names for one side; ``CheckpointError`` or ``ConfigError`` where there is none that
    can be read without its model."""
    if side.path is None:
        raise ConfigError(
            f"the {name} has no checkpoint: it is made by its loader",
            where=str(file),
            hint=f"set {name}: {{path: ...}}",
        )
    try:
        return as_tensors(open_checkpoint(side.path, side.under))
    except CheckpointError as cause:
        hint = f"only its loader {side.loader} can read it: --load takes the tensors from the loaded model"
        raise CheckpointError(f"the {name} cannot be read as a checkpoint: {cause}", hint=hint) from cause


def as_tensors(checkpoint: Checkpoint) -> Tensors:
    """A checkpoint's tensors."""
    return Tensors(checkpoint.specs, checkpoint.read_apart, checkpoint.config, str(checkpoint.path))
