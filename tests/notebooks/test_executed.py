"""The notebooks, run from top to bottom without a browser."""

from __future__ import annotations

import make_notebooks as make
import nbformat
import pytest
from nbformat import NotebookNode

from ckptdbg.cli.open import place_notebook
from ckptdbg.samples import build_sample


def verdicts(notebook: NotebookNode) -> list[str]:
    """The first line of every result that is shown."""
    shown = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", ())]
    return [data["text/markdown"].splitlines()[0] for data in shown if "text/markdown" in data]


def pictures(notebook: NotebookNode) -> int:
    shown = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", ())]
    return sum("image/png" in data or "data:image/png" in data.get("text/html", "") for data in shown)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "debug" else pytest.mark.slow) for name in make.names()]
)
def test_a_notebook_runs_and_says_what_it_said(name, tmp_path):
    stored = nbformat.read(make.FOLDER / f"{name}.ipynb", as_version=4)
    run = make.execute(make.read(name), tmp_path)
    assert verdicts(run) == verdicts(stored)
    assert pictures(run) == pictures(stored) > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("faults", "verdict"),
    [
        ((), "# ✓ Equivalent"),
        (("head-bfloat16",), "# ≈ Precision floor"),
        (("rope-theta",), "# ≠ Definition differs"),
        (("down-zeros",), "# ✗ Divergent"),
    ],
    ids=lambda value: value if isinstance(value, str) else "+".join(value) or "healthy",
)
def test_the_debug_notebook_runs_to_its_end_whatever_the_verdict(faults, verdict, tmp_path):
    """Filled in as `ckptdbg open` does; nothing in it takes for granted that there is a divergence or a repair."""
    path, _ = place_notebook(build_sample(tmp_path / "sample", faults=faults), tmp_path)
    run = make.execute(nbformat.read(path, as_version=4), tmp_path)
    assert verdicts(run)[0] == verdict
    assert (tmp_path / "ckptdbg-report.html").stat().st_size > 100_000


def test_a_cell_that_fails_is_not_stored(tmp_path):
    broken = make.read("debug")
    broken.cells = [nbformat.v4.new_code_cell("config = 'nowhere.yaml'"), *broken.cells[2:]]
    with pytest.raises(Exception, match=r"nowhere\.yaml"):
        make.execute(broken, tmp_path)
