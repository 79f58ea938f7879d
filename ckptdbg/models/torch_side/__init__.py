"""Walks torch models at the level of ATen operators: what they consist of, recorded, planted, promoted to float64."""

from ckptdbg.models.torch_side.side import TorchSide

__all__ = ["TorchSide"]
