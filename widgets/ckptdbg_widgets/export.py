"""A result as one page that opens from disk and stays interactive: no server, no network, no kernel."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ckptdbg.compare.comparison import Comparison
from ckptdbg.mapping import BoundMapping
from ckptdbg.report.entries import EntryView
from ckptdbg.report.files import write_text
from ckptdbg.report.words import BADGE
from ckptdbg.result import Result
from ckptdbg_widgets.activation_heatmap import ActivationHeatmap
from ckptdbg_widgets.divergence_map import DivergenceMap
from ckptdbg_widgets.layer_stepper import LayerStepper
from ckptdbg_widgets.logits_panel import LogitsPanel
from ckptdbg_widgets.mapping_panel import MappingPanel
from ckptdbg_widgets.page import page
from ckptdbg_widgets.panel import Panel
from ckptdbg_widgets.sites import sites_of, suspect_of
from ckptdbg_widgets.verdict_panel import VerdictPanel


def export(
    result: Result,
    path: str | os.PathLike[str],
    *,
    comparison: Comparison | None = None,
    mapping: BoundMapping | Sequence[EntryView] | None = None,
    mended: BoundMapping | None = None,
    ids: NDArray[Any] | None = None,
    decode: Callable[[int], str] | None = None,
) -> Path:
    """Write the page. Raises ``CkptdbgError`` when the file cannot be written.

    ``comparison`` adds the values at the first divergence and the predictions of every token, ``mapping`` the entries
    (a session's ``comparison``, ``mapping`` and ``inputs["input_ids"]``), ``mended`` what the repairs make of them.
    ``decode`` gives the text of one token.
    """
    panels: list[Panel] = [VerdictPanel(result)]
    if result.sites:
        panels += [DivergenceMap(result), LayerStepper(result)]
    index = sites_of(result)["first"]
    first = None if index is None else sorted(result.sites, key=lambda site: site.order)[index]
    if mapping is not None:
        panels.append(entries := MappingPanel(result, mapping, mended))
        if first is not None:
            entries.select(suspect_of(result, first))
    if comparison is not None and first is not None:
        panels.append(ActivationHeatmap.at(comparison, first))
    if comparison is not None:
        panels.append(LogitsPanel.of(comparison, result, ids=ids, decode=decode))
    elif result.logits is not None:
        panels.append(LogitsPanel(result.logits))
    script = "shared/linked" if result.sites else "shared/page"
    title = f"{BADGE[result.verdict]} – ckptdbg"
    return write_text(path, page(title, panels, script=script))
