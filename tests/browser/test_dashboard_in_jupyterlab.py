"""The debugger's windows in a real JupyterLab: a choice in one shows in the others, a repair turns them quiet."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

CELL = """
import ckptdbg as cd
from ckptdbg.samples import build_sample

session = cd.open(build_sample("sample", "llama_to_torch", ("gate-up-order",), num_hidden_layers=2))
dashboard = session.debug()
dashboard
"""
SECONDS = 120_000


@pytest.fixture
def shown(notebook):
    shown = notebook(CELL)
    shown.run_all()
    assert shown.failures() == []
    shown.page.wait_for_selector(".jp-OutputArea-output canvas", timeout=SECONDS)
    return shown


def test_windows_are_folded_and_nothing_can_be_stopped_before_it_runs(shown):
    page = shown.page
    expect(page.get_by_role("button", name="stop")).to_have_count(0)
    expect(page.locator(".ck-mapping")).to_be_visible()
    expect(page.locator(".ck-logits")).to_be_hidden()
    page.get_by_text("predictions", exact=True).click()
    stage = page.locator(".ck-logits .ck-stage canvas").first
    expect(stage).to_be_visible()
    assert stage.bounding_box()["width"] > 300
    page.get_by_text("mapping", exact=True).click()
    expect(page.locator(".ck-mapping")).to_be_hidden()
    assert shown.errors == []


def test_try_apply_undo_from_the_browser(shown):
    page = shown.page
    place = page.locator(".jp-OutputArea-output pre.ckptdbg-step").first
    assert "layers.0.feed_forward.w2.weight in" in place.inner_text()
    page.get_by_role("button", name="to the next divergence").click()
    page.wait_for_function(
        "() => document.querySelector('pre.ckptdbg-step').innerText.includes('layers.1.feed_forward.w2.weight in')",
        timeout=SECONDS,
    )
    page.locator(".ck-candidate button").first.click()
    page.get_by_text("nothing diverges any more").wait_for(timeout=SECONDS)
    page.get_by_role("button", name="apply", exact=True).click()
    page.get_by_text("1 applied").wait_for(timeout=SECONDS)
    page.wait_for_function(
        "() => document.querySelector('pre.ckptdbg-step').innerText.includes('at noise')", timeout=SECONDS
    )
    page.get_by_role("button", name="undo", exact=True).click()
    page.get_by_text("nothing applied").wait_for(timeout=SECONDS)
    page.get_by_role("button", name="plant in every layer").click()
    page.get_by_text("planted the source's values at layers.0.feed_forward.w2.weight in and 1 more").wait_for(
        timeout=SECONDS
    )
    assert shown.errors == []
