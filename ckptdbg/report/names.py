"""Names and numbers as people read them. A name from a checkpoint or config is hostile until it went through here."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from pathlib import Path
from typing import Any


def visible(text: object) -> str:
    """``text`` on one line; a character that does not print (escape, line break, direction mark) is spelt out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def number(value: float | None, digits: int = 3) -> str:
    """``value`` short enough for a table; an en dash where there is none."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return str(value)
    return f"{value:.{digits}g}"


def op(value: Any) -> str:
    """A mapping op as one line of a mapping file: ``rearrange: "(h d) m -> m h d", h: heads``."""
    if not isinstance(value, dict):
        return visible(value)
    return visible(", ".join(f"{key}: {_scalar(part)}" for key, part in value.items()))


def _scalar(value: Any) -> str:
    plain = isinstance(value, str) and value.replace("_", "").isalnum()
    return str(value) if plain else json.dumps(value, ensure_ascii=False, default=str)


def place(file: str | None, line: int | None) -> str:
    """``file:line``, or what is known of it; a file below the working directory is named from there."""
    if file is None:
        return ""
    with suppress(ValueError):
        file = str(Path(file).relative_to(Path.cwd()))
    return visible(file if line is None else f"{file}:{line}")


def count(n: int, noun: str) -> str:
    """``1 layer``, ``2 layers``."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun.removesuffix('y') + 'ies' if noun.endswith('ry') else noun + 's'}"


def span(names: list[str]) -> str:
    """Layer names for a sentence: runs of whole numbers shortened (``0 to 7, 9``), others listed."""
    runs: list[list[str]] = []
    for name in names:
        if runs and name.isdecimal() and runs[-1][-1].isdecimal() and int(name) == int(runs[-1][-1]) + 1:
            runs[-1].append(name)
        else:
            runs.append([name])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(run) for run in map(_shown, runs))


def _shown(run: list[str]) -> list[str]:
    return [visible(name) for name in run]
