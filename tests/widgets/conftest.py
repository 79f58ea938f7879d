"""Each test opens pages of its own, from disk, with every way to a network shut."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Opens HTML in a page. Errors, console messages of any kind and requests beyond the file fail the test."""
    told: list[str] = []
    pages = []

    def open_page(html: str, *, width: int = 1280, height: int = 900, **options: Any) -> Any:
        page = browser.new_page(viewport={"width": width, "height": height}, offline=True, **options)
        page.set_default_timeout(10_000)
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        file = tmp_path / f"page{len(pages)}.html"
        # What the page shows is handed out, for tests to look at.
        file.write_text(
            html.replace(".show({", ".show(window.widgets = {").replace("\n$", "\nwindow.shown = $"), "utf-8"
        )
        page.on("request", lambda request: None if request.url == file.as_uri() else told.append(request.url))
        page.goto(file.as_uri())
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert told == []
