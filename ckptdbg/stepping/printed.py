"""Records that read well wherever they end up: printed on a terminal, shown by a notebook, compared in a test."""

from __future__ import annotations

from html import escape

from ckptdbg.report.names import number


class Printed:
    """Base of what a verb returns. A subclass says its lines; names in them went through ``visible``."""

    def lines(self) -> list[str]:
        """What a person reads, line by line."""
        raise NotImplementedError

    def __str__(self) -> str:
        return "\n".join(self.lines())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        # Some pages set their own font even in a pre, and columns must stand one below another.
        style = "font-family: var(--jp-code-font-family, monospace)"
        return f'<pre class="ckptdbg-step" style="{style}">{escape(str(self))}</pre>'


def moved(before: float | None, after: float | None) -> str:
    """A ratio before and after: ``5.43e+06 -> 1.4``."""
    return f"{number(before)} -> {number(after)}"
