"""Call a user's loader so that whatever goes wrong in it is reported at its own file and line."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ckptdbg.checkpoint.opening import FORMATS, open_checkpoint
from ckptdbg.errors import CheckpointError, CkptdbgError, LoaderError
from ckptdbg.models.loaders.function import importable, line_in


def call_loader(
    function: Callable[..., Any], loader: str, path: Path | None, options: Mapping[str, Any], base: Path
) -> Any:
    """``function(path, **options)``. Raises LoaderError with the file and line of whatever failed."""
    _check_options(function, loader, options)
    try:
        with importable(base):
            return function(path, **options)
    except CkptdbgError:
        raise
    except (Exception, SystemExit) as error:
        raise LoaderError(
            f"the loader {loader} raised {type(error).__name__}: {error}",
            where=line_in(error, inspect.getsourcefile(function)),
            found=damage(path),
        ) from error


def damage(path: Path | None) -> str | None:
    """What is wrong with the checkpoint at ``path`` by itself, as far as our own readers can tell."""
    try:
        if path is not None and (path.is_dir() or path.suffix in FORMATS):
            open_checkpoint(path)
    except CheckpointError as error:
        return str(error)
    return None


def defined_at(function: Callable[..., Any]) -> str:
    """``file:line`` of a function's definition, or its name where it has no source."""
    try:
        return f"{inspect.getsourcefile(function)}:{inspect.getsourcelines(function)[1]}"
    except (OSError, TypeError):
        return getattr(function, "__qualname__", repr(function))


def _check_options(function: Callable[..., Any], loader: str, options: Mapping[str, Any]) -> None:
    """Options that do not fit are told from a TypeError inside the loader by looking before calling."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some callables of C extensions have no signature
        return
    try:
        signature.bind(None, **options)
    except TypeError as error:
        raise LoaderError(
            f"the loader {loader} cannot be called: {error}",
            where=defined_at(function),
            found=f"{function.__name__}{signature}",
            expected=f"load(path, {', '.join(f'{name}=...' for name in options) or '**options'})",
        ) from error
