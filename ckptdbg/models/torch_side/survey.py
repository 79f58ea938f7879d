"""The first walk: finds what a forward pass consists of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ckptdbg.models.records import Anchor, Cast, Choice, Graph, Meeting, Opaque
from ckptdbg.models.torch_side.border import dtype_name
from ckptdbg.models.torch_side.choices import Selection
from ckptdbg.models.torch_side.contractions import Contraction, einsum_letters
from ckptdbg.models.torch_side.layouts import Layout
from ckptdbg.models.torch_side.scopes import Scopes
from ckptdbg.models.torch_side.tape import Ref, Tape
from ckptdbg.models.torch_side.tensors import is_float, tensors_in
from ckptdbg.models.torch_side.walk import Kind, Tag, Walk, union

Use = tuple[int, int, int]
"""How a run recognises an anchor: key of the operand, group, how many times it was used before."""


@dataclass(frozen=True)
class Orders:
    """The tokens of the rows, the same in every run."""

    anchors: tuple[Tensor, ...]
    blocks: Mapping[tuple[str, int], Tensor]
    """What sorts the rows of a block by token."""
    output: Tensor | None


@dataclass(frozen=True)
class Surveyed:
    """What the runs need to know beside the graph."""

    graph: Graph
    uses: Mapping[Use, int]
    """Anchor index by use."""
    tape: Tape
    anchor_operands: tuple[tuple[Ref, Layout, int], ...]
    """For each anchor: value on the tape, layout, which of the layout's matrices."""
    meeting_operands: tuple[Ref, ...]
    orders: Orders | None
    """None where the rows of a run depend on its values."""
    block_calls: tuple[tuple[str, int], ...]
    """Module name and which of its calls, for each of ``graph.blocks``."""


@dataclass(frozen=True)
class _Block:
    name: str
    call: int
    features: int
    order: Tensor
    anchors: frozenset[int]
    """Those that ran inside."""
    has_children: bool
    has_parameters: bool


class Survey(Walk):
    def __init__(self, module: nn.Module) -> None:
        super().__init__(Tape())
        self._module = module
        self.scopes = Scopes(module)
        self._anchors: list[Anchor] = []
        self._meetings: list[Meeting] = []
        self._choices: list[Choice] = []
        self._casts: list[Cast] = []
        self._opaque: list[Opaque] = []
        self._uses: dict[Use, int] = {}
        self._use_counts: Counter[tuple[int, int]] = Counter()
        self._anchor_operands: list[tuple[Ref, Layout, int]] = []
        self._meeting_operands: list[Ref] = []
        self._rows: list[Tensor] = []
        self._blocks: list[_Block] = []
        self._calls: Counter[str] = Counter()
        self._entered: list[int] = []

    def contract(self, name: str, func: Any, args: Any, kwargs: Any, contraction: Contraction) -> tuple[Any, Tag]:
        result = func(*args, **kwargs)
        self.follow(name, func, args, kwargs, result)
        ref, before = self.tape.ref(contraction.operand), self.tag(contraction.activation) or Tag(Kind.ACTIVATION)
        first = len(self._anchors)
        self._rows.extend(self.rows.matrix(result, contraction.out_layout.split))
        for group, matrix in enumerate(contraction.operand_layout.split(contraction.operand)):
            index, use = len(self._anchors), self._use_counts[ref.key, group]
            self._use_counts[ref.key, group] += 1
            self._uses[ref.key, group, use] = index
            self._anchor_operands.append((ref, contraction.operand_layout, group))
            self._anchors.append(
                Anchor(
                    index,
                    contraction.kind,
                    str(func),
                    ref.names,
                    matrix.shape[0],
                    matrix.shape[1],
                    self.scopes.where(),
                    group=group if contraction.grouped else None,
                    feeds=before.feeds,
                    met=before.met,
                )
            )
        tag = Tag(Kind.ACTIVATION, frozenset(range(first, len(self._anchors))))
        return result, self._with_bias(name, func, contraction.bias, tag)

    def _with_bias(self, name: str, func: Any, bias: Tensor | None, tag: Tag) -> Tag:
        """A bias inside of the call comes after the anchor: it is met, or (an activation) feeds the result as well."""
        if bias is None:
            return tag
        if self.is_parameter(bias):
            tag.met |= self._meeting(func, bias)
        elif self.is_activation(bias) and (other := self.tag(bias)) is not None:
            tag.feeds, tag.met = tag.feeds | other.feeds, tag.met | other.met
        return tag

    def meet(self, name: str, func: Any, args: Any, kwargs: Any, parameters: list[Tensor]) -> frozenset[int]:
        if _hides_contraction(name, func, args, parameters):
            names = dict.fromkeys(known for tensor in parameters for known in self.tape.ref(tensor).names)
            reason = "an operator that the walk cannot see into contracts parameters with activations"
            self._opaque.append(Opaque(str(func), tuple(names), reason, self.scopes.where()))
            return frozenset()
        return union(self._meeting(func, tensor) for tensor in parameters)

    def _meeting(self, func: Any, tensor: Tensor) -> frozenset[int]:
        ref, index = self.tape.ref(tensor), len(self._meetings)
        self._meeting_operands.append(ref)
        self._meetings.append(Meeting(index, str(func), ref.names, tuple(tensor.shape), self.scopes.where()))
        return frozenset({index})

    def choose(self, selection: Selection, feeds: frozenset[int], result: Any) -> Any:
        where = self.scopes.where()
        self._choices.append(
            Choice(len(self._choices), selection.name, selection.options, selection.chosen, where, feeds=feeds)
        )
        return result

    def cast(self, tensor: Tensor, result: Tensor) -> None:
        where = self.scopes.where()
        self._casts.append(Cast(dtype_name(tensor.dtype), dtype_name(result.dtype), where, before=len(self._anchors)))

    def enter(self, name: str) -> None:
        self._entered.append(len(self._anchors))

    def leave(self, name: str, module: nn.Module, output: Any) -> None:
        """Notes a module whose output has one row per token."""
        anchors, call = frozenset(range(self._entered.pop(), len(self._anchors))), self._calls[name]
        self._calls[name] += 1
        hidden = first_float(output)
        order = None if hidden is None else self.order(hidden)
        if hidden is None or order is None:
            return
        has_parameters = any(True for _ in module.parameters(recurse=False))
        has_children = any(True for _ in module.children())
        self._blocks.append(_Block(name, call, hidden.shape[-1], order, anchors, has_children, has_parameters))

    def surveyed(self, parameters: Sequence[str], output: Tensor) -> Surveyed:
        """What was found, once the forward pass is over. ``parameters``: all there are."""
        tag = self.tag(output) or Tag(Kind.CONSTANT)
        met = {name for anchor in (*self._anchors, *self._meetings, *self._opaque) for name in anchor.parameters}
        blocks = _residual_blocks(self._blocks)
        graph = Graph(
            tuple(self._anchors),
            tuple(self._meetings),
            tuple(self._choices),
            tuple(self._casts),
            tuple(self._opaque),
            tuple(block.name for block in blocks),
            tuple(block.anchors for block in blocks),
            tag.feeds,
            tag.met,
            tuple(name for name in parameters if name not in met),
        )
        orders = Orders(
            tuple(self._rows), {(block.name, block.call): block.order for block in blocks}, self.order(output)
        )
        return Surveyed(
            graph,
            self._uses,
            self.tape,
            tuple(self._anchor_operands),
            tuple(self._meeting_operands),
            None if self.rows.by_value else orders,
            tuple((block.name, block.call) for block in blocks),
        )


def _residual_blocks(seen: list[_Block]) -> list[_Block]:
    """Numbered children that hold anchors, and the norm beside their list that comes after the last of them."""
    numbered = [
        block for block in seen if block.name.rpartition(".")[2].isdigit() and block.anchors and block.has_children
    ]
    if not numbered:
        return []
    beside = {block.name.rpartition(".")[0].rpartition(".")[0] for block in numbered}
    last, features = seen.index(numbered[-1]), numbered[-1].features
    final = [
        block
        for block in seen[last + 1 :]
        if not block.anchors
        and block.has_parameters
        and block.features == features
        and block.name.rpartition(".")[0] in beside
    ]
    return [*numbered, *final]


def first_float(output: Any) -> Tensor | None:
    """A module's output, or the first element of a tuple, if it is a float tensor."""
    if isinstance(output, list | tuple):
        output = output[0] if output else None
    return output if isinstance(output, Tensor) and is_float(output) else None


_POINTWISE = torch.Tag.pointwise


def _hides_contraction(name: str, func: Any, args: Any, parameters: list[Tensor]) -> bool:
    """Whether an operator that is no anchor may multiply a parameter matrix with an activation inside."""
    if "attention" in name:  # query, key, value; a mask or bias made of parameters is only added
        return any(tensor is parameter for tensor in tensors_in(args[:3]) for parameter in parameters)
    matrices = sum(tensor.ndim >= 2 for tensor in parameters)
    if _POINTWISE in func.tags or "norm" in name or not matrices:
        return False
    suspicious = einsum_letters(name) or any(
        part in name for part in ("mm", "rnn", "lstm", "gru", "linear", "bilinear")
    )
    transposed = name == "convolution" and args[6]
    return bool(suspicious or transposed or func.namespace != "aten")
