"""Which format a checkpoint is written in, and the writing of those that their own library writes in one go.

They are not written in pieces that outlive an interruption: what is interrupted leaves nothing and begins anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ckptdbg.checkpoint.base import Array
from ckptdbg.checkpoint.dcp_folder import write_dcp
from ckptdbg.checkpoint.msgpack_file import write_msgpack
from ckptdbg.checkpoint.opening import FORMATS
from ckptdbg.checkpoint.orbax_folder import write_orbax
from ckptdbg.checkpoint.placing import Place, remove
from ckptdbg.checkpoint.shards import MANIFEST, SCHEMA, Make, digest, holds, read_manifest
from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.checkpoint.training import Keys
from ckptdbg.errors import CheckpointError

Write = Callable[[Path, Mapping[str, TensorSpec], Callable[[str], Array], str, Keys], None]
"""Writes tensors of these shapes and dtypes, each asked for once by its name; the text is where, for errors, and the
keys are those under which they all go."""
WRITERS: dict[str, Write] = {"dcp": write_dcp, "orbax": write_orbax, "msgpack": write_msgpack}
SHARDED = "safetensors"
FILES = {".safetensors": SHARDED, ".msgpack": "msgpack"}
ANEW = "nothing is kept of it: the same command begins anew"


def format_of(out: Path, asked: str | None = None) -> str:
    """The format to write: the one asked for, else what the suffix says, else safetensors. ``CheckpointError`` where it
    is one that is only read, or the suffix says another."""
    told = FILES.get(out.suffix) or (out.suffix[1:] if out.suffix in FORMATS else None)
    chosen = asked or told or SHARDED
    if chosen not in (SHARDED, *WRITERS):
        hint = "llama.cpp makes GGUF of a Hugging Face folder" if chosen == "gguf" else None
        expected = f"one of {', '.join((SHARDED, *WRITERS))}"
        raise CheckpointError(
            "not a format that is written", where=str(out), found=chosen, expected=expected, hint=hint
        )
    if chosen != (told or chosen) or (chosen == "msgpack" and told is None):
        expected = "a name that ends in .msgpack" if chosen == "msgpack" else f"--format {told}, or another name"
        raise CheckpointError(f"the name does not go with --format {chosen}", where=str(out), expected=expected)
    return chosen


def is_file(out: Path) -> bool:
    """Whether what is written there is one file."""
    return out.suffix in FILES


@dataclass(frozen=True)
class WholeWriter:
    """Writes one checkpoint to its place, in one of ``WRITERS``."""

    place: Place
    format: str
    progress: Callable[[str], None] = lambda _: None
    under: Keys = ()

    def write(self, specs: Mapping[str, TensorSpec], make: Make, extra: Mapping[str, str] | None = None) -> None:
        """Write it beside its place, read it back and compare, move it there. ``extra`` are small files for a folder.
        Raises CheckpointError; nothing that was there before is lost, and nothing half written is left."""
        self.place.check_free()
        part = self.place.part
        if part.exists() and any(part.iterdir()) and not read_manifest(part / MANIFEST):
            raise CheckpointError("there is something else here already", where=str(part), hint="move it away")
        try:
            remove(part)
            part.mkdir(parents=True)
            (part / MANIFEST).write_text(json.dumps({"schema": SCHEMA, "format": self.format}), encoding="utf-8")
            ready = part / f"whole{self.place.out.suffix}"
            self._write(ready, specs, make)
            for name, text in (extra or {}).items():
                (ready / name).write_text(text, encoding="utf-8")
            self.place.take(ready)
        except OSError as cause:
            problem = f"cannot be written: {cause.strerror or cause}"
            raise CheckpointError(problem, where=str(self.place.out), hint=ANEW) from cause
        finally:
            remove(part)

    def _write(self, ready: Path, specs: Mapping[str, TensorSpec], make: Make) -> None:
        digests: dict[str, str] = {}

        def read(name: str) -> Array:
            self.progress(f"{len(digests) + 1} of {len(specs)}: {name}")
            [(_, array)] = make((name,))
            digests[name] = digest(array)
            return array

        WRITERS[self.format](ready, specs, read, str(self.place.out), self.under)
        self.progress("reading back what was written")
        if not holds(ready, digests) or set(digests) != set(specs):
            problem = f"what was written in {self.format} does not read back as it was"
            raise CheckpointError(problem, where=str(self.place.out), hint="the disk may be failing: write elsewhere")
