"""The values at one stop: statistics, error in units of noise, and the arrays for a heatmap."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.compare.blocks import BlockMeasure
from ckptdbg.compare.comparison import Comparison
from ckptdbg.compare.noise import Measure
from ckptdbg.compare.output import OutputMeasure
from ckptdbg.compare.sites import Judged
from ckptdbg.diagnose.summary import stats
from ckptdbg.errors import CkptdbgError
from ckptdbg.report.names import number
from ckptdbg.report.pictures import Pictures, values
from ckptdbg.result import Stats
from ckptdbg.stepping.printed import Printed
from ckptdbg.stepping.stops import Stop

Array = NDArray[Any]
_COLUMNS = ("mean", "std", "min", "max")


@dataclass(frozen=True, eq=False, repr=False)
class Shown(Printed):
    """What both models have at one stop, tokens by features in the target's layout."""

    name: str
    layer: str | None
    alone: bool
    """Whether the target's values are those of this piece alone, on the source's own values."""
    source: Array
    """``[tokens, features]``, carried into the target's layout; NaN where there is no counterpart."""
    target: Array
    """``[tokens, features]``"""
    difference: Array
    """``[tokens, features]`` float64, target minus source."""
    tokens: tuple[str, ...]
    """Of each row its ``batch:position``; an en dash where it belongs to no token."""
    measure: Measure
    """Error, noise and ratio, in working precision: whole, per token, per feature."""
    promoted: Measure
    """The same in float64, where rounding shrinks and a fault does not."""

    @cached_property
    def statistics(self) -> tuple[Stats, Stats]:
        """Of the source and of the target, over the elements that have a counterpart."""
        paired = ~np.isnan(np.asarray(self.source, np.float64))
        return stats(self.source[paired]), stats(self.target[paired])

    @property
    def pictures(self) -> Pictures:
        """The arrays as reports and widgets draw them."""
        features = tuple(map(str, range(self.target.shape[1])))
        return Pictures(self._title, self.source, self.target, self.difference, self.tokens, features)

    @property
    def _title(self) -> str:
        return self.name + (f", layer {self.layer}" if self.layer is not None else "")

    def lines(self) -> list[str]:
        how = "this piece alone" if self.alone else "free running"
        found = [f"{self._title}  {' x '.join(map(str, self.target.shape))} (tokens x features), {how}"]
        found.append(f"  {'':8}" + "".join(f"{column:>12}" for column in _COLUMNS))
        for side, figures in zip(("source", "target"), self.statistics, strict=True):
            bad = f"  {figures.nonfinite} not finite" if figures.nonfinite else ""
            found.append(f"  {side:8}" + "".join(f"{number(getattr(figures, c), 5):>12}" for c in _COLUMNS) + bad)
        m = self.measure
        found.append(f"  error {number(m.error)}  noise {number(m.noise)}  ratio {number(m.ratio)}{self._worst()}")
        return [*found, f"  ratio in float64 {number(self.promoted.ratio)}"]

    def _worst(self) -> str:
        if not self.measure.tokens.size or not self.measure.ratio:
            return ""
        token, feature = int(np.argmax(self.measure.tokens)), int(np.argmax(self.measure.features))
        return f"  (worst token {self.tokens[token]}, worst feature {feature})"

    def _repr_html_(self) -> str:
        # The address holds a drawing made here; the names in it were escaped there.
        picture = values(self.pictures)
        return f'{super()._repr_html_()}<img src="{picture.uri}" alt="{escape(picture.alt)}" style="max-width:100%">'


def shown(comparison: Comparison, stop: Stop, *, alone: bool = False) -> Shown:
    """The values at one stop. ``alone`` takes the target's from the run in which the source's were planted. Raises
    CkptdbgError for a block alone: blocks are seen free running only."""
    judged: Judged | None = stop.alone if alone else stop.free
    if judged is None:
        raise CkptdbgError(f"{stop.name} is seen free running only", hint="step to the next site for a piece alone")
    source = np.asarray(stop.measure.source)
    target = _target_alone(comparison, stop) if alone else np.asarray(stop.measure.target)
    with np.errstate(invalid="ignore"):
        difference = np.asarray(target, np.float64) - np.asarray(source, np.float64)
    tokens = _tokens(comparison, stop, len(target))
    return Shown(stop.name, stop.row.layer, alone, source, target, difference, tokens, judged.working, judged.promoted)


def _target_alone(comparison: Comparison, stop: Stop) -> Array:
    trace = comparison.isolated.working
    if isinstance(stop.measure, OutputMeasure | BlockMeasure):
        return np.asarray(trace.output)
    record = trace.records[stop.measure.anchor]
    found = record.input if stop.measure.port == "in" else record.output
    assert found is not None  # a lookup's ids are no compared port
    return np.asarray(found)


def _tokens(comparison: Comparison, stop: Stop, count: int) -> tuple[str, ...]:
    rows = np.arange(count)
    if not isinstance(stop.measure, OutputMeasure | BlockMeasure):
        rows = comparison.free.working.records[stop.measure.anchor].rows
    inputs = comparison.rerun.inputs
    given = inputs.get("input_ids", next(iter(inputs.values())))
    length = given.shape[1] if given.ndim > 1 else count
    return tuple(f"{row // length}:{row % length}" if row >= 0 else "–" for row in map(int, rows))
