"""How source tensors become target tensors: mapping files, entries and ops, in both directions."""

from ckptdbg.mapping.bound import BoundMapping
from ckptdbg.mapping.entry import BoundEntry
from ckptdbg.mapping.file import Mapping
from ckptdbg.mapping.ops import REGISTRY, Op, OpError
from ckptdbg.mapping.stacking import StackAxis

__all__ = ["REGISTRY", "BoundEntry", "BoundMapping", "Mapping", "Op", "OpError", "StackAxis"]
