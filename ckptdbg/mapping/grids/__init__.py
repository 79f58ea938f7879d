"""What mappings do to tensors of any size, kept as patterns of indices instead of arrays, and compared exactly."""

from ckptdbg.mapping.grids.judge import judge_bound

__all__ = ["judge_bound"]
