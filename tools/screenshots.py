"""Makes docs/pictures: the demo as an exported page and as a notebook in JupyterLab, light and dark.

python tools/screenshots.py [FOLDER]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from lab import Notebook, launch, opened
from playwright.sync_api import Browser, Page, sync_playwright

import ckptdbg
from ckptdbg.samples import DEMO_FAULTS, build_sample
from ckptdbg_widgets import export

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "pictures"
WIDTH = 1280
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}
DOCUMENT = ".jp-Notebook .jp-WindowedPanel-inner"


def exported(folder: Path) -> Path:
    """The page that a comparison of the demo exports."""
    session = ckptdbg.open(build_sample(folder, faults=DEMO_FAULTS))
    result = session.compare()
    return export(
        result,
        folder / "page.html",
        comparison=session.comparison,
        mapping=session.mapping,
        ids=session.inputs["input_ids"],
    )


def of_page(browser: Browser, file: Path, folder: Path) -> None:
    """The whole page, and its map alone."""
    for theme in THEMES:
        page = browser.new_page(viewport={"width": WIDTH, "height": 900}, color_scheme=theme)
        page.goto(file.as_uri())
        page.wait_for_selector("canvas")
        page.wait_for_timeout(500)  # the first drawing follows the layout
        page.screenshot(path=folder / f"page-{theme}.png", full_page=True)
        page.locator(".ck-map").first.screenshot(path=folder / f"map-{theme}.png")
        page.close()


def of_notebook(browser: Browser, work: Path, folder: Path) -> None:
    """The debug notebook after all its cells ran."""
    with opened(work, home=work / "home") as lab:
        page = browser.new_page(viewport={"width": WIDTH, "height": 1000})
        shown = Notebook.open(page, lab, "debug.ipynb")
        shown.run_all()
        if failures := shown.failures():
            raise SystemExit(f"the notebook failed: {failures}")
        for theme, name in THEMES.items():
            _use(page, name)
            page.screenshot(path=folder / f"notebook-{theme}.png")
        shown.stop()


def _use(page: Page, theme: str) -> None:
    page.evaluate("theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", theme)
    page.wait_for_timeout(1500)  # a theme is loaded, then every widget draws again


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work, sync_playwright() as playwright:
        browser = launch(playwright)
        of_page(browser, exported(Path(work, "sample")), folder)
        of_notebook(browser, Path(work), folder)
        browser.close()


if __name__ == "__main__":
    main()
