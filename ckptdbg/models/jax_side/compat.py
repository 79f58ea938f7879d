"""Everything that differs between versions of JAX, or has no public name yet."""

from __future__ import annotations

import importlib
from contextlib import AbstractContextManager
from typing import Any

import jax
from jax._src import core as internals
from jax._src import source_info_util
from jax.extend import core

from ckptdbg.models.records import Where

CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "checkpoint": "jaxpr",
    "remat2": "jaxpr",
    "composite": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
}
"""Primitives that only call another jaxpr, and the name of the parameter that holds it."""


def enable_x64() -> AbstractContextManager[Any]:
    """64-bit types inside the ``with``; the user's setting is restored after it."""
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    return importlib.import_module("jax.experimental").enable_x64(True)


def tracing() -> bool:
    """Whether a transformation is under way, so that operations are recorded and not computed."""
    return not internals.trace_state_clean()


def opened(jaxpr: Any) -> tuple[Any, list[Any]]:
    """The plain jaxpr and the constants of a closed or an open one."""
    if isinstance(jaxpr, core.ClosedJaxpr):
        return jaxpr.jaxpr, list(jaxpr.consts)
    return jaxpr, []


def bind(primitive: Any, args: list[Any], params: dict[str, Any]) -> list[Any]:
    """Apply a primitive; always a list of results."""
    bound = primitive.get_bind_params(params)
    if isinstance(bound, tuple):  # older versions split off the sub-functions
        functions, params = bound
        out = primitive.bind(*functions, *args, **params)
    else:
        out = primitive.bind(*args, **bound)
    return list(out) if primitive.multiple_results else [out]


def where(eqn: Any) -> Where:
    """Name stack and the user's source line of an equation, for people."""
    scope = str(eqn.source_info.name_stack)
    frame = source_info_util.user_frame(eqn.source_info.traceback)
    if frame is None:
        return Where(scope)
    return Where(scope, frame.file_name, frame.start_line)


def holds_jaxpr(params: dict[str, Any]) -> bool:
    """Whether an equation carries code of its own (a kernel, a custom call)."""
    held = [value for many in params.values() for value in (many if isinstance(many, tuple | list) else (many,))]
    return any(isinstance(value, core.Jaxpr | core.ClosedJaxpr) for value in held)
