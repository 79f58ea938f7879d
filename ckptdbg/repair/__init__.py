"""Diagnosis by mending: rounds of a comparison, what explains it, and the model run again with what mends it."""

from ckptdbg.repair.diagnosis import Diagnosis, diagnose, made_by

__all__ = ["Diagnosis", "diagnose", "made_by"]
