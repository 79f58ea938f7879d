"""A mapping looked over without weights: what is wrong in it, what is odd, and what no such look can tell."""

from ckptdbg.mapping.check.check import check_mapping
from ckptdbg.mapping.check.records import Checked, Remark

__all__ = ["Checked", "Remark", "check_mapping"]
