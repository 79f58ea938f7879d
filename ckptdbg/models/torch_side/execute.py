"""The later walks: record the anchors, plant values, pin choices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ckptdbg.errors import HarnessError
from ckptdbg.models.records import Anchor, Array, Choose, Plant, Record, Trace
from ckptdbg.models.torch_side.border import to_numpy, to_torch
from ckptdbg.models.torch_side.choices import Selection
from ckptdbg.models.torch_side.contractions import Contraction
from ckptdbg.models.torch_side.scopes import Scopes
from ckptdbg.models.torch_side.survey import Surveyed, first_float
from ckptdbg.models.torch_side.tape import Tape
from ckptdbg.models.torch_side.tensors import Place, place
from ckptdbg.models.torch_side.walk import Kind, Tag, Walk

_NOTHING = Plant()


class Enough(BaseException):
    """Ends a forward pass of which the rest is not asked for; not an error, so that no model takes it for one."""


class Execution(Walk):
    """One run. Every port is recorded as it came, before anything is planted there."""

    def __init__(
        self,
        surveyed: Surveyed,
        scopes: Scopes,
        *,
        promoted: bool,
        jitter: int | None,
        plants: Mapping[int, Plant],
        choices: Sequence[Array] | None,
        until: int | None = None,
    ) -> None:
        super().__init__(Tape(recording=False), promoted=promoted, jitter=jitter)
        self.scopes = scopes
        self._graph, self._uses, self._block_calls = surveyed.graph, surveyed.uses, dict.fromkeys(surveyed.block_calls)
        self._orders = surveyed.orders
        self._plants, self._pins, self._until = plants, choices, until
        self._use_counts: Counter[tuple[int, int]] = Counter()
        self._calls: Counter[str] = Counter()
        self._records: dict[int, Record] = {}
        self._choices: list[Choose] = []
        self._blocks: dict[tuple[str, int], Array] = {}
        self._copies: dict[tuple[Place, int], list[Array]] = {}
        self._nonfinite: str | None = None

    def contract(self, name: str, func: Any, args: Any, kwargs: Any, contraction: Contraction) -> tuple[Any, Tag]:
        anchors = self._anchors(contraction)
        if self._until is not None and self._behind(self._until, anchors):
            raise Enough
        plants = [_NOTHING if anchor is None else self._plants.get(anchor.index, _NOTHING) for anchor in anchors]
        inputs = self._inputs(contraction)
        activation, given_args = _planted_input(contraction, plants), args
        if activation is not contraction.activation:
            at = contraction.activation_at
            args = (*args[:at], activation, *args[at + 1 :])
        result = _compute(name, func, args, kwargs, contraction, activation)
        self.follow(name, func, given_args, kwargs, result)  # a planted value has the tokens of what it replaces
        bare, parts, biases = without_bias(contraction, result)
        rows = self._rows(anchors, result, contraction)
        for anchor, token, given, out in zip(anchors, rows, inputs, bare, strict=True):
            if anchor is not None:
                self._records[anchor.index] = Record(token.numpy(), given, to_numpy(out))
                self._check(anchor, given, out)
        planted = _planted_output(contraction, result, parts, bare, biases, plants)
        self.rows.same(result, planted)
        feeds = frozenset(anchor.index for anchor in anchors if anchor is not None)
        return planted, Tag(Kind.ACTIVATION, feeds or frozenset({-1}))

    def follow(self, name: str, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        if self._orders is None:
            super().follow(name, func, args, kwargs, result)

    def choose(self, selection: Selection, feeds: frozenset[int], result: Any) -> Any:
        indices, turn = selection.indices(result), len(self._choices)
        if self._pins is not None:
            if turn >= len(self._pins) or self._pins[turn].shape != tuple(indices.shape):
                found = None if turn >= len(self._pins) else self._pins[turn].shape
                raise HarnessError(
                    "choices to pin do not fit", where=f"choice {turn}", found=found, expected=tuple(indices.shape)
                )
            indices = to_torch(self._pins[turn]).to(torch.int64)
            result = selection.pinned(indices, result)
        (rows,) = self.rows.matrix(selection.scores, selection.split)
        self._choices.append(Choose(rows.numpy(), to_numpy(indices), to_numpy(selection.margin(indices))))
        return result

    def enter(self, name: str) -> None:
        pass

    def leave(self, name: str, module: nn.Module, output: Any) -> None:
        call = (name, self._calls[name])
        self._calls[name] += 1
        if call in self._block_calls and (hidden := first_float(output)) is not None:
            self.keep_block(call, hidden)

    def keep_block(self, call: tuple[str, int], hidden: Tensor) -> None:
        """The output of one call of a module that is a block."""
        self._blocks[call] = _sorted(hidden, self._orders.blocks[call] if self._orders else self.order(hidden))

    def trace(self, output: Tensor, output_shape: tuple[int, ...]) -> Trace:
        """What was recorded, once the forward pass is over."""
        records = tuple(
            self._records.get(anchor.index) or _not_reached(anchor, output) for anchor in self._graph.anchors
        )
        values = _sorted(output, self._orders.output if self._orders else self.order(output))
        if self._nonfinite is None and not _finite(output):
            self._nonfinite = "output"
        blocks = tuple(self._blocks[call] for call in self._block_calls)
        return Trace(records, values, output_shape, blocks, tuple(self._choices), self._nonfinite)

    def beginning(self) -> Trace:
        """What was recorded of a pass that was ended: of later anchors, blocks and the output there are no rows."""
        nothing = torch.empty(0, dtype=torch.float64 if self._promoted else torch.float32)
        records = tuple(
            self._records.get(anchor.index) or _not_reached(anchor, nothing) for anchor in self._graph.anchors
        )
        return Trace(records, to_numpy(nothing[:, None]), (), (), tuple(self._choices), self._nonfinite)

    def _behind(self, last: int, anchors: Sequence[Anchor | None]) -> bool:
        """Whether these anchors come after the last that is looked at, and all up to it are recorded: a setting may
        change the order in which they are reached."""
        later = all(anchor is not None and anchor.index > last for anchor in anchors)
        return later and all(index in self._records for index in range(last + 1))

    def _anchors(self, contraction: Contraction) -> list[Anchor | None]:
        """The anchors of this call, one per group; None where the surveyed forward pass had no such use."""
        key, groups = self.tape.ref(contraction.operand).key, len(contraction.operand_layout.split(contraction.operand))
        found: list[Anchor | None] = []
        for group in range(groups):
            index = self._uses.get((key, group, self._use_counts[key, group]))
            self._use_counts[key, group] += 1
            found.append(None if index is None else self._graph.anchors[index])
        return found

    def _inputs(self, contraction: Contraction) -> list[Any]:
        """One array per group; an activation that several anchors take in is copied once."""
        layout, tensor = contraction.in_layout, contraction.activation
        if layout is None:
            return [None] * len(contraction.operand_layout.split(contraction.operand))
        key = (place(tensor), hash((layout, tensor._version)))
        if key not in self._copies:
            self._copies[key] = [to_numpy(part) for part in layout.split(tensor)]
        return self._copies[key]

    def _check(self, anchor: Anchor, given: Any, out: Tensor) -> None:
        if self._nonfinite is None:
            for port, bad in (("in", given is not None and not np.isfinite(given).all()), ("out", not _finite(out))):
                if bad:
                    self._nonfinite = f"{port} of anchor {anchor.index} ({', '.join(anchor.parameters)}) {anchor.where}"
                    return

    def _rows(self, anchors: list[Anchor | None], result: Tensor, contraction: Contraction) -> list[Tensor]:
        """The tokens of the rows, one tensor per group."""
        orders, known = self._orders, [anchor for anchor in anchors if anchor is not None]
        if orders is None or len(known) < len(anchors):
            return self.rows.matrix(result, contraction.out_layout.split)
        return [orders.anchors[anchor.index] for anchor in known]


def without_bias(
    contraction: Contraction, result: Tensor
) -> tuple[list[Tensor], list[Tensor], Sequence[Tensor | None]]:
    """``out`` of each group before any bias; the parts of the result that hold it, and what the call added to them."""
    parts, bias = contraction.out_layout.split(result), contraction.added(result)
    biases = [None] * len(parts) if bias is None else contraction.out_layout.split(bias)
    bare = [part if bias is None else part - bias for part, bias in zip(parts, biases, strict=True)]
    return bare, parts, biases


def _sorted(tensor: Tensor, order: Tensor | None) -> Array:
    """``[rows, features]``, in token order where that is known."""
    matrix = tensor.reshape(-1, tensor.shape[-1] if tensor.ndim > 1 else 1)
    return to_numpy(matrix if order is None else matrix[order])


def _compute(name: str, func: Any, args: Any, kwargs: Any, contraction: Contraction, activation: Tensor) -> Tensor:
    if name == "_grouped_mm" and activation.dtype == torch.float64 and contraction.in_layout is not None:
        # No kernel of this name takes float64: one product per group.
        matrices = contraction.operand_layout.split(contraction.operand)
        parts = [
            rows @ matrix.t() for rows, matrix in zip(contraction.in_layout.split(activation), matrices, strict=True)
        ]
        return contraction.out_layout.join(parts, activation.new_zeros(len(activation), matrices[0].shape[0]))
    return func(*args, **kwargs)


def _replaced(current: Tensor, values: Array | None, mask: Array | None) -> Tensor:
    """``current`` with ``values`` where ``mask``; ``current`` itself where nothing changes."""
    if values is None:
        return current
    if tuple(values.shape) != tuple(current.shape):
        raise HarnessError(
            "planted values have the wrong shape", found=tuple(values.shape), expected=tuple(current.shape)
        )
    planted = to_torch(values).to(current.dtype)
    if mask is not None:
        planted = torch.where(to_torch(mask), planted, current)
    return current if torch.equal(planted, current) else planted


def _planted_input(contraction: Contraction, plants: Sequence[Plant]) -> Tensor:
    layout, activation = contraction.in_layout, contraction.activation
    if layout is None or not contraction.plantable or all(plant.input is None for plant in plants):
        return activation
    parts = layout.split(activation)
    planted = [_replaced(part, plant.input, plant.input_mask) for part, plant in zip(parts, plants, strict=True)]
    if all(new is old for new, old in zip(planted, parts, strict=True)):
        return activation
    return layout.join(planted, activation)


def _planted_output(
    contraction: Contraction,
    result: Tensor,
    parts: list[Tensor],
    bare: list[Tensor],
    biases: Sequence[Tensor | None],
    plants: Sequence[Plant],
) -> Tensor:
    """Elements that hold the planted value stay as they are: a bias that the kernel added is not rounded twice."""
    if all(plant.output is None for plant in plants):
        return result
    joined, changed = [], False
    for part, out, bias, plant in zip(parts, bare, biases, plants, strict=True):
        planted = _replaced(out, plant.output, plant.output_mask)
        if planted is not out:
            changed = True
            part = torch.where(planted == out, part, planted if bias is None else planted + bias)
        joined.append(part)
    return contraction.out_layout.join(joined, result) if changed else result


def _finite(tensor: Tensor) -> bool:
    """One pass in the common case: a sum is finite only if its terms are."""
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def _not_reached(anchor: Anchor, like: Tensor) -> Record:
    """An expert that no token chose in this run."""
    empty = to_numpy(like.new_zeros(0, dtype=like.dtype))
    given = None if anchor.kind == "lookup" else empty.reshape(0, anchor.contraction)
    return Record(np.zeros(0, np.int64), given, empty.reshape(0, anchor.features))
