"""Tiny conversions made on the spot, and the faults that can be planted in them: what the demo and the tests use."""

from ckptdbg.samples.build import DEMO_FAULTS, DEMO_PAIR, build_sample
from ckptdbg.samples.checkpoints import write_checkpoint
from ckptdbg.samples.faults import FAULTS, list_faults
from ckptdbg.samples.pairs import list_pairs

__all__ = ["DEMO_FAULTS", "DEMO_PAIR", "FAULTS", "build_sample", "list_faults", "list_pairs", "write_checkpoint"]
