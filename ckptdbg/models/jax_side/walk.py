"""The abstract walk: a program in execution order, every scan iteration by itself, without computing anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ckptdbg.models.jax_side import aligned, compat
from ckptdbg.models.jax_side.aligned import Aligned
from ckptdbg.models.jax_side.program import Atom, Block, Op, Var, dtype_of
from ckptdbg.models.jax_side.sites import (
    PASSTHROUGH,
    AnchorSite,
    CastSite,
    ChoiceSite,
    Level,
    MeetingSite,
    OpaqueSite,
    Site,
)
from ckptdbg.models.jax_side.taint import Taint
from ckptdbg.models.records import Anchor, Cast, Choice, Graph, Meeting, Opaque, Where


@dataclass(frozen=True)
class Flow:
    """What reached a value: parameters (if derived from them), anchors and meetings (if an activation)."""

    parameters: frozenset[str] = frozenset()
    feeds: frozenset[int] = frozenset()
    met: frozenset[int] = frozenset()
    groups: frozenset[Aligned] = frozenset()
    """Which feeds still lie apart along an axis of the value."""

    @staticmethod
    def union(flows: Sequence[Flow]) -> Flow:
        if len(flows) == 1:
            return flows[0]
        return Flow(
            frozenset().union(*(f.parameters for f in flows)),
            frozenset().union(*(f.feeds for f in flows)),
            frozenset().union(*(f.met for f in flows)),
        )


NOTHING = Flow()


@dataclass(frozen=True)
class Slot:
    """Where the values of one anchor, meeting or choice lie among those captured at its site."""

    key: int
    iteration: tuple[int, ...]
    part: int
    """Group of an anchor, operand of a meeting."""


@dataclass
class Walk:
    """``graph`` and, for each of its anchors, meetings and choices, the slot of its values."""

    root: Block
    names: Sequence[str]
    taint: Taint
    anchors: list[Anchor] = field(default_factory=list)
    meetings: list[Meeting] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)
    casts: list[Cast] = field(default_factory=list)
    opaque: list[Opaque] = field(default_factory=list)
    anchor_slots: list[Slot] = field(default_factory=list)
    meeting_slots: list[Slot] = field(default_factory=list)
    choice_slots: list[Slot] = field(default_factory=list)
    pinned: set[int] = field(default_factory=set)
    """Keys of the choices that depend on an anchor."""

    def __post_init__(self) -> None:
        self._flow: dict[Var, Flow] = {}
        self._iteration: tuple[int, ...] = ()
        for var, name in zip(self.root.ins, self.names, strict=False):
            self._flow[var] = Flow(parameters=frozenset([name]))
        for var in self.root.ins[len(self.names) :]:
            self._flow[var] = NOTHING
        self._output = self._block(self.root)[0]

    @property
    def graph(self) -> Graph:
        used = frozenset().union(*(x.parameters for x in [*self.anchors, *self.meetings, *self.opaque]))
        return Graph(
            tuple(self.anchors),
            tuple(self.meetings),
            tuple(self.choices),
            tuple(self.casts),
            tuple(self.opaque),
            output_feeds=self._output.feeds,
            output_met=self._output.met,
            unused_parameters=tuple(name for name in self.names if name not in used),
        )

    def feeds(self, var: Var) -> frozenset[int]:
        """The anchors that reach a value without passing through another one; none for what is no activation."""
        return self._flow[var].feeds if self.taint.of(var) is Level.ACTIVATION else frozenset()

    def _read(self, atom: Atom) -> Flow:
        return self._flow[atom] if isinstance(atom, Var) else NOTHING

    def _block(self, block: Block) -> list[Flow]:
        for op in block.ops:
            self._op(op)
        return [self._read(atom) for atom in block.outs]

    def _op(self, op: Op) -> None:
        ins = [self._read(atom) for atom in op.ins]
        site = self.taint.sites.get(op.key)
        match op.name:
            case "scan":
                if site is not None:
                    self._site(site, ins)
                outs = self._scan(op, ins)
            case "cond":
                outs = self._cond(op, ins)
            case name if name in PASSTHROUGH:
                outs = ins
            case _:
                flow = self._site(site, ins) if site is not None else Flow.union(ins)
                outs = [flow] * len(op.outs)
                if not isinstance(site, AnchorSite):
                    outs = [replace(flow, groups=self._apart(op, ins, var)) for var in op.outs]
        for var, flow in zip(op.outs, outs, strict=True):
            is_activation = self.taint.of(var) is Level.ACTIVATION
            self._flow[var] = replace(flow, parameters=frozenset()) if is_activation else flow

    def _apart(self, op: Op, ins: list[Flow], out: Var) -> frozenset[Aligned]:
        inputs = [(atom, flow.feeds, flow.groups) for atom, flow in zip(op.ins, ins, strict=True)]
        return aligned.follow(op, inputs, out) if any(flow.groups for flow in ins) else frozenset()

    def _scan(self, op: Op, ins: list[Flow]) -> list[Flow]:
        consts, carries, length = op.params["num_consts"], op.params["num_carry"], op.params["length"]
        (body,) = op.bodies
        carry, stacked = ins[consts : consts + carries], []
        taken = [replace(flow, groups=frozenset()) for flow in ins[consts + carries :]]  # their axes are others inside
        outer = self._iteration
        for i in reversed(range(length)) if op.params["reverse"] else range(length):
            self._iteration = (*outer, i)
            for var, flow in zip(body.ins, [*ins[:consts], *carry, *taken], strict=True):
                self._flow[var] = flow
            outs = self._block(body)
            carry = outs[:carries]
            stacked.append([replace(flow, groups=frozenset()) for flow in outs[carries:]])
        self._iteration = outer
        return [*carry, *(Flow.union(flows) for flows in zip(*stacked, strict=True))]

    def _cond(self, op: Op, ins: list[Flow]) -> list[Flow]:
        branches = []
        for body in op.bodies:
            for var, flow in zip(body.ins, ins[1:], strict=True):
                self._flow[var] = flow
            branches.append(self._block(body))
        for i, var in enumerate(op.outs):
            derived = [f.parameters for f, body in zip((b[i] for b in branches), op.bodies, strict=True)
                       if self.taint.of(body.outs[i]) is Level.PARAMETER]  # fmt: skip
            if derived and self.taint.of(var) is Level.ACTIVATION:
                names = tuple(sorted(frozenset().union(*derived)))
                self.opaque.append(Opaque(op.name, names, "the inputs choose between parameters", compat.where(op.eqn)))
        return [Flow.union([ins[0], *flows]) for flows in zip(*branches, strict=True)]

    def _site(self, site: Site, ins: list[Flow]) -> Flow:
        """Record the site; what flows out of it."""
        where = compat.where(site.op.eqn)
        activation = Flow.union(
            [f for f, a in zip(ins, site.op.ins, strict=True) if self.taint.of(a) is Level.ACTIVATION]
        )
        match site:
            case AnchorSite():
                return self._anchor(site, ins, where)
            case MeetingSite():
                return self._meeting(site, ins, activation, where)
            case ChoiceSite():
                self._choice(site, activation, where)
            case CastSite(op=op):
                self.casts.append(Cast(str(dtype_of(op.ins[0])), _lowered(op), where, len(self.anchors)))
            case OpaqueSite(op=op, reason=reason):
                names = tuple(sorted(Flow.union(ins).parameters))
                self.opaque.append(Opaque(op.name, names, reason, where))
        return activation

    def _anchor(self, site: AnchorSite, ins: list[Flow], where: Where) -> Flow:
        names = tuple(sorted(ins[site.weight].parameters))
        arrived = Flow.union([flow for i, flow in enumerate(ins) if i != site.weight])
        apart = ins[site.data].groups
        groups, features, contraction = site.operand.folded
        first = len(self.anchors)
        for group in range(groups):
            self.anchors.append(
                Anchor(
                    first + group,
                    "contraction" if site.input else "lookup",
                    site.op.name,
                    names,
                    features,
                    contraction,
                    where,
                    self._iteration,
                    group if groups > 1 else None,
                    aligned.feeds(site, group, arrived.feeds, apart),
                    arrived.met,
                )
            )
            self.anchor_slots.append(Slot(site.op.key, self._iteration, group))
        fed = frozenset(range(first, first + groups))
        return Flow(feeds=fed, groups=aligned.of_anchor(site, first) if groups > 1 else frozenset())

    def _meeting(self, site: MeetingSite, ins: list[Flow], activation: Flow, where: Where) -> Flow:
        met = set()
        for part, (weight, atom) in enumerate(zip(site.weights, self.taint.meeting_operands(site), strict=True)):
            shape = tuple(size for size in atom.aval.shape if size != 1)
            names = tuple(sorted(ins[weight].parameters))
            met.add(len(self.meetings))
            self.meetings.append(Meeting(len(self.meetings), site.op.name, names, shape, where, self._iteration))
            self.meeting_slots.append(Slot(site.op.key, self._iteration, part))
        return Flow(feeds=activation.feeds, met=activation.met | met)

    def _choice(self, site: ChoiceSite, activation: Flow, where: Where) -> None:
        if not activation.feeds:
            return
        self.pinned.add(site.op.key)
        index = len(self.choices)
        self.choices.append(
            Choice(index, site.op.name, site.options, site.chosen, where, self._iteration, activation.feeds)
        )
        self.choice_slots.append(Slot(site.op.key, self._iteration, 0))


def _lowered(op: Op) -> str:
    if op.name == "reduce_precision":
        return f"{op.params['mantissa_bits']} mantissa bits"
    return str(np.dtype(op.params["new_dtype"]))
