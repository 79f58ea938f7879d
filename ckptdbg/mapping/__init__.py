"""How source tensors become target tensors: mapping files, entries and ops, in both directions."""

from ckptdbg.mapping.bound import BoundEntry, BoundMapping, StackAxis
from ckptdbg.mapping.file import Mapping
from ckptdbg.mapping.ops import REGISTRY, Op, OpError

__all__ = ["REGISTRY", "BoundEntry", "BoundMapping", "Mapping", "Op", "OpError", "StackAxis"]
