"""The ops of mapping files: pure NumPy, one class each, serving both directions."""

from ckptdbg.mapping.ops.axes import Expand, Rearrange, Reshape, Squeeze, Transpose
from ckptdbg.mapping.ops.base import REGISTRY, Array, Op, OpError, Shape, one_line
from ckptdbg.mapping.ops.opaque import Make, Opaque
from ckptdbg.mapping.ops.pieces import Concat, Pad, Slice, Split, Stack, Take, Unstack
from ckptdbg.mapping.ops.selected import Of
from ckptdbg.mapping.ops.values import Add, Cast, Divide, Scale

__all__ = [
    "REGISTRY",
    "Add",
    "Array",
    "Cast",
    "Concat",
    "Divide",
    "Expand",
    "Make",
    "Of",
    "Op",
    "OpError",
    "Opaque",
    "Pad",
    "Rearrange",
    "Reshape",
    "Scale",
    "Shape",
    "Slice",
    "Split",
    "Squeeze",
    "Stack",
    "Take",
    "Transpose",
    "Unstack",
    "one_line",
]
