"""Makes docs/pictures: the demo as an exported page and as a notebook in JupyterLab, light and dark.

python tools/screenshots.py [FOLDER]
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import chdir
from pathlib import Path

from lab import Notebook, launch, opened
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

import ckptdbg
from ckptdbg.samples import DEMO_FAULTS, build_sample
from ckptdbg_widgets import export

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "pictures"
WIDTH = 1280
SAMPLE = "ckptdbg-demo"
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}
WINDOWS = """() => {
  window.jupyterapp.commands.execute("application:toggle-left-area");
  document.querySelector(".ck-map").closest(".jp-CodeCell").scrollIntoView({block: "start"});
}"""
# Folders of the machine that takes the pictures are nobody's business.
WITHOUT_FOLDERS = """(folder) => {
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) walker.currentNode.data = walker.currentNode.data.replaceAll(folder, "");
}"""


def exported(folder: Path) -> Path:
    """The page that a comparison of the demo exports."""
    with chdir(folder):  # files are named from where a person works
        session = ckptdbg.open(build_sample(SAMPLE, faults=DEMO_FAULTS))
        result, ids = session.compare(), session.inputs["input_ids"]
        return export(result, folder / "page.html", comparison=session.comparison, mapping=session.mapping, ids=ids)


def of_page(browser: Browser, file: Path, folder: Path) -> None:
    """The whole page, and its map alone."""
    for theme in THEMES:
        page = browser.new_page(viewport={"width": WIDTH, "height": 900}, color_scheme=theme)
        page.goto(file.as_uri())
        page.wait_for_selector("canvas")
        page.wait_for_timeout(500)  # the first drawing follows the layout
        page.evaluate(WITHOUT_FOLDERS, f"{ROOT}/")
        page.screenshot(path=folder / f"page-{theme}.png", full_page=True)
        page.locator(".ck-map").first.screenshot(path=folder / f"map-{theme}.png")
        page.close()


def of_notebook(browser: Browser, work: Path, home: Path, folder: Path) -> None:
    """The debugger's windows in the debug notebook, after all its cells ran."""
    with opened(work, home=home) as lab:
        page = browser.new_page(viewport={"width": WIDTH, "height": 1500})
        shown = Notebook.open(page, lab, "debug.ipynb")
        shown.run_all()
        if failures := shown.failures():
            raise SystemExit(f"the notebook failed: {failures}")
        page.evaluate(WINDOWS)
        for theme, name in THEMES.items():
            _use(page, name)
            page.evaluate(WITHOUT_FOLDERS, f"{ROOT}/")
            page.screenshot(path=folder / f"notebook-{theme}.png")
        shown.stop()


def _use(page: Page, theme: str) -> None:
    page.evaluate("theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", theme)
    page.wait_for_timeout(1500)  # a theme is loaded, then every widget draws again


def _smaller(file: Path) -> None:
    """A third of the bytes: pages have few colours."""
    picture = Image.open(file).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    picture.save(file, optimize=True)


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work, tempfile.TemporaryDirectory() as home, sync_playwright() as playwright:
        browser = launch(playwright)
        of_page(browser, exported(Path(work)), folder)
        of_notebook(browser, Path(work), Path(home), folder)
        browser.close()
    for file in folder.glob("*.png"):
        _smaller(file)


if __name__ == "__main__":
    main()
