"""Makes the notebooks: every ``notebooks/*.py`` is executed and stored as the ``.ipynb`` beside it.

    python tools/make_notebooks.py                  all but those in notebooks/interop
    python tools/make_notebooks.py rope_theta       one
    python tools/make_notebooks.py interop/torchtitan --python .venv-interop/bin/python

What is stored stands alone: tables, pictures and text, no widget state and no reference to a widget.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from pathlib import Path

import jupytext
import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbformat import NotebookNode

import ckptdbg

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "notebooks"
TEXTS = {"text/plain", "text/markdown", "text/html"}
WIDGET = "application/vnd.jupyter.widget-view+json"


def names() -> list[str]:
    """The notebooks, without suffix; those that need another environment are left out."""
    return sorted(path.stem for path in FOLDER.glob("*.py"))


def read(name: str) -> NotebookNode:
    """The notebook as its ``.py`` says, not executed. Cell ids are counted: the same text gives the same file."""
    notebook = jupytext.read(FOLDER / f"{name}.py")
    notebook.metadata = NotebookNode(
        kernelspec={"display_name": "Python 3", "language": "python", "name": "python3"},
        language_info={"name": "python"},
    )
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
    return notebook


def execute(notebook: NotebookNode, folder: Path, python: str = sys.executable, seconds: int = 600) -> NotebookNode:
    """Run every cell in ``folder``, in a kernel of ``python``, and keep the outputs. Raises CellExecutionError."""
    with tempfile.TemporaryDirectory() as kernels:
        kernel = Path(kernels, "kernels", "python3")
        kernel.mkdir(parents=True)
        # Cells run in a folder of their own; a link is kept as it is, since it leads into a virtual environment.
        argv = [str(Path(python).absolute()), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        (kernel / "kernel.json").write_text(
            json.dumps({"argv": argv, "display_name": "Python 3", "language": "python"})
        )
        specs = KernelSpecManager(kernel_dirs=[str(kernel.parent)], ensure_native_kernel=False)
        client = NotebookClient(
            notebook,
            km=AsyncKernelManager(kernel_spec_manager=specs, kernel_name="python3"),
            timeout=seconds,
            store_widget_state=False,
            resources={"metadata": {"path": str(folder)}},
        )
        client.execute(cleanup_kc=True)  # a kernel manager of our own is not stopped unasked
    return standing_alone(notebook, folder)


def standing_alone(notebook: NotebookNode, folder: Path) -> NotebookNode:
    """Without anything that needs a kernel, and without what differs from run to run and from machine to machine.
    ``folder`` is where it ran."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            data.pop(WIDGET, None)
            for kind in data.keys() & TEXTS:
                data[kind] = without_folders(data[kind], folder)
            if "text" in output:
                output.text = without_folders(output.text, folder)
    return notebook


def without_folders(text: str, folder: Path) -> str:
    """Paths below ``folder`` begin there, those of installed code at their package."""
    ours = (re.escape(str(place)) for place in (folder.resolve(), Path(ckptdbg.__file__).parents[1]))
    return re.sub(rf"(?:{'|'.join(ours)}|/[^\s'\"<>:]*/site-packages)/", "", text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="as under notebooks/, without .py")
    parser.add_argument("--python", default=sys.executable, help="the interpreter whose kernel runs them")
    args = parser.parse_args()
    for name in args.names or names():
        print(name, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            notebook = execute(read(name), Path(folder), args.python)
        nbformat.write(notebook, FOLDER / f"{name}.ipynb")


if __name__ == "__main__":
    main()
