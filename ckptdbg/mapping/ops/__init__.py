"""The ops of mapping files: pure NumPy, one class each, serving both directions."""

from ckptdbg.mapping.ops.axes import Expand, Rearrange, Reshape, Squeeze, Transpose
from ckptdbg.mapping.ops.base import REGISTRY, Array, Op, OpError, Shape, one_line
from ckptdbg.mapping.ops.pieces import Concat, Pad, Slice, Split, Stack, Unstack
from ckptdbg.mapping.ops.values import Add, Cast, Scale

__all__ = [
    "REGISTRY",
    "Add",
    "Array",
    "Cast",
    "Concat",
    "Expand",
    "Op",
    "OpError",
    "Pad",
    "Rearrange",
    "Reshape",
    "Scale",
    "Shape",
    "Slice",
    "Split",
    "Squeeze",
    "Stack",
    "Transpose",
    "Unstack",
    "one_line",
]
