"""Widgets that show a comparison of two models: a debugger's windows, in a notebook or on a page of their own.

Each is usable alone. ``ckptdbg`` itself never imports this package.
"""

from ckptdbg_widgets.activation_heatmap import ActivationHeatmap
from ckptdbg_widgets.divergence_map import DivergenceMap
from ckptdbg_widgets.export import export
from ckptdbg_widgets.layer_stepper import LayerStepper
from ckptdbg_widgets.logits_panel import LogitsPanel
from ckptdbg_widgets.mapping_panel import MappingPanel
from ckptdbg_widgets.try_it import Stopped, Tried, TryIt
from ckptdbg_widgets.verdict_panel import VerdictPanel

__all__ = [
    "ActivationHeatmap",
    "DivergenceMap",
    "LayerStepper",
    "LogitsPanel",
    "MappingPanel",
    "Stopped",
    "Tried",
    "TryIt",
    "VerdictPanel",
    "export",
]
