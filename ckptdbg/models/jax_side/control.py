"""``scan``, ``cond`` and ``while`` rebuilt, so that captures come out of them and replacements go in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ckptdbg.models.jax_side.program import Block, Op
from ckptdbg.models.jax_side.shadows import Shadows

Captured = dict[int, dict[str, Any]]
"""By site key, then by port. Each enclosing scan adds a leading axis."""


class Value(NamedTuple):
    """Data and the shadows that say which token each part belongs to (see ``rows``)."""

    data: Any
    shadows: Shadows = ()


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
        fixed, xs = ins[:consts], [_stacked(value, length) for value in ins[consts + carries :]]
        init = self.carried(op, ins[consts : consts + carries])

        def step(carry: list[Value | None], inputs: tuple[list[Value | None], Captured]) -> tuple[Any, Any]:
            args = [*fixed, *carry, *inputs[0]]
            outs, captured = self.inner(inputs[1], lambda: self.block(body, args))
            return outs[:carries], (outs[carries:], captured)

        init = _settle(step, init, xs, self.replacements(body))

        def settled(carry: list[Value | None], inputs: Any) -> tuple[Any, Any]:
            after, out = step(carry, inputs)
            return [_conform(value, like) for value, like in zip(after, carry, strict=True)], out

        after, (ys, captured) = lax.scan(
            settled, init, (xs, self.replacements(body)), length, reverse=p["reverse"], unroll=p["unroll"]
        )
        self.captured.update(captured)
        return [*after, *ys]

    def carried(self, op: Op, init: list[Value | None]) -> list[Value | None]:
        """What enters the loop: nothing that becomes an activation in it can be had when activations are left out."""
        return init

    def cond(self, op: Op, ins: list[Value | None]) -> list[Value | None]:
        index, operands = ins[0], ins[1:]
        assert index is not None

        def branch(body: Block) -> Callable[[], Any]:
            return lambda: self.inner(self.replacements(body), lambda: self.block(body, operands))

        branches = [branch(body) for body in op.bodies]
        shapes = [jax.eval_shape(b) for b in branches]
        blank: Captured = {}
        for _, captured in shapes:
            blank.update(captured)
        shared = [
            {s.shape for s in many[0].shadows}.intersection(*({s.shape for s in value.shadows} for value in many))
            for many in zip(*(outs for outs, _ in shapes), strict=True)
        ]

        def uniform(run: Callable[[], Any]) -> Callable[[], Any]:
            def same() -> Any:
                outs, captured = run()
                kept = [Value(v.data, tuple(s for s in v.shadows if s.shape in k))
                        for v, k in zip(outs, shared, strict=True)]  # fmt: skip
                kept = [Value(v.data, tuple(sorted(v.shadows, key=lambda s: s.shape))) for v in kept]
                return kept, {key: captured.get(key) or _blank(ports) for key, ports in blank.items()}

            return same

        outs, captured = lax.switch(index.data, [uniform(b) for b in branches])
        self.captured.update(captured)
        return outs

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


def _stacked(value: Value | None, length: int) -> Value | None:
    """Shadows at full size along the axis that a scan takes apart."""
    if value is None:
        return None
    return Value(value.data, tuple(jnp.broadcast_to(s, (length, *s.shape[1:])) for s in value.shadows))


def _conform(value: Value | None, like: Value | None) -> Value | None:
    """``value`` with the shadows that ``like`` has, in its order."""
    if value is None or like is None:
        return None
    own = {s.shape: s for s in value.shadows}
    return Value(value.data, tuple(own[s.shape] for s in like.shadows))


def _settle(step: Callable, init: list[Value | None], xs: list[Value | None], replace: Captured) -> list[Value | None]:
    """``init`` with just the shadows that every iteration passes on: a carry must keep its structure."""
    first = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), (xs, replace))
    fresh = [value is not None and not value.shadows for value in init]
    while True:
        after = jax.eval_shape(lambda carry, inputs: step(carry, inputs)[0], init, first)
        settled = []
        for i, (value, out) in enumerate(zip(init, after, strict=True)):
            if value is None:
                settled.append(None)
                continue
            shapes = [s.shape for s in out.shadows]
            if fresh[i]:  # a constant to begin with: no token yet
                settled.append(Value(value.data, tuple(jnp.full(shape, -1, jnp.int32) for shape in shapes)))
            else:
                settled.append(Value(value.data, tuple(s for s in value.shadows if s.shape in shapes)))
        same = [_shapes(a) == _shapes(b) for a, b in zip(settled, init, strict=True)]
        if all(same):
            return settled
        fresh = [False] * len(fresh)
        init = settled


def _shapes(value: Value | None) -> list[tuple[int, ...]]:
    return [] if value is None else [s.shape for s in value.shadows]


def _blank(ports: dict[str, Any]) -> dict[str, Any]:
    """What the sites of a branch that was not taken show: zeros, and no token."""
    return {port: jnp.full(s.shape, -1 if port == "rows" else 0, s.dtype) for port, s in ports.items()}
