"""A result as JSON and back."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ckptdbg.errors import CkptdbgError
from ckptdbg.report.files import write_text
from ckptdbg.result import Result


def dumps(result: Result) -> str:
    """JSON text. JSON has no NaN or infinity: such a number is null, and the ``nonfinite`` note of the record it is in
    (or of the nearest record around it that has one) says what it was."""
    tree = result.model_dump(mode="python", by_alias=True)
    left = _finite(tree, "")
    assert not left, "Result has a nonfinite note of its own"
    return json.dumps(tree, indent=1, ensure_ascii=False, allow_nan=False, default=str) + "\n"


def write(result: Result, path: str | os.PathLike[str]) -> Path:
    """Write ``dumps(result)``. Raises ``CkptdbgError`` when the file cannot be written."""
    return write_text(path, dumps(result))


def read(path: str | os.PathLike[str]) -> Result:
    """Read what ``write`` wrote. Raises ``CkptdbgError`` when it is not a result."""
    try:
        return Result.model_validate_json(Path(path).read_bytes())
    except (OSError, ValidationError) as error:
        first = str(error).splitlines()[0]
        raise CkptdbgError(
            "this is not a result of ckptdbg",
            where=str(path),
            found=first,
            expected="JSON with schema ckptdbg.result/1",
            hint="write one with `ckptdbg compare CONFIG --json FILE`",
        ) from error


def _finite(node: Any, path: str) -> list[str]:
    """Replace non-finite floats below ``node`` by None; the notes that no record below could take are returned."""
    items = node.items() if isinstance(node, dict) else enumerate(node)
    notes: list[str] = []
    for key, value in list(items):
        name = f"{path}[{key}]" if isinstance(node, list) else f"{path}.{key}".lstrip(".")
        if isinstance(value, float) and not math.isfinite(value):
            node[key] = None
            notes.append(f"{name} is {value}")
        elif isinstance(value, tuple):
            node[key] = list(value)
            notes += _finite(node[key], name)
        elif isinstance(value, dict | list):
            notes += _finite(value, name)
    if notes and isinstance(node, dict) and "nonfinite" in node and not isinstance(node["nonfinite"], int):
        # The note is part of the record, so the path starts there.
        own = ", ".join(note.removeprefix(path).lstrip(".") for note in notes)
        node["nonfinite"] = f"{node['nonfinite']}; {own}" if node["nonfinite"] else own
        return []
    return notes
