"""Which token a value belongs to, followed through the data movement of the program.

Beside every activation go *shadows*: int32 arrays of the same rank that hold flat token indices, of size 1 along the
axes where all elements belong to the same token (features). A value that is indexed by two tokens, as attention scores
are by query and key, carries one shadow for each; a sum over an axis ends the shadows that vary along it, so that what
remains after attention is the query. -1 stands for no token.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from jax.core import Tracer

from ckptdbg.models.jax_side import row_indices, row_moves
from ckptdbg.models.jax_side.program import Op
from ckptdbg.models.jax_side.shadows import Shadow, Shadows, Shape, distinct

_RULES = row_moves.RULES | row_indices.RULES


def token_ids(shape: Shape, tokens: Shape) -> Shadows:
    """The shadow of a model input: inputs that begin with the axes (batch, length) have one."""
    if shape[: len(tokens)] != tokens:
        return ()
    ids = np.arange(np.prod(tokens), dtype=np.int32).reshape(tokens + (1,) * (len(shape) - len(tokens)))
    return (ids,)


def propagate(op: Op, values: Sequence[jax.Array], shadows: Sequence[Shadows]) -> list[Shadows]:
    """The shadows of every result of ``op``, given the data and the shadows of its operands."""
    if not any(shadows):
        return [()] * len(op.outs)
    name = "reduce" if op.name.startswith("reduce_") and "axes" in op.params else op.name
    name = "scatter" if name.startswith("scatter") else name
    rule = _RULES.get(name)
    if rule is not None:
        with jax.ensure_compile_time_eval():
            return [distinct([_known(s) for s in found]) for found in rule(op, values, shadows)]
    return [_elementwise(tuple(var.aval.shape), shadows) for var in op.outs]


def _known(shadow: Shadow) -> Shadow:
    return shadow if isinstance(shadow, Tracer) else np.asarray(shadow)


def _elementwise(shape: Shape, shadows: Sequence[Shadows]) -> Shadows:
    fits = [s for many in shadows for s in many if s.ndim == len(shape)]
    return distinct([s for s in fits if all(a in (1, b) for a, b in zip(s.shape, shape, strict=True))])
