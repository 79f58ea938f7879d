"""Which values are constants, derived from parameters, or activations: decided once, without running anything."""

from __future__ import annotations

from ckptdbg.models.jax_side.program import Atom, Block, Op, Var
from ckptdbg.models.jax_side.sites import PASSTHROUGH, AnchorSite, Level, MeetingSite, Site, classify


class Taint:
    """Levels of every value and the sites of a program whose first ``parameters`` inputs are the parameters."""

    def __init__(self, root: Block, parameters: int) -> None:
        self.level: dict[Var, Level] = {}
        for i, var in enumerate(root.ins):
            self.level[var] = Level.PARAMETER if i < parameters else Level.ACTIVATION
        self._block(root)
        self.sites: dict[int, Site] = {}
        self._classify(root)
        self.source: dict[Var, Op] = {}
        for op in root.every_op():
            self.source.update((out, op) for out in op.outs)
        meetings = [site for site in self.sites.values() if isinstance(site, MeetingSite)]
        self.met = frozenset(atom for site in meetings for atom in self.meeting_operands(site))
        """What the meetings read: the value before it was broadcast, so possibly that of an earlier equation."""

    def of(self, atom: Atom) -> Level:
        return self.level[atom] if isinstance(atom, Var) else Level.CONSTANT

    def used(self, atom: Atom) -> Atom:
        """``atom`` before it was broadcast: the smaller value says the same."""
        while isinstance(atom, Var) and (op := self.source.get(atom)) and op.name == "broadcast_in_dim":
            atom = op.ins[0]
        return atom

    def meeting_operands(self, site: MeetingSite) -> list[Atom]:
        return [self.used(site.op.ins[i]) for i in site.weights]

    def _block(self, block: Block) -> list[Level]:
        for op in block.ops:
            self._op(op)
        return [self.of(atom) for atom in block.outs]

    def _op(self, op: Op) -> None:
        ins = [self.of(atom) for atom in op.ins]
        match op.name:
            case "scan":
                outs = self._scan(op, ins)
            case "cond":
                outs = [ins[0]] * len(op.outs)
                for body in op.bodies:
                    self.level.update(zip(body.ins, ins[1:], strict=True))
                    outs = [max(pair) for pair in zip(outs, self._block(body), strict=True)]
            case "while":
                outs = self._while(op, ins)
            case name if name in PASSTHROUGH:
                outs = ins
            case _:
                outs = [max(ins, default=Level.CONSTANT)] * len(op.outs)
        self.level.update(zip(op.outs, outs, strict=True))

    def _scan(self, op: Op, ins: list[Level]) -> list[Level]:
        consts, carries = op.params["num_consts"], op.params["num_carry"]
        (body,) = op.bodies
        carry = ins[consts : consts + carries]
        while True:
            self.level.update(zip(body.ins, [*ins[:consts], *carry, *ins[consts + carries :]], strict=True))
            outs = self._block(body)
            after = [max(pair) for pair in zip(carry, outs[:carries], strict=True)]
            if after == carry:
                return [*carry, *outs[carries:]]
            carry = after

    def _while(self, op: Op, ins: list[Level]) -> list[Level]:
        test, body = op.bodies
        n, m = op.params["cond_nconsts"], op.params["body_nconsts"]
        carry = ins[n + m :]
        while True:
            self.level.update(zip(test.ins, [*ins[:n], *carry], strict=True))
            self.level.update(zip(body.ins, [*ins[n : n + m], *carry], strict=True))
            (again,) = self._block(test)
            after = [max(again, *pair) for pair in zip(carry, self._block(body), strict=True)]
            if after == carry:
                return carry
            carry = after

    def _classify(self, block: Block) -> None:
        for op in block.ops:
            site = self._entry(op) or classify(op, [self.of(atom) for atom in op.ins])
            if site is not None:
                self.sites[op.key] = site
            if op.name in ("scan", "cond"):
                for body in op.bodies:
                    self._classify(body)

    def _entry(self, op: Op) -> MeetingSite | None:
        """A parameter that a scan's carry starts from (a learned initial state) meets the activations there."""
        if op.name != "scan":
            return None
        first = op.params["num_consts"]
        carry = range(first, first + op.params["num_carry"])
        inside = op.bodies[0].ins
        starts = [i for i in carry if self.of(op.ins[i]) is Level.PARAMETER and self.of(inside[i]) is Level.ACTIVATION]
        return MeetingSite(op, tuple(starts)) if starts else None

    def anchors(self) -> list[AnchorSite]:
        return [site for site in self.sites.values() if isinstance(site, AnchorSite)]
