"""The notebooks as they are stored: in step with their ``.py``, and complete without a kernel."""

from __future__ import annotations

import re

import make_notebooks as make
import nbformat
import pytest
from nbconvert import HTMLExporter
from nbformat import NotebookNode

from ckptdbg.report.words import BADGE

NAMES = sorted(str(path.relative_to(make.FOLDER).with_suffix("")) for path in make.FOLDER.rglob("*.py"))


def stored(name: str) -> NotebookNode:
    return nbformat.read(make.FOLDER / f"{name}.ipynb", as_version=4)


def cells(notebook: NotebookNode) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(cell.cell_type, cell.source, tuple(cell.metadata.get("tags", ()))) for cell in notebook.cells]


def outputs(notebook: NotebookNode, kind: str) -> list[str]:
    found = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return [output.data[kind] for output in found if kind in output.get("data", {})]


def pictures(notebook: NotebookNode) -> int:
    return len(outputs(notebook, "image/png")) + sum(
        html.count("data:image/png") for html in outputs(notebook, "text/html")
    )


def needs_a_kernel(notebook: NotebookNode) -> list[str]:
    """What in it cannot be seen, or cannot be seen elsewhere."""
    wrong = ["widget state"] if "widgets" in notebook.metadata else []
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            wrong += ["an error"] if output.output_type == "error" else []
            wrong += ["a widget"] if make.WIDGET in output.get("data", {}) else []
        wrong += ["a cell that has not run"] if cell.cell_type == "code" and cell.execution_count is None else []
    text = nbformat.writes(notebook)
    return wrong + re.findall(r"/(?:home|root|tmp|work|Users)/[^\s\"'\\]*", text)


def test_there_are_notebooks():
    assert {"debug", "rope_permutation", "gemma_norm", "rope_theta", "your_own_model", "interop/torchtitan"} <= {*NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_py_and_ipynb_are_in_step(name):
    assert cells(stored(name)) == cells(make.read(name)), "run `make notebooks`"


def test_a_changed_cell_is_seen():
    changed = make.read("debug")
    changed.cells[-1].source += "\nresult.findings"
    assert cells(stored("debug")) != cells(changed)


@pytest.mark.parametrize("name", NAMES)
def test_stored_outputs_need_no_kernel(name):
    notebook = stored(name)
    assert needs_a_kernel(notebook) == []
    assert pictures(notebook)
    assert any(
        text.startswith("# ") and any(b in text for b in BADGE.values()) for text in outputs(notebook, "text/markdown")
    )


@pytest.mark.parametrize(
    ("data", "wrong"),
    [({make.WIDGET: {"model_id": "1"}}, "a widget"), ({"text/plain": "/root/somebody/x.py"}, "/root/somebody/x.py")],
)
def test_what_needs_a_kernel_or_a_machine_is_seen(data, wrong):
    output = nbformat.v4.new_output("display_data", data)
    cell = nbformat.v4.new_code_cell("x", execution_count=1, outputs=[output])
    assert needs_a_kernel(nbformat.v4.new_notebook(cells=[cell])) == [wrong]


@pytest.mark.parametrize("name", NAMES)
def test_as_a_web_page_it_shows_each_picture_once_and_no_empty_widget(name):
    page, _ = HTMLExporter().from_notebook_node(stored(name))
    assert len(re.findall(r'<img\s[^>]*src="data:image/png', page)) == pictures(stored(name))
    assert "widget-view" not in page
    assert any(badge in page for badge in BADGE.values())


def test_folders_of_this_machine_are_left_out(tmp_path):
    def short(text: str) -> str:
        return make.without_folders(text, tmp_path)

    assert short(f"in the target: {make.ckptdbg.__file__}:60") == "in the target: ckptdbg/__init__.py:60"
    assert short("at /a/b/lib/python3.11/site-packages/torch/nn.py") == "at torch/nn.py"
    assert short(f"{tmp_path}/mapping.yaml:3: wrong") == "mapping.yaml:3: wrong"
    assert short("model/layers/0") == "model/layers/0"
