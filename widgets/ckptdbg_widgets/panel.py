"""What all widgets have in common: how they load, and what is left of them where no widget can be shown."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import anywidget

from ckptdbg.errors import CkptdbgError
from ckptdbg_widgets.shown import Shown


def shared(trait: Any) -> Any:
    """A trait of ours that the browser sees."""
    return trait.tag(sync=True, ckptdbg=True)


class Panel(Shown, anywidget.AnyWidget):
    """A widget that can also be printed: ``plain()`` as text and ``png()`` as a picture go along with every display, so
    that a saved notebook, a terminal and a web page show what the widget showed."""

    kind = ""
    """Name of the widget's module."""
    sheets: tuple[str, ...] = ()
    """Names of its style sheets, beside the one all share."""

    def state(self) -> dict[str, Any]:
        """The values a page needs to show this widget: those it shares with the browser, without the layout."""
        names = self.traits(sync=True, ckptdbg=True)
        return {name: getattr(self, name) for name in names}

    def to_png(self, path: str | os.PathLike[str]) -> Path:
        """Write ``png()``. Raises ``CkptdbgError`` where there is nothing to draw or the file cannot be written."""
        picture = self.png()
        if picture is None:
            raise CkptdbgError(f"{type(self).__name__} shows nothing that can be drawn", hint="print it: plain()")
        try:
            Path(path).write_bytes(picture)
        except OSError as error:
            raise CkptdbgError("the picture could not be written", where=str(path), found=error) from error
        return Path(path)
