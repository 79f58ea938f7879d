"""Mappings from code: a conversion function is run on index probes and becomes explicit entries."""

from ckptdbg.mapping.tracing.trace import Traced, trace, trace_programs
from ckptdbg.mapping.tracing.writing import Untraced

__all__ = ["Traced", "Untraced", "trace", "trace_programs"]
