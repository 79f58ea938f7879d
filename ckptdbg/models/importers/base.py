"""What an importer is given, and how it calls a library."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.errors import LoaderError

Specs = Mapping[str, TensorSpec]


@dataclass(frozen=True)
class Given:
    """What is known of the two sides of a conversion."""

    source: Specs
    config: Mapping[str, Any]
    """The ``config.json`` of the side that has one, the source's first."""
    target: Callable[[], Specs]
    """The target's tensors. Raises CkptdbgError where there are none yet."""
    base: Path
    """The folder that paths are relative to: the config file's."""
    where: str
    """The config file, for errors."""


def need(module: str, what: str, install: str) -> Any:
    """Import a module of a library. Raises LoaderError that says what to install where it is not there."""
    try:
        return importlib.import_module(module)
    except Exception as error:
        missing = isinstance(error, ModuleNotFoundError)
        raise LoaderError(
            f"{what} cannot be imported: {error}" if missing else f"importing {module} raised {error!r}",
            hint=f"pip install {install}" if missing else f"it needs {install}",
        ) from error


def called(function: Callable[..., Any], name: str, *arguments: Any, **options: Any) -> Any:
    """Call a function of a library. Raises LoaderError that says which raised what."""
    try:
        return function(*arguments, **options)
    except Exception as error:
        raise LoaderError(f"{name} raised {type(error).__name__}: {error}", where=name) from error
