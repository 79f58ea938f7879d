"""Mappings from code: a conversion function is run on index probes and becomes explicit entries."""

from ckptdbg.mapping.tracing.trace import Traced, Untraced, trace

__all__ = ["Traced", "Untraced", "trace"]
