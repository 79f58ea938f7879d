"""One layer of both models side by side, site by site."""

from __future__ import annotations

import traitlets

from ckptdbg.report.names import number, visible
from ckptdbg.report.words import where
from ckptdbg.result import Result, Site, Stats
from ckptdbg_widgets.modules import module, styles
from ckptdbg_widgets.panel import Panel, shared
from ckptdbg_widgets.sites import first_key, sites_of


class LayerStepper(Panel):
    """Steps through the sites in execution order and shows the layer around the one it is at.

    ``position`` is that site's index among the result's sites in execution order (``0 .. sites - 1``); it starts at
    the first divergence. ``selected`` is set by Enter or a click, as in ``DivergenceMap``.
    """

    kind = "layer_stepper"
    _esm = module(kind)
    sheets = (kind,)
    _css = styles(*sheets)
    data = shared(traitlets.Dict())
    position = shared(traitlets.Int(0))
    selected = shared(traitlets.Dict(None, allow_none=True))

    def __init__(self, result: Result) -> None:
        self.result = result
        data = sites_of(result)
        super().__init__(data=data, position=data["first"] or 0, selected=first_key(result))

    def show(self, result: Result) -> None:
        """Show another result in place of this one, from its first divergence."""
        self.result = result
        with self.hold_sync():
            self.data = sites_of(result)
            self.position = self.data["first"] or 0

    @property
    def site(self) -> Site | None:
        """The site it is at."""
        sites = sorted(self.result.sites, key=lambda site: site.order)
        return sites[self.position] if sites else None

    @traitlets.validate("position")
    def _inside(self, proposal: dict) -> int:
        return max(0, min(len(self.result.sites) - 1, proposal["value"]))

    def plain(self) -> str:
        """The layer it is at, a line for each site."""
        here = self.site
        if here is None:
            return "Nothing was compared."
        title = "outside the layers" if here.layer is None else f"layer {visible(here.layer)}"
        sites = sorted(self.result.sites, key=lambda site: site.order)
        return "\n".join([title, *(_line(site, site is here) for site in sites if site.layer == here.layer)])


def _line(site: Site, here: bool) -> str:
    alone = "" if site.isolated is None else f", by itself {number(site.isolated.ratio)}"
    sides = f"source {_spread(site.source)}  target {_spread(site.target)}"
    return f"{'>' if here else ' '} {where(site):32} {sides}  {number(site.ratio)} x noise{alone}"


def _spread(stats: Stats) -> str:
    return f"{number(stats.mean)} ± {number(stats.std)} [{number(stats.min)}, {number(stats.max)}]"
