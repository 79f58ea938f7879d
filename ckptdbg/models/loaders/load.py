"""``load_model``: from a config's ``source:`` or ``target:`` to a ``Loaded`` model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ckptdbg.checkpoint.folders import find_config
from ckptdbg.config import KNOWN_LOADERS
from ckptdbg.errors import LoaderError
from ckptdbg.models.loaders.call import call_loader
from ckptdbg.models.loaders.function import find_function
from ckptdbg.models.loaders.kinds import wrap_result
from ckptdbg.models.loaders.loaded import Loaded


def load_model(
    loader: str,
    path: Path | None,
    *,
    options: Mapping[str, Any],
    inputs: Mapping[str, str],
    output: str | int | None,
    base: Path,
    precision: str,
) -> Loaded:
    """Load one model.

    ``loader`` is a built-in name, ``module:function`` or ``file.py:function`` (relative to ``base``, the config's
    folder); ``inputs`` renames inputs (the model's name to the usual one), ``output`` selects a key or an index of what
    the model returns, ``precision`` is the dtype the built-in loaders load in. Raises LoaderError, with the user's file
    and line where the fault is in the user's code.
    """
    if path is not None and not path.exists():
        raise LoaderError(
            "there is nothing at this path", where=str(path), hint="paths in a config are relative to the config file"
        )
    if loader == "huggingface":
        from ckptdbg.models.loaders.huggingface import load_huggingface

        return load_huggingface(path, options=options, inputs=inputs, output=output, precision=precision)
    if ":" not in loader:
        raise LoaderError("unknown loader", found=repr(loader), hint=KNOWN_LOADERS)
    function = find_function(loader, base)
    model = call_loader(function, loader, path, options, base)
    loaded = wrap_result(model, function, loader, inputs=inputs, output=output)
    loaded.config = config_beside(path)
    return loaded


def config_beside(path: Path | None) -> dict[str, Any] | None:
    """The ``config.json`` of the checkpoint at ``path``, or None."""
    file = find_config(path) if path is not None else None
    if file is None:
        return None
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise LoaderError(f"config.json is not JSON ({error})", where=str(file)) from error
