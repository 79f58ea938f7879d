"""Which format a folder has, told by what is in it, and where its ``config.json`` is.

A trainer's folder may stand above: ``checkpoints/1000/items`` and ``checkpoint/step-1000`` are found from
``checkpoints`` and ``checkpoint`` where there is one step.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from ckptdbg.checkpoint import dcp_metadata, orbax_folder
from ckptdbg.checkpoint.huggingface import KNOWN
from ckptdbg.errors import CheckpointError

Kind = Literal["huggingface", "dcp", "orbax"]
STEP = re.compile(r"(?:(?:global[-_]?)?(?:step|checkpoint|ckpt|epoch)[-_]?)?\d+")
ITEMS = ("items", "default")  # what the managers of MaxText and of Orbax call the tree of a step
UNFINISHED = ".orbax-checkpoint-tmp"


def find_folder(path: Path) -> tuple[Kind, Path]:
    """The format of the checkpoint in a folder, or of the only one beneath it, and its own folder. ``CheckpointError``
    where there are several, or one that was not saved whole. A folder of nothing that we know is left to the reader of
    Hugging Face's, which says so."""
    if kind := _kind(path):
        return kind, path
    found = _beneath(path, 2)
    if len(found) > 1:
        inner = (folder.parent if folder.name in ITEMS else folder for folder in found)
        names = sorted((str(folder.relative_to(path)) for folder in inner), key=_natural)
        problem = f"there are {len(found)} checkpoints in this folder"
        raise CheckpointError(problem, where=str(path), found=", ".join(names), hint=f"name one: {path / names[-1]}")
    for folder in found:
        return _kind(folder) or "orbax", folder
    if left := [folder.name for folder in (path, *_folders(path)) if UNFINISHED in folder.name]:
        raise CheckpointError("Orbax did not finish saving this", where=str(path), found=", ".join(left))
    return "huggingface", path


def find_config(path: Path) -> Path | None:
    """The ``config.json`` of the checkpoint at a path, where there is one: in its folder or, for a step or what is in
    one, above that."""
    if not path.is_dir():
        return None
    try:
        kind, folder = find_folder(path)
    except CheckpointError:
        kind, folder = None, path
    folder = folder.resolve()
    while not (folder / "config.json").is_file():
        if kind == "huggingface" or not (STEP.fullmatch(folder.name) or STEP.fullmatch(folder.parent.name)):
            return None
        folder = folder.parent
    return folder / "config.json"


def _kind(path: Path) -> Kind | None:
    if any((path / name).is_file() for name in KNOWN) or any(path.glob("*.safetensors")):
        return "huggingface"
    if (path / dcp_metadata.FILE).is_file():
        return "dcp"
    if (path / orbax_folder.FILE).is_file():
        return "orbax"
    if shards := sorted(path.glob("*.distcp")):
        problem = "shards of a torch Distributed Checkpoint without its .metadata"
        hint = "copy that file too, which a pattern * leaves out; if there is none, saving was not finished"
        raise CheckpointError(problem, where=str(path), found=f"{len(shards)} *.distcp", hint=hint)
    return None


def _beneath(path: Path, depth: int) -> list[Path]:
    """Folders of torch's and Orbax's checkpoints below this one; of a step's several trees the model's."""
    found = []
    for child in _folders(path):
        if UNFINISHED in child.name:
            continue
        if _kind(child) in ("dcp", "orbax"):
            found.append(child)
        elif depth > 1:
            found += _beneath(child, depth - 1)
    named = [folder for folder in found if folder.parent == path and folder.name in ITEMS]
    return named[:1] or found


def _folders(path: Path) -> list[Path]:
    return sorted(child for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))


def _natural(name: str) -> list[tuple[int, str]]:
    """Numbers in their own order."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
