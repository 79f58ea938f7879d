"""Layers by sites, coloured by error over rounding noise: where the models part."""

from __future__ import annotations

import traitlets

from ckptdbg.report.grid import layers_by_sites
from ckptdbg.report.markdown import WORST
from ckptdbg.report.names import number, visible
from ckptdbg.report.words import BADGE, MARK, ratio_of, sentence, where
from ckptdbg.result import Result
from ckptdbg_widgets.modules import module, styles
from ckptdbg_widgets.panel import Panel, shared
from ckptdbg_widgets.sites import first_key, sites_of
from ckptdbg_widgets.stills import ratios_png


class DivergenceMap(Panel):
    """Free-running and isolated ratios of every compared site, on one log scale.

    ``selected`` is ``{"site": name, "port": "in" | "out" | "block" | "output", "order": int}`` or None: what was chosen
    by click or Enter. Setting it moves the cursor. It starts at the first divergence.
    """

    kind = "divergence_map"
    _esm = module(kind)
    sheets = (kind,)
    _css = styles(*sheets)
    data = shared(traitlets.Dict())
    selected = shared(traitlets.Dict(None, allow_none=True))

    def __init__(self, result: Result) -> None:
        self.result = result
        super().__init__(data=sites_of(result), selected=first_key(result))

    def show(self, result: Result) -> None:
        """Show another result in place of this one."""
        self.result = result
        with self.hold_sync():
            self.data, self.selected = sites_of(result), first_key(result)

    def plain(self) -> str:
        """The verdict and the sites farthest from noise."""
        lines = [f"{MARK[self.result.verdict]} {BADGE[self.result.verdict]}: {sentence(self.result)}"]
        known = [(ratio_of(site), site) for site in self.result.sites]
        # A site without a number was not finite: nothing is farther from noise.
        worst = sorted(known, key=lambda pair: -(float("inf") if pair[0] is None else pair[0]))[:WORST]
        for _, site in worst:
            layer = "" if site.layer is None else f"layer {visible(site.layer)} "
            alone = "" if site.isolated is None else f", by itself {number(site.isolated.ratio)}"
            lines.append(f"  {layer}{where(site)}: {number(site.ratio)} x noise{alone}")
        return "\n".join(lines)

    def png(self) -> bytes | None:
        """Both maps on a white ground."""
        return ratios_png(layers_by_sites(self.result), self.result.noise) if self.result.sites else None
