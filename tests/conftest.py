"""What tests of several rooms share: one browser for the whole run (playwright's sync API allows one in a process)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ckptdbg.models.loaders.function import importable


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Debian's chromium, headless; tests open pages of their own in it."""
    from playwright.sync_api import sync_playwright

    with importable(Path(__file__).parents[1] / "tools"):
        from lab import chromium, launch
    if chromium() is None:
        pytest.skip("no chromium: apt-get install chromium, or set CKPTDBG_CHROMIUM")
    with sync_playwright() as playwright:
        browser = launch(playwright)
        yield browser
        browser.close()
