"""``scan``, ``cond`` and ``while`` rebuilt, so that captures come out of them and replacements go in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ckptdbg.models.jax_side.program import Block, Op
from ckptdbg.models.jax_side.shadows import Shadow, Shadows, Value, known, none, same, traced, varies

Captured = dict[int, dict[str, Any]]
"""By site key, then by port. Each enclosing scan adds a leading axis."""


class ControlFlow:
    """The part of an evaluator that goes into the blocks of an equation."""

    captured: Captured
    replace: Captured

    def block(self, block: Block, args: Sequence[Value | None]) -> list[Value | None]:
        """Evaluate one block."""
        raise NotImplementedError

    def inner(self, replace: Captured, run: Callable[[], Any]) -> tuple[Any, Captured]:
        """Run ``run`` with its own captures; the outer ones are restored."""
        outer = self.captured, self.replace
        self.captured, self.replace = {}, replace
        try:
            return run(), self.captured
        finally:
            self.captured, self.replace = outer

    def replacements(self, *bodies: Block) -> Captured:
        keys = {op.key for body in bodies for op in body.every_op()}
        return {key: ports for key, ports in self.replace.items() if key in keys}

    def scan(self, op: Op, ins: list[Value | None]) -> list[Value | None]:
        p = op.params
        consts, carries, length = p["num_consts"], p["num_carry"], p["length"]
        (body,) = op.bodies
        fixed, taken = ins[:consts], [_sliced(value, length) for value in ins[consts + carries :]]
        xs = [moving for moving, _ in taken], self.replacements(body)

        def step(carry: list[Value | None], inputs: tuple[list[Value | None], Captured]) -> tuple[Any, Any]:
            slices = [_with(x, still) for x, (_, still) in zip(inputs[0], taken, strict=True)]
            outs, captured = self.inner(inputs[1], lambda: self.block(body, [*fixed, *carry, *slices]))
            return outs[:carries], (outs[carries:], captured)

        def settled(carry: list[Value | None], inputs: Any) -> tuple[Any, Any]:
            after, out = step(carry, inputs)
            return [_conform(value, like) for value, like in zip(after, carry, strict=True)], out

        init = _settle(step, self.carried(op, ins[consts : consts + carries]), xs)
        after, (ys, captured) = lax.scan(settled, init, xs, length, reverse=p["reverse"], unroll=p["unroll"])
        self.captured.update(captured)
        return [*after, *(_stacked(value) for value in ys)]

    def carried(self, op: Op, init: list[Value | None]) -> list[Value | None]:
        """What enters the loop: nothing that becomes an activation in it can be had when activations are left out."""
        return init

    def cond(self, op: Op, ins: list[Value | None]) -> list[Value | None]:
        index, operands = ins[0], ins[1:]
        assert index is not None

        branches = [partial(self.branch, body, operands) for body in op.bodies]
        shapes = [jax.eval_shape(b) for b in branches]
        nothing: Captured = {}
        for _, captured in shapes:
            nothing.update(captured)
        shared = [_shared([outs[i] for outs, _ in shapes]) for i in range(len(op.outs))]

        def uniform(run: Callable[[], Any]) -> Callable[[], Any]:
            def same() -> Any:
                outs, captured = run()
                kept = [_conform(value, like) for value, like in zip(outs, shared, strict=True)]
                return kept, blank(nothing) | captured

            return same

        outs, captured = lax.switch(index.data, [uniform(b) for b in branches])
        self.captured.update(captured)
        return outs

    def branch(self, body: Block, operands: Sequence[Value | None]) -> tuple[list[Value | None], Captured]:
        return self.inner(self.replacements(body), lambda: self.block(body, operands))

    def while_loop(self, op: Op, data: list[Any]) -> list[Any]:
        """Nothing is captured inside: the number of iterations is not known."""
        test, body = op.bodies
        n, m = op.params["cond_nconsts"], op.params["body_nconsts"]

        def run(block: Block, consts: list[Any], carry: Sequence[Any]) -> list[Any]:
            args = [Value(x) for x in [*consts, *carry]]
            outs, _ = self.inner({}, lambda: self.block(block, args))
            return [value.data for value in outs]

        return list(
            lax.while_loop(
                lambda carry: run(test, data[:n], carry)[0],
                lambda carry: tuple(run(body, data[n : n + m], carry)),
                tuple(data[n + m :]),
            )
        )


def _sliced(value: Value | None, length: int) -> tuple[Value | None, Shadows]:
    """What a scan takes apart along its first axis, and the known shadows of every slice that are the same in all."""
    if value is None:
        return None, ()
    still = [s for s in value.shadows if known(s) and not varies(s, 0)]
    moving = [s for s in value.shadows if not (known(s) and not varies(s, 0))]
    wide = tuple(traced(jnp.broadcast_to(s, (length, *s.shape[1:]))) for s in moving)
    return Value(value.data, wide), tuple(s[0] for s in still)


def _with(value: Value | None, still: Shadows) -> Value | None:
    return None if value is None else Value(value.data, (*value.shadows, *still))


def _stacked(value: Value | None) -> Value | None:
    """What a scan put together: its traced shadows are stacked, a known one is that of every slice."""
    return None if value is None else Value(value.data, tuple(s[None] if known(s) else s for s in value.shadows))


def _conform(value: Value | None, like: Value | None) -> Value | None:
    """``value`` with the shadows that ``like`` has, in its order, known where they are known there."""
    if value is None or like is None:
        return None
    own = {s.shape: s for s in value.shadows}
    return Value(value.data, tuple(own[s.shape] if known(s) else traced(own[s.shape]) for s in like.shadows))


def _agreed(shadow: Shadow, other: Shadow) -> Shadow:
    """``shadow``, known only if it is known to be the ``other``."""
    return shadow if same(shadow, other) or not known(shadow) else traced(shadow)


def _shared(many: Sequence[Value]) -> Value:
    """A model of what several branches return: the shadows that all have, known where all are known to agree."""
    shadows = {s.shape: s for s in many[0].shadows}
    for value in many[1:]:
        own = {s.shape: s for s in value.shadows}
        shadows = {shape: _agreed(s, own[shape]) for shape, s in shadows.items() if shape in own}
    return Value(None, tuple(shadows.values()))


def _settle(step: Callable, init: list[Value | None], xs: Any) -> list[Value | None]:
    """``init`` with just the shadows that every iteration passes on, known only where no iteration changes them: a
    carry must keep its structure."""
    first = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), xs)
    fresh = [value is not None and not value.shadows for value in init]
    while True:
        after = jax.eval_shape(lambda carry, inputs: step(carry, inputs)[0], init, first)
        settled = [_settled(*each) for each in zip(init, after, fresh, strict=True)]
        if all(_structure(a) == _structure(b) for a, b in zip(settled, init, strict=True)):
            return settled
        fresh = [False] * len(fresh)
        init = settled


def _settled(value: Value | None, after: Value | None, fresh: bool) -> Value | None:
    if value is None or after is None:
        return None
    if fresh:  # a constant to begin with: no token yet
        return Value(value.data, tuple(traced(none(s.shape)) for s in after.shadows))
    own = {s.shape: s for s in after.shadows}
    return Value(value.data, tuple(_agreed(s, own[s.shape]) for s in value.shadows if s.shape in own))


def _structure(value: Value | None) -> list[tuple[Any, bool]]:
    return [] if value is None else [(s.shape, known(s)) for s in value.shadows]


def blank(shapes: Captured) -> Captured:
    """What the sites of a branch that was not taken show: zeros, and no token."""
    return {
        key: {port: jnp.full(s.shape, -1 if port == "rows" else 0, s.dtype) for port, s in ports.items()}
        for key, ports in shapes.items()
    }
