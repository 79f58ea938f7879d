"""A traced model with every plain call inlined: what the walk reads and the evaluator runs.

Variables are unique in the whole program (a function called twice is inlined twice), so one flat environment serves
the root and the bodies of ``scan``, ``cond`` and ``while`` alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jax.extend import core

from ckptdbg.models.jax_side import compat


class Var:
    """One value of the program; compared by identity."""

    __slots__ = ("aval",)

    def __init__(self, aval: Any) -> None:
        self.aval = aval


@dataclass(frozen=True, eq=False)
class Const:
    """A closed-over array or a literal."""

    value: Any
    aval: Any
    key: int


Atom = Var | Const


@dataclass(frozen=True, eq=False)
class Op:
    """One equation. ``bodies`` are the blocks of its control flow, in the order of its jaxprs."""

    key: int
    eqn: Any
    ins: tuple[Atom, ...]
    outs: tuple[Var, ...]
    bodies: tuple[Block, ...] = ()

    @property
    def name(self) -> str:
        return self.eqn.primitive.name

    @property
    def params(self) -> dict[str, Any]:
        return self.eqn.params


@dataclass(frozen=True, eq=False)
class Block:
    """A straight list of equations."""

    ins: tuple[Var, ...]
    ops: tuple[Op, ...]
    outs: tuple[Atom, ...]

    def every_op(self) -> Iterator[Op]:
        """All equations, those of nested blocks included."""
        for op in self.ops:
            yield op
            for body in op.bodies:
                yield from body.every_op()

    @cached_property
    def last_uses(self) -> dict[int, tuple[Var, ...]]:
        """By the key of an equation, the results of equations of this block that nothing after it reads."""
        made = {var for op in self.ops for var in op.outs}
        later: set[Atom] = set(self.outs)
        found = {}
        for op in reversed(self.ops):
            gone = {atom for atom in (*op.ins, *op.outs) if atom in made} - later
            found[op.key] = tuple(atom for atom in gone if isinstance(atom, Var))
            later |= gone
        return found


def build(closed: core.ClosedJaxpr, leaves: Sequence[Any], constants: Sequence[Any] = ()) -> Block:
    """Inline ``closed``, whose first inputs are ``leaves`` and the next ``constants``.

    What it closes over and *is* one of the leaves becomes that input; the constants are no inputs of the result.
    """
    return _Builder(closed, leaves, constants).root


class _Builder:
    def __init__(self, closed: core.ClosedJaxpr, leaves: Sequence[Any], constants: Sequence[Any]) -> None:
        self.count = 0
        first, last = len(leaves), len(leaves) + len(constants)
        atoms: list[Atom] = [Var(v.aval) for v in closed.jaxpr.invars]
        atoms[first:last] = [Const(c, a.aval, self.key()) for c, a in zip(constants, atoms[first:last], strict=True)]
        ins = tuple(atom for atom in atoms if isinstance(atom, Var))
        self.known = {id(leaf): var for leaf, var in zip(leaves, ins, strict=False)}
        self.root = self.block(closed, ins, atoms)

    def key(self) -> int:
        self.count += 1
        return self.count

    def const(self, value: Any, aval: Any) -> Atom:
        return self.known.get(id(value)) or Const(value, aval, self.key())

    def body(self, jaxpr: Any) -> Block:
        ins = tuple(Var(v.aval) for v in compat.opened(jaxpr)[0].invars)
        return self.block(jaxpr, ins, ins)

    def block(self, jaxpr: Any, ins: tuple[Var, ...], args: Sequence[Atom]) -> Block:
        ops: list[Op] = []
        outs = self.inline(jaxpr, args, ops)
        return Block(ins, _live(ops, outs), outs)

    def inline(self, jaxpr: Any, args: Sequence[Atom], ops: list[Op]) -> tuple[Atom, ...]:
        """Append the equations of ``jaxpr`` applied to ``args``; return what it returns."""
        jaxpr, consts = compat.opened(jaxpr)
        env: dict[Any, Atom] = dict(zip(jaxpr.invars, args, strict=True))
        env.update((var, self.const(value, var.aval)) for var, value in zip(jaxpr.constvars, consts, strict=True))

        def read(atom: Any) -> Atom:
            return self.const(atom.val, atom.aval) if isinstance(atom, core.Literal) else env[atom]

        for eqn in jaxpr.eqns:
            ins = tuple(read(atom) for atom in eqn.invars)
            called = compat.CALLS.get(eqn.primitive.name)
            if called is not None:
                outs = self.inline(eqn.params[called], ins, ops)
            else:
                outs = tuple(Var(v.aval) for v in eqn.outvars)
                ops.append(Op(self.key(), eqn, ins, outs, self.bodies(eqn)))
            env.update(zip(eqn.outvars, outs, strict=True))
        return tuple(read(atom) for atom in jaxpr.outvars)

    def bodies(self, eqn: Any) -> tuple[Block, ...]:
        match eqn.primitive.name:
            case "scan":
                return (self.body(eqn.params["jaxpr"]),)
            case "while":
                return self.body(eqn.params["cond_jaxpr"]), self.body(eqn.params["body_jaxpr"])
            case "cond":
                return tuple(self.body(branch) for branch in eqn.params["branches"])
        return ()


def _live(ops: list[Op], outs: tuple[Atom, ...]) -> tuple[Op, ...]:
    """Only the equations that the outputs need: an unused product is no anchor."""
    needed = {atom for atom in outs if isinstance(atom, Var)}
    kept = []
    for op in reversed(ops):
        if needed.intersection(op.outs):
            kept.append(op)
            needed.update(atom for atom in op.ins if isinstance(atom, Var))
            # A parameter that a body closes over is defined outside it; only program inputs are, and those need no op.
    return tuple(reversed(kept))


def dtype_of(atom: Atom) -> np.dtype | None:
    """The NumPy dtype, or None for what has none (PRNG keys)."""
    dtype = getattr(atom.aval, "dtype", None)
    return dtype if isinstance(dtype, np.dtype) else None
