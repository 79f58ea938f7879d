"""Mappings from values: which source tensors made each tensor of a converted checkpoint, and how."""

from ckptdbg.mapping.recovery.recover import Recovered, Unexplained, recover

__all__ = ["Recovered", "Unexplained", "recover"]
