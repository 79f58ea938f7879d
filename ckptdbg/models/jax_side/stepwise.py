"""A program run one equation at a time: no layer is compiled, only each kind of equation, once for all runs.

To compile a deep unrolled model takes far longer than to run it, and every set of plants and jitter would be a program
of its own. Only the model as it is has to be compiled whole, since its rounding depends on that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ckptdbg.models.jax_side import compat, numerics
from ckptdbg.models.jax_side.control import Captured, blank
from ckptdbg.models.jax_side.evaluate import Evaluator
from ckptdbg.models.jax_side.program import Atom, Block, Const, Op, dtype_of
from ckptdbg.models.jax_side.shadows import Shadow, Value, varies
from ckptdbg.models.jax_side.sites import AnchorSite, ChoiceSite


class StepwiseEvaluator(Evaluator):
    """An evaluator to be called outside ``jit``: loops that hold a site run in Python, of branches the one taken."""

    def constant(self, atom: Const) -> Any:
        """On the host, where nothing has to be compiled for each of many small constants."""
        if compat.tracing() or dtype_of(atom) is None:
            return super().constant(atom)
        value = np.asarray(atom.value, dtype_of(atom))
        value = numerics.promote(value) if self.promoted else value
        return self.jittered(value, atom, atom.key)

    def jittered(self, value: Any, atom: Atom, key: int) -> Any:
        is_float = self.jitter is not None and jnp.issubdtype(value.dtype, jnp.floating)
        return super().jittered(np.asarray(value) if is_float and not compat.tracing() else value, atom, key)

    def scan(self, op: Op, ins: list[Value | None]) -> list[Value | None]:
        (body,) = op.bodies
        if compat.tracing() or not self.captures(body):
            return super().scan(op, ins)
        consts, carries, length = op.params["num_consts"], op.params["num_carry"], op.params["length"]
        fixed, carry, xs = ins[:consts], ins[consts : consts + carries], ins[consts + carries :]
        replace = self.replacements(body)
        steps: list[tuple[list[Value | None], Captured]] = []
        for i in range(length)[:: -1 if op.params["reverse"] else 1]:
            planted = {key: {port: x[i] for port, x in ports.items()} for key, ports in replace.items()}
            args = [*fixed, *carry, *(_slice(value, i) for value in xs)]
            outs, captured = self.inner(planted, lambda args=args: self.block(body, args))
            carry = outs[:carries]
            steps.append((outs[carries:], jax.device_get(captured)))
        steps = steps[:: -1 if op.params["reverse"] else 1]
        self.captured.update(jax.tree.map(lambda *many: np.stack(many), *(captured for _, captured in steps)))
        return [*carry, *(_stack(many) for many in zip(*(ys for ys, _ in steps), strict=True))]

    def captures(self, body: Block) -> bool:
        """Whether there is anything to see inside; what holds nothing runs as one loop."""
        sites = (self.taint.sites.get(op.key) for op in body.every_op())
        return any(isinstance(site, AnchorSite | ChoiceSite) for site in sites)

    def cond(self, op: Op, ins: list[Value | None]) -> list[Value | None]:
        index, operands = ins[0], ins[1:]
        if compat.tracing() or index is None:
            return super().cond(op, ins)
        taken = min(max(int(index.data), 0), len(op.bodies) - 1)
        for body in op.bodies:
            if body is not op.bodies[taken] and self.captures(body):
                self.captured.update(blank(jax.eval_shape(lambda body=body: self.branch(body, operands)[1])))
        outs, captured = self.branch(op.bodies[taken], operands)
        self.captured.update(captured)
        return outs


def _slice(value: Value | None, i: int) -> Value | None:
    if value is None:
        return None
    data = lax.dynamic_index_in_dim(value.data, np.int32(i), keepdims=False)
    return Value(data, tuple(s[i if varies(s, 0) else 0] for s in value.shadows))


def _stack(many: Sequence[Value | None]) -> Value | None:
    """What the iterations returned, with the shadows that all of them have."""
    present = [value for value in many if value is not None]
    if len(present) < len(many):
        return None
    each = [{s.shape: s for s in value.shadows} for value in present]
    shapes = [shape for shape in each[0] if all(shape in own for own in each)]
    shadows: list[Shadow] = [np.stack([np.asarray(own[shape]) for own in each]) for shape in shapes]
    return Value(jnp.stack([value.data for value in present]), tuple(_thin(s) for s in shadows))


def _thin(shadow: Shadow) -> Shadow:
    """Of size 1 along the first axis if the token is the same all along it."""
    return shadow[:1] if (shadow == shadow[:1]).all() else shadow
