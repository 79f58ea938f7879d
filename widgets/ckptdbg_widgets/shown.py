"""How a widget is displayed: itself first, then a still of it for wherever and whenever no widget runs."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from html import escape
from typing import Any

from IPython.display import display

LOST = """<style>
.jp-OutputArea-child:has(>.jupyter-widgets):not(:has(.ckptdbg)):has(+* .ckptdbg-still){display:none}
</style>"""
"""A view without its widget only says that it was not found; JupyterLab never falls back to a bundle's other types."""


class Shown:
    """A widget that is displayed as two outputs, of which a live one hides the second (``shared/base.css``).

    The still comes after, since drawing takes longer than showing the widget. To be listed before the widget's class.
    """

    def plain(self) -> str:
        """What the widget shows, in words."""
        raise NotImplementedError

    def png(self) -> bytes | None:
        """What the widget shows, as a PNG picture; None where there is nothing to draw."""
        return None

    def outputs(self) -> Iterator[dict[str, Any]]:
        """The two outputs by MIME type: the widget's view, and its still, drawn when it is asked for."""
        bundle: Any = self._repr_mimebundle_() or {}  # pyright: ignore[reportAttributeAccessIssue]
        yield {**(bundle[0] if isinstance(bundle, tuple) else bundle), "text/plain": type(self).__name__}
        words, picture = self.plain(), self.png()
        yield {"text/html": f'<div class="ckptdbg-still">{LOST}{_still(words, picture)}</div>', "text/plain": words}

    def _ipython_display_(self) -> None:
        for bundle in self.outputs():
            display(bundle, raw=True)


def _still(words: str, picture: bytes | None) -> str:
    """The picture over its words, of which the first line is in sight; words alone where nothing is drawn."""
    if picture is None:
        return f"<pre>{escape(words)}</pre>"
    first, _, rest = (escape(part) for part in words.partition("\n"))
    image = f'<img alt="{first}" src="data:image/png;base64,{base64.b64encode(picture).decode()}">'
    return f"{image}<details><summary>{first}</summary><pre>{rest}</pre></details>"
