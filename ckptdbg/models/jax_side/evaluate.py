"""Runs a program again, with the values at its sites captured and replaced, all under one ``jit``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ckptdbg.models.jax_side import numerics, rows
from ckptdbg.models.jax_side.blocks import BlockSite
from ckptdbg.models.jax_side.control import Captured, ControlFlow
from ckptdbg.models.jax_side.program import Atom, Block, Const, Op, Var, dtype_of
from ckptdbg.models.jax_side.shadows import Shadows, Value, best
from ckptdbg.models.jax_side.sites import PASSTHROUGH, AnchorSite, ChoiceSite, Level, MeetingSite, patches
from ckptdbg.models.jax_side.taint import Taint

_MOVES = frozenset({
    "reshape", "broadcast_in_dim", "transpose", "squeeze", "rev", "slice", "dynamic_slice", "pad", "concatenate",
    "stack", "unstack", "tile", "gather", "split", "select_n", "copy", "convert_element_type", "iota", "sort",
})  # fmt: skip
"""Constants that only moved are not rounded again."""


class Evaluator(ControlFlow):
    """One evaluation. A value that is left out (None) leaves out whatever depends on it."""

    def __init__(
        self,
        taint: Taint,
        pinned: frozenset[int],
        *,
        promoted: bool,
        jitter: Any = None,
        replace: Captured | None = None,
        blocks: Sequence[BlockSite] = (),
    ) -> None:
        self.taint, self.pinned, self.promoted, self.jitter = taint, pinned, promoted, jitter
        self.env: dict[Var, Value | None] = {}
        self.blocks = {site.key: site.var for site in blocks}
        self.captured: Captured = {}
        self.replace: Captured = replace or {}

    def run(self, root: Block, args: Sequence[Value | None]) -> Value | None:
        """Evaluate the program; what the sites saw is in ``captured`` afterwards."""
        return self.block(root, args)[0]

    def block(self, block: Block, args: Sequence[Value | None]) -> list[Value | None]:
        self.env.update(zip(block.ins, args, strict=True))
        for op in block.ops:
            self.env.update(zip(op.outs, self.op(op), strict=True))
            self.leave(op)
            for var in block.last_uses[op.key]:
                if var not in self.taint.met:
                    del self.env[var]
        return [self.read(atom) for atom in block.outs]

    def leave(self, op: Op) -> None:
        """Capture the output of a layer."""
        if op.key in self.blocks and (value := self.env[self.blocks[op.key]]) is not None:
            self.captured.setdefault(op.key, {})["block"] = value.data

    def read(self, atom: Atom) -> Value | None:
        if isinstance(atom, Var):
            return self.env[atom]
        return Value(self.constant(atom))

    def constant(self, atom: Const) -> Any:
        value = numerics.as_array(atom.value, atom)
        whole = self.jitter is None or numerics.is_whole(atom.value, atom)
        value = numerics.promote(value) if self.promoted else value
        return value if whole else self.jittered(value, atom, atom.key)

    def jittered(self, value: Any, atom: Atom, key: int) -> Any:
        dtype = dtype_of(atom)
        if self.jitter is None or dtype is None or not jnp.issubdtype(dtype, jnp.floating):
            return value
        return numerics.jitter(value, dtype, self.jitter, key)

    def op(self, op: Op) -> list[Value | None]:
        ins = [self.read(atom) for atom in op.ins]
        site = self.taint.sites.get(op.key)
        if isinstance(site, MeetingSite):
            self.meet(site)
        if op.name == "scan":
            return self.scan(op, ins)
        if op.name == "cond":
            return self.cond(op, ins)
        if isinstance(site, AnchorSite):
            return [self.anchor(site, ins)]
        if any(value is None for value in ins):
            return ins if op.name in PASSTHROUGH else [None] * len(op.outs)
        present = [value for value in ins if value is not None]
        if isinstance(site, ChoiceSite) and op.key in self.pinned:
            return list(self.choice(site, present))
        return list(self.plain(op, present))

    def plain(self, op: Op, ins: list[Value]) -> list[Value]:
        data = [value.data for value in ins]
        outs = self.while_loop(op, data) if op.name == "while" else self.compute(op, data)
        if op.name in PASSTHROUGH:
            return [Value(out, value.shadows) for out, value in zip(outs, ins, strict=True)]
        if self.taint.of(op.outs[0]) is Level.CONSTANT and op.name not in _MOVES:
            outs = [self.jittered(out, var, op.key) for out, var in zip(outs, op.outs, strict=True)]
        shadows = rows.propagate(op, data, [value.shadows for value in ins])
        return [Value(out, shadow) for out, shadow in zip(outs, shadows, strict=True)]

    def compute(self, op: Op, data: list[Any]) -> list[Any]:
        return numerics.compute_promoted(op, data) if self.promoted else numerics.compute(op, data)

    # Sites.

    def meet(self, site: MeetingSite) -> None:
        """Only the parameters' side is kept: meetings are shown, not compared."""

    def anchor(self, site: AnchorSite, ins: list[Value | None]) -> Value | None:
        """Capture ``in`` and ``out`` in canonical form, then put planted values in their place."""
        values = [value for value in ins if value is not None]
        data, ports = [value.data for value in values], self.replace.get(site.op.key, {})
        shadows = rows.propagate(site.op, data, [value.shadows for value in values])[0]
        seen: dict[str, Any] = {"rows": _tokens(site, shadows)}
        native, planted = data, None
        if site.input is not None:
            source = patches(site.op, data[site.data]) if site.patches else data[site.data]
            seen["in"] = site.input.fold(source)
            if "in" in ports:
                planted = jnp.where(ports["in_mask"], ports["in"], seen["in"])
                native = [site.input.unfold(planted) if i == site.data else x for i, x in enumerate(data)]
        if site.patches and planted is not None:
            kernel = site.operand.fold(data[site.weight])
            out = site.output.unfold(jnp.einsum("grc,gfc->grf", planted, kernel, precision="highest"))
        else:
            (out,) = self.compute(site.op, native)
        seen["out"] = site.output.fold(out)
        if "out" in ports:
            out = site.output.unfold(jnp.where(ports["out_mask"], ports["out"], seen["out"]))
        if site.ragged is not None:
            seen["sizes"] = data[site.ragged]
        self.captured[site.op.key] = seen
        return Value(out, shadows)

    def choice(self, site: ChoiceSite, ins: list[Value]) -> list[Value]:
        """Capture the indices, then put the pinned ones in their place and gather the values they choose."""
        options, shadows = jnp.moveaxis(ins[0].data, site.axis, -1), ins[0].shadows
        outs = self.plain(site.op, ins)
        single = len(outs) == 1  # argmax returns the index alone
        taken = outs[0].data[..., None] if single else jnp.moveaxis(outs[1].data, site.axis, -1)
        found = best(shadows, dead=[site.axis])
        tokens = jnp.full((1,) * options.ndim, -1, jnp.int32) if found is None else jnp.moveaxis(found, site.axis, -1)
        lead = options.shape[:-1]
        self.captured[site.op.key] = {
            "indices": taken.reshape(-1, site.chosen),
            "rows": jnp.broadcast_to(tokens[..., 0], lead).reshape(-1),
            "margin": self.margin(site, options, taken).reshape(-1),
        }
        ports = self.replace.get(site.op.key, {})
        if "indices" not in ports:
            return outs
        pinned = ports["indices"].astype(taken.dtype).reshape(taken.shape)
        if single:
            return [Value(pinned[..., 0], outs[0].shadows)]
        values = jnp.take_along_axis(options, pinned, axis=-1)
        replaced = [jnp.moveaxis(x, -1, site.axis) for x in (values, pinned)]
        return [Value(x, out.shadows) for x, out in zip(replaced, outs, strict=True)]

    def margin(self, site: ChoiceSite, options: jax.Array, taken: jax.Array) -> jax.Array:
        """The last chosen minus the best rejected; inf where nothing was rejected."""
        sign = -1 if site.op.name == "argmin" else 1
        if site.chosen == site.options:
            return jnp.full(options.shape[:-1], jnp.inf, options.dtype)
        is_taken = (taken[..., None] == jnp.arange(site.options, dtype=taken.dtype)).any(-2)
        last = jnp.take_along_axis(options, taken[..., -1:], axis=-1)[..., 0] * sign
        return last - jnp.where(is_taken, -jnp.inf, options * sign).max(-1)


class OperandEvaluator(Evaluator):
    """Only what is derived from parameters; the activations are left out."""

    def anchor(self, site: AnchorSite, ins: list[Value | None]) -> Value | None:
        weight = ins[site.weight]
        assert weight is not None
        self.captured[site.op.key] = {"operand": site.operand.fold(weight.data)}
        return None

    def meet(self, site: MeetingSite) -> None:
        operands = [self.read(atom) for atom in self.taint.meeting_operands(site)]
        self.captured[site.op.key] = {str(i): value.data for i, value in enumerate(operands) if value is not None}

    def carried(self, op: Op, init: list[Value | None]) -> list[Value | None]:
        (body,) = op.bodies
        first = op.params["num_consts"]
        levels = [self.taint.of(var) for var in body.ins[first : first + len(init)]]
        return [None if level is Level.ACTIVATION else v for level, v in zip(levels, init, strict=True)]

    def cond(self, op: Op, ins: list[Value | None]) -> list[Value | None]:
        if ins[0] is not None:
            return super().cond(op, ins)
        for body in op.bodies:
            self.block(body, ins[1:])
        return [None] * len(op.outs)


def _tokens(site: AnchorSite, shadows: Shadows) -> jax.Array:
    """int32 ``[group, rows]``, from the shadows of the anchor's result."""
    shape, features = site.output.folded[:2], site.output.groups[2]
    found = best(shadows, dead=features)
    if found is None:
        return jnp.full(shape, -1, jnp.int32)
    thin = [1 if axis in features else size for axis, size in enumerate(site.output.shape)]
    return jnp.broadcast_to(found, thin).transpose(site.output.order).reshape(shape)
