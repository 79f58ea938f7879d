"""One JupyterLab for the whole run, a fresh page and a fresh notebook for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Browser, Page

from ckptdbg.models.loaders.function import importable

with importable(Path(__file__).parents[2] / "tools"):
    from lab import Lab, Notebook, opened


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> Iterator[Lab]:
    """What ``ckptdbg open`` starts, in an empty folder."""
    folder = tmp_path_factory.mktemp("lab")
    with opened(folder, home=tmp_path_factory.mktemp("home")) as lab:
        yield lab


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    yield page
    page.close()


@pytest.fixture
def notebook(lab: Lab, page: Page, request: pytest.FixtureRequest) -> Iterator[Callable[..., Notebook]]:
    """Opens a notebook of these cells, named after the test; its kernel is stopped at the end."""
    shown = []

    def new(*cells: str) -> Notebook:
        # A name of its own: JupyterLab would otherwise find the kernel of an earlier notebook.
        name = f"{request.node.originalname}-{len(shown)}.ipynb"
        document = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        document.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(document, Path(lab.folder, name))
        shown.append(Notebook.open(page, lab, name))
        return shown[-1]

    yield new
    for one in shown:
        one.stop()
