"""Writing a report so that a reader never sees half of one."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ckptdbg.errors import CkptdbgError


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write ``text`` (UTF-8) beside ``path`` and move it into place. Folders are made. Raises ``CkptdbgError``."""
    path = Path(path)
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder")
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", newline="\n", dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            temporary = file.name
            file.write(text)
        # A temporary file is private; a report is as readable as any other new file.
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise CkptdbgError(
            "the report could not be written", where=str(path), found=error, hint="give another path"
        ) from error
    return path


def write_new(path: str | os.PathLike[str], text: str, error: type[CkptdbgError] = CkptdbgError) -> Path:
    """``write_text`` to a path where nothing is yet. Raises ``error`` where there is."""
    if Path(path).exists():
        raise error("there is a file here already", where=str(path), hint="name a new one")
    return write_text(path, text)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
