"""Find the function that ``module:function`` or ``file.py:function`` names."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from ckptdbg.errors import LoaderError


def find_function(loader: str, base: Path) -> Callable[..., Any]:
    """Import what ``loader`` names, relative to the folder ``base``. Raises LoaderError."""
    place, _, name = loader.rpartition(":")
    with importable(base):
        module = _from_file((base / place).resolve()) if place.endswith(".py") else _from_name(place, loader)
    function = getattr(module, name, None)
    if not callable(function):
        defined = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise LoaderError(
            f"{place} has no function {name!r}",
            where=module.__file__,
            found=", ".join(sorted(defined)) or "no functions",
            hint=f"define {name}(path, **options) there",
        )
    return function


def line_in(error: BaseException, file: str | None) -> str | None:
    """``file:line`` of the deepest frame of ``error`` that lies in ``file``."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f"{file}:{frames[-1].lineno}" if frames else file


@contextlib.contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Let modules beside the user's file be imported, as when the file is run as a script."""
    entry = str(folder.resolve())
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(entry)


def _from_file(file: Path) -> ModuleType:
    if not file.is_file():
        raise LoaderError("there is no such file", where=str(file), hint="it is looked up relative to the config file")
    # A name of its own, so that two files called load.py do not meet; registered, because dataclasses look it up.
    name = f"ckptdbg_loader_{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise LoaderError("not a Python file", where=str(file))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with importable(file.parent):
            spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        line = (
            f"{file}:{error.lineno}" if isinstance(error, SyntaxError) and error.lineno else line_in(error, str(file))
        )
        raise LoaderError(f"importing it raised {type(error).__name__}: {error}", where=line) from error
    return module


def _from_name(name: str, loader: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise LoaderError(
            f"importing {name!r} raised {type(error).__name__}: {error}",
            where=loader,
            hint="install it, or name a file as file.py:function",
        ) from error
