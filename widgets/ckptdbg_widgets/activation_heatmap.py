"""Source, target and their difference, tokens by features, with zoom and an exact read-out."""

from __future__ import annotations

import numpy as np
import traitlets
from numpy.typing import NDArray

from ckptdbg.compare.comparison import Comparison
from ckptdbg.report.names import visible
from ckptdbg.report.pictures import Pictures
from ckptdbg.result import Site
from ckptdbg_widgets.modules import module, styles
from ckptdbg_widgets.panel import Panel, shared
from ckptdbg_widgets.stills import values_png
from ckptdbg_widgets.values import Values, values_at

Array = NDArray[np.generic]


class ActivationHeatmap(Panel):
    """Two matrices of one shape ``[tokens, features]`` and ``target - source``.

    The values go to the browser once, as float32; where they come in float64 the difference is taken first, so that
    it keeps its own digits. ``selected`` is ``{"row": int, "column": int}`` or None; ``mode`` is ``"features"`` or,
    where ``heads`` is given, ``"heads"`` (root mean square of every head per token, heads by tokens).
    """

    kind = "activation_heatmap"
    _esm = module(kind)
    sheets = (kind,)
    _css = styles(*sheets)
    info = shared(traitlets.Dict())
    source = shared(traitlets.Bytes())
    target = shared(traitlets.Bytes())
    difference = shared(traitlets.Bytes())
    mode = shared(traitlets.Enum(["features", "heads"], "features"))
    selected = shared(traitlets.Dict(None, allow_none=True))

    def __init__(
        self,
        source: Array,
        target: Array,
        *,
        title: str = "",
        noise: float | None = None,
        heads: int | None = None,
        row_labels: tuple[str, ...] = (),
        column_labels: tuple[str, ...] = (),
    ) -> None:
        """``noise`` is the rounding noise of one element (root mean square over the tensor): differences are then shown
        in its units. ``heads`` divides the features into that many equal parts. Raises ``ValueError`` where the shapes
        differ or the heads do not divide the features."""
        self.values = Values(np.asarray(source), np.asarray(target), title, noise)
        super().__init__(selected=None, **self._sent(heads, row_labels, column_labels))

    @classmethod
    def at(cls, comparison: Comparison, site: Site, *, heads: int | None = None) -> ActivationHeatmap:
        """The values of a compared site, source carried into the target's layout, with that site's noise."""
        values = values_at(comparison, site)
        return cls(values.source, values.target, title=values.title, noise=values.noise, heads=heads)

    def show(self, values: Values, heads: int | None = None) -> None:
        """Show other values in place of these."""
        self.values = values
        with self.hold_sync():
            for name, value in self._sent(heads, (), ()).items():
                setattr(self, name, value)
            self.selected, self.mode = None, "features"

    def _sent(self, heads: int | None, rows: tuple[str, ...], columns: tuple[str, ...]) -> dict:
        source, target = self.values.source, self.values.target
        if source.shape != target.shape or source.ndim != 2 or not source.size:
            raise ValueError(f"expected two matrices of one shape, found {source.shape} and {target.shape}")
        if heads and source.shape[1] % heads:
            raise ValueError(f"{source.shape[1]} features cannot be divided into {heads} heads")
        info = {
            "rows": source.shape[0],
            "columns": source.shape[1],
            "title": visible(self.values.title),
            "noise": self.values.noise,
            "heads": heads,
            "row_name": "token",
            "row_labels": [visible(label) for label in rows],
            "column_labels": [visible(label) for label in columns],
        }
        exact = any(part.dtype.itemsize > 4 for part in (source, target))
        difference = _bytes(self.values.difference) if exact else b""
        return {"info": info, "source": _bytes(source), "target": _bytes(target), "difference": difference}

    def plain(self) -> str:
        """Size, range and the worst cell."""
        return self.values.plain()

    def png(self) -> bytes | None:
        """The three pictures, every cell showing its largest magnitude."""
        values = self.values
        source, target = (np.asarray(part, np.float64) for part in (values.source, values.target))
        return values_png(Pictures(values.title, source, target, values.difference))


def _bytes(values: Array) -> bytes:
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values, dtype="<f4").tobytes()
