"""What the table commands share: where results go, and a cache of compiled programs."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "benchmarks" / "out"


def cache_programs(folder: str) -> None:
    """Let equal JAX programs be compiled once: most faults change values, not programs."""
    import jax

    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def read_results(file: Path) -> list[dict[str, Any]]:
    """The cases of an earlier run, if there was one."""
    return read_all(file)["cases"] if file.is_file() else []


def read_all(file: Path) -> dict[str, Any]:
    """``summary`` and ``cases`` of a run."""
    return json.loads(file.read_text())


def write_results(file: Path, results: dict[str, Any]) -> None:
    """``summary`` and ``cases`` as JSON, moved into place whole."""
    write_text(file, json.dumps(results, indent=1) + "\n")


def write_text(file: Path, text: str) -> None:
    """A file, moved into place whole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False, encoding="utf-8") as fresh:
        fresh.write(text)
    os.replace(fresh.name, file)


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; numbers with three digits."""
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(map(cell, row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def cell(value: Any) -> str:
    """One cell: numbers short, nothing that would end the cell early."""
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(value).replace("|", "\\|").replace("\n", " ")
