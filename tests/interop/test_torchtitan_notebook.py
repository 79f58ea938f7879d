"""The torchtitan notebook, run where torchtitan is."""

from __future__ import annotations

from pathlib import Path

import nbformat

from ckptdbg.models.loaders.function import importable

with importable(Path(__file__).parents[2] / "tools"):
    import make_notebooks as make


def verdicts(notebook: nbformat.NotebookNode) -> list[str]:
    """The first line of every result that is shown."""
    shown = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", ())]
    return [data["text/markdown"].splitlines()[0] for data in shown if "text/markdown" in data]


def test_it_runs_both_directions_and_says_what_it_said(tmp_path):
    stored = nbformat.read(make.FOLDER / "interop" / "torchtitan.ipynb", as_version=4)
    run = make.execute(make.read("interop/torchtitan"), tmp_path)
    assert verdicts(run) == verdicts(stored) == ["# ✓ Equivalent", "# ✓ Equivalent", "# ✗ Divergent"]
