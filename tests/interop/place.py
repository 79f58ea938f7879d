"""Put a ready config from ``sample_configs/interop`` to work in a folder of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ckptdbg.checkpoint import open_checkpoint, write_safetensors
from ckptdbg.documents import dump_yaml, parse_yaml, read_text
from ckptdbg.errors import ConfigError
from ckptdbg.samples.checkpoints import write_checkpoint
from ckptdbg.samples.pairs import sample_configs

Edit = Callable[[dict[str, Any]], None]
"""Changes the entries of a mapping, by name, in place."""


def no_edit(_: dict[str, Any]) -> None:
    """Leaves everything as it is."""


def place(
    name: str,
    folder: Path,
    source: str | Path,
    *,
    edit: Edit = no_edit,
    target: str | None = None,
    options: dict[str, Any] | None = None,
    **sizes: Any,
) -> Path:
    """The config ``name`` ready to run in ``folder``, with an edited copy of its mapping; returns the config's path.

    ``source`` is a checkpoint folder, or the family of a tiny random one with ``sizes`` in its configuration.
    ``target`` is the target's path; without it, its weights are those that the mapping makes. ``options`` are added to
    those of the target's loader.
    """
    ready = sample_configs() / "interop"
    file = ready / f"{name}.yaml"
    config = parse_yaml(read_text(file, ConfigError), str(file), ConfigError)
    if isinstance(source, str):
        source = write_checkpoint(source, folder / "source", **sizes)
    config["source"]["path"] = str(source)
    if ".py:" in config["target"]["loader"]:
        config["target"]["loader"] = str(ready / config["target"]["loader"])
    if options:
        config["target"].setdefault("options", {}).update(options)
    config["target"].pop("path")
    if target is not None:
        config["target"]["path"] = target
    config["mapping"] = str(copy_mapping(ready / config["mapping"], folder / "mapping.yaml", edit))
    path = folder / "config.yaml"
    path.write_text(dump_yaml(config), encoding="utf-8")
    return path


def copy_mapping(file: Path, to: Path, edit: Edit) -> Path:
    """Write the mapping ``file`` to ``to``, edited."""
    document = parse_yaml(read_text(file, ConfigError), str(file), ConfigError)
    edit({entry["name"]: entry for entry in document["entries"]})
    to.write_text(dump_yaml(document), encoding="utf-8")
    return to


def copy_checkpoint(
    source: Path, to: Path, *, tensors: Callable[[dict[str, Any]], None] = no_edit, config: Edit = no_edit
) -> Path:
    """A copy of a checkpoint folder; ``tensors`` and ``config`` change its tensors and its config.json in place."""
    checkpoint = open_checkpoint(source)
    values = {name: np.array(checkpoint.read(name)) for name in checkpoint.specs}
    told = json.loads((source / "config.json").read_text(encoding="utf-8"))
    tensors(values)
    config(told)
    to.mkdir()
    write_safetensors(to / "model.safetensors", values.items())
    (to / "config.json").write_text(json.dumps(told), encoding="utf-8")
    return to


def swap(tensors: dict[str, Any], one: str, other: str) -> None:
    """Exchange two tensors."""
    tensors[one], tensors[other] = tensors[other], tensors[one]
