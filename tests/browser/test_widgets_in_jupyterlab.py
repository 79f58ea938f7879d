"""Single widgets in a real JupyterLab: drawn, read out without the kernel, and deaf to the notebook's own keys."""

from __future__ import annotations

import json
import shutil

from lab import Notebook
from playwright.sync_api import expect

from ckptdbg.cli.open import notebooks

LARGE = """
import numpy as np
from ckptdbg_widgets import ActivationHeatmap

rng = np.random.default_rng(0)
source = rng.normal(size=(128, 4096)).astype(np.float32)
target = source.copy()
target[77, 3001] = np.nan
ActivationHeatmap(source, target)
"""
CANVAS = ".jp-OutputArea-output canvas"
STILL = ".jp-OutputArea-output .ckptdbg-still"


def opened(notebook, cell: str) -> Notebook:
    shown = notebook(cell)
    shown.run_all()
    assert shown.failures() == []
    shown.page.wait_for_selector(CANVAS)
    return shown


def test_a_large_heatmap_is_read_out_without_the_kernel(notebook):
    shown = opened(notebook, LARGE)
    shown.page.wait_for_timeout(500)  # what comes with the widget's creation is no answer to the pointer
    before = len(shown.sent), len(shown.received)
    box = shown.page.locator(CANVAS).first.bounding_box()
    read = set()
    for step in range(20):
        shown.page.mouse.move(box["x"] + box["width"] * (step + 0.5) / 20, box["y"] + box["height"] / 2)
        shown.page.wait_for_timeout(20)
        read.add(shown.page.locator(".ck-readout").first.inner_text())
    assert len(read) >= 10, read
    assert (len(shown.sent), len(shown.received)) == before
    assert shown.errors == []


def test_that_a_message_to_the_kernel_would_be_seen(notebook):
    shown = notebook("1 + 1")
    before = len(shown.sent)
    shown.run_all()
    assert len(shown.sent) > before


def test_keys_in_a_widget_do_not_reach_the_notebook(notebook):
    shown = opened(notebook, LARGE)
    shown.page.locator(".jp-OutputArea-output [tabindex='0']:has(canvas)").first.focus()
    for key in ("b", "a", "d", "d", "x", "Enter", "m"):
        shown.page.keyboard.press(key)
    shown.page.wait_for_timeout(200)
    assert [(cell["cell_type"], cell["source"]) for cell in shown.cells()] == [("code", LARGE)]


def test_a_key_outside_a_widget_would_have_changed_the_notebook(notebook):
    shown = opened(notebook, LARGE)
    shown.page.evaluate("() => window.jupyterapp.commands.execute('notebook:enter-command-mode')")
    shown.page.keyboard.press("b")
    shown.until(lambda: len(shown.cells()) == 2, "a new cell")


def test_a_live_widget_hides_its_still(notebook):
    shown = opened(notebook, LARGE)
    still = shown.page.locator(STILL)
    expect(still).to_have_count(1)
    expect(still).to_be_hidden()
    shown.page.evaluate("() => document.querySelectorAll('.ckptdbg').forEach(widget => widget.remove())")
    expect(still).to_be_visible()


def test_saved_and_opened_again_without_its_kernel_only_the_still_is_seen(notebook, lab, browser):
    shown = opened(notebook, LARGE)
    shown.until(lambda: shown.outputs("text/html"), "the still")
    shown.save()
    shown.stop()
    name = max(lab.folder.glob("test_saved_and_opened_again*.ipynb")).name
    assert "widgets" not in json.loads((lab.folder / name).read_text())["metadata"]
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    again = Notebook.open(page, lab, name)
    picture = page.locator(f"{STILL} img")
    expect(picture).to_be_visible()
    assert picture.evaluate("image => image.naturalWidth") > 500
    assert "128" in picture.get_attribute("alt")
    lost = page.get_by_text("model not found")
    lost.wait_for(state="attached")
    expect(lost).to_be_hidden()
    # JupyterLab itself says in the console that the widget is gone; nothing else does.
    assert [error for error in again.errors if "widget model not found" not in error] == []
    again.stop()
    page.close()


def test_a_notebook_that_is_shipped_shows_verdict_and_pictures_before_any_cell_has_run(lab, page):
    shutil.copy(notebooks() / "debug.ipynb", lab.folder / "shipped.ipynb")
    shown = Notebook.open(page, lab, "shipped.ipynb")
    expect(page.locator(".jp-RenderedMarkdown h1", has_text="Divergent")).to_be_visible()
    picture = page.locator(f"{STILL} img").first
    picture.scroll_into_view_if_needed()
    expect(picture).to_be_visible()
    assert picture.evaluate("image => image.naturalWidth") > 500
    assert shown.errors == []
    shown.stop()
