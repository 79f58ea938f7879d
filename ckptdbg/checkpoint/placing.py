"""A place that is filled beside itself and taken at the end, so that what was there stays until the new is whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ckptdbg.errors import CheckpointError


@dataclass(frozen=True)
class Place:
    """Where a checkpoint goes."""

    out: Path
    overwrite: bool = False
    inputs: Sequence[Path] = ()
    """Files that must not be replaced: what is read."""

    @property
    def part(self) -> Path:
        """The folder in which it is written until it is complete."""
        return self.out.with_name(f".{self.out.name}.part")

    def check_free(self) -> None:
        """``CheckpointError`` where it cannot be taken."""
        if not self.out.name or self.out.name == "..":
            raise CheckpointError("a folder or a file needs a name", where=str(self.out))
        for file in self.inputs:
            if self.out.resolve() in (file.resolve(), *file.resolve().parents) and self.out.exists():
                problem = f"{file} is here, which this conversion reads"
                raise CheckpointError(problem, where=str(self.out), hint="name another place")
        if self.out.exists() and not self.overwrite:
            hint = "name another place, or --overwrite to replace it once the new one is complete"
            raise CheckpointError("there is something here already", where=str(self.out), hint=hint)

    def take(self, ready: Path) -> None:
        """Move ``ready`` here; what was there before goes only when it is."""
        old = self.out.with_name(f".{self.out.name}.old")
        if self.out.exists():
            remove(old)
            os.replace(self.out, old)
        try:
            os.replace(ready, self.out)
        except BaseException:
            if os.path.lexists(old):
                os.replace(old, self.out)
            raise
        remove(old)


def remove(path: Path) -> None:
    """A file, a link or a folder, where it is there."""
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
