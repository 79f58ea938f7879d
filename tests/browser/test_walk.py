"""The whole walk of a person: open a config, run everything, find the fault, mend it, keep the page."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from lab import Notebook, opened
from playwright.sync_api import Browser, Page, expect

from ckptdbg.samples import build_sample

pytestmark = pytest.mark.slow
FAULT, ENTRY = "query-not-interleaved", "attention.query"


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> Iterator[Notebook]:
    """The debug notebook of a config with one planted fault, all cells run."""
    folder = tmp_path_factory.mktemp("walk")
    build_sample(folder / "sample", faults=[FAULT])
    with opened(folder, "sample/config.yaml", home=tmp_path_factory.mktemp("home")) as lab:
        # Tall enough for all windows of the debugger: JupyterLab leaves out what is out of sight.
        page = browser.new_page(viewport={"width": 1400, "height": 5000})
        shown = Notebook.open(page, lab, "debug.ipynb")
        shown.run_all()
        yield shown
        page.close()


def panel(page: Page, kind: str):
    return page.locator(f".ck-{kind}").first


def find_by_keys(page: Page) -> None:
    """One site on from the first divergence, and back with `f`: the mapping panel follows."""
    stage, readout = panel(page, "map").locator(".ck-stage"), panel(page, "map").locator(".ck-readout")
    entry = panel(page, "mapping").locator("h3").first
    stage.focus()
    for key in ("f", "ArrowRight", "Enter"):
        stage.press(key)
    expect(readout).not_to_contain_text("first divergence")
    expect(entry).to_have_text("attention.out")
    for key in ("f", "Enter"):
        stage.press(key)
    expect(readout).to_contain_text("first divergence")
    expect(entry).to_have_text(ENTRY)


def test_everything_runs_and_shows_the_verdict(walk):
    assert walk.failures() == []
    assert walk.outputs("text/markdown")[0].startswith("# ✗ Divergent")
    expect(panel(walk.page, "map").locator("canvas").first).to_be_visible()
    expect(panel(walk.page, "map").locator(".ck-verdict")).to_have_text("✗ Divergent")


def test_f_finds_the_first_divergence_and_the_mapping_panel_names_the_planted_entry(walk):
    find_by_keys(walk.page)
    expect(panel(walk.page, "mapping").locator(".ck-place")).to_have_text("sample/mappings/llama_to_nnx.yaml:15")


def test_the_pages_that_are_exported_work_without_a_server(walk, browser):
    """Before anything is mended: the page shows the fault."""
    file = walk.until(lambda: next(iter(walk.lab.folder.glob("*.html")), None), "the exported page")
    offline = browser.new_context(offline=True, viewport={"width": 1280, "height": 900})
    page, errors = offline.new_page(), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.goto(file.as_uri())
    find_by_keys(page)
    assert errors == []
    offline.close()


def test_the_repair_is_tried_and_applied_and_the_map_turns_quiet(walk):
    box = panel(walk.page, "try")
    box.get_by_role("button", name="try", exact=True).first.click()
    expect(box).to_contain_text("nothing diverges any more", timeout=120_000)
    box.get_by_role("button", name="apply").click()
    expect(panel(walk.page, "map").locator(".ck-verdict")).to_have_text("✓ Equivalent", timeout=120_000)
    expect(panel(walk.page, "map").locator(".ck-readout .divergent")).to_have_count(0)
    box.get_by_role("textbox", name="File for the mapping").fill("mended.yaml")
    box.get_by_role("button", name="write the mapping").click()
    expect(box).to_contain_text("wrote", timeout=30_000)
    text = (walk.lab.folder / "mended.yaml").read_text()
    assert re.search(r"\(h two d\) \w -> \(h d two\) \w", text)


def test_undo_brings_the_fault_back(walk):
    box = panel(walk.page, "try")
    box.get_by_role("button", name="undo").click()
    expect(panel(walk.page, "map").locator(".ck-verdict")).to_have_text("✗ Divergent", timeout=120_000)


def test_nothing_was_complained_of(walk):
    assert walk.errors == []


def test_saved_and_opened_again_without_its_kernel_it_still_shows_verdict_and_map(walk, browser):
    walk.save()
    walk.stop()
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    Notebook.open(page, walk.lab, "debug.ipynb")
    expect(page.locator(".jp-RenderedMarkdown h1", has_text="Divergent")).to_be_visible()
    still = page.locator(".ckptdbg-still img")
    still.scroll_into_view_if_needed()
    expect(still).to_be_visible()
    expect(still).to_have_attribute("alt", re.compile("Divergent"))
    expect(page.locator(".ckptdbg-still summary")).to_contain_text("Divergent")
    expect(page.get_by_text("model not found")).to_be_hidden()
    page.close()
