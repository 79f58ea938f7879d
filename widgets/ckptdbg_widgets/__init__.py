"""Widgets that show a comparison of two models: a debugger's windows, in a notebook or on a page of their own.

Each is usable alone. ``ckptdbg`` itself never imports this package.
"""

from ckptdbg_widgets.activation_heatmap import ActivationHeatmap
from ckptdbg_widgets.divergence_map import DivergenceMap
from ckptdbg_widgets.layer_stepper import LayerStepper

__all__ = ["ActivationHeatmap", "DivergenceMap", "LayerStepper"]
