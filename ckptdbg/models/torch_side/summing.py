"""Walks that keep statistics of what passes by, and no values."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from ckptdbg.models.records import Statistics, Summary
from ckptdbg.models.torch_side.contractions import Contraction
from ckptdbg.models.torch_side.execute import Execution, without_bias
from ckptdbg.models.torch_side.scopes import Scopes
from ckptdbg.models.torch_side.survey import Survey, Surveyed, first_float
from ckptdbg.models.torch_side.tensors import storage_id
from ckptdbg.models.torch_side.walk import Kind, Tag

_EMPTY = Summary(math.nan, math.nan, math.nan, math.nan, 0)


def summarise(tensor: Tensor) -> Summary:
    """Statistics of a tensor of any shape and dtype, computed on its device."""
    if tensor.dtype not in (torch.float32, torch.float64):
        tensor = tensor.to(torch.float32 if tensor.is_floating_point() else torch.float64)
    if not tensor.numel():
        return _EMPTY
    low, high = tensor.amin().item(), tensor.amax().item()
    if math.isfinite(low) and math.isfinite(high):  # neither passes over a NaN
        return _of_finite(tensor, low, high, 0)
    finite = tensor[tensor.isfinite()]
    nonfinite = tensor.numel() - finite.numel()
    if not finite.numel():
        return Summary(math.nan, math.nan, math.nan, math.nan, nonfinite)
    return _of_finite(finite, finite.amin().item(), finite.amax().item(), nonfinite)


def _of_finite(tensor: Tensor, low: float, high: float, nonfinite: int) -> Summary:
    mean = tensor.mean()
    std = (tensor - mean).square_().mean().sqrt().item()
    if not math.isfinite(std) and tensor.dtype != torch.float64:  # the sum went over the range of float32
        return _of_finite(tensor.double(), low, high, nonfinite)
    return Summary(mean.item(), std, low, high, nonfinite)


class Sums:
    """The statistics of one run."""

    def __init__(self) -> None:
        self._inputs: dict[int, Summary | None] = {}
        self._outputs: dict[int, Summary] = {}
        self._blocks: dict[tuple[str, int], Summary] = {}
        self._known: dict[tuple[int, ...], tuple[Summary, StorageWeakRef]] = {}

    def anchors(self, indices: Iterable[int | None], contraction: Contraction, result: Tensor) -> None:
        """The ports of one call, whose groups are the anchors ``indices``."""
        layout = contraction.in_layout
        outs, _, _ = without_bias(contraction, result)
        given = [None] * len(outs) if layout is None else layout.split(contraction.activation)
        for index, before, after in zip(indices, given, outs, strict=True):
            if index is not None:
                self._inputs[index] = None if before is None else self._of(before)
                self._outputs[index] = self._of(after)

    def block(self, call: tuple[str, int], hidden: Tensor) -> None:
        """The output of one call of a module."""
        self._blocks[call] = self._of(hidden)

    def statistics(self, surveyed: Surveyed, output: Tensor) -> Statistics:
        """What was seen, once the forward pass is over; an expert that no token chose has seen nothing."""
        unseen = {anchor.index: None if anchor.kind == "lookup" else _EMPTY for anchor in surveyed.graph.anchors}
        inputs = unseen | self._inputs
        outputs = dict.fromkeys(unseen, _EMPTY) | self._outputs
        blocks = tuple(self._blocks[call] for call in surveyed.block_calls)
        return Statistics(surveyed.graph, (*inputs.values(),), (*outputs.values(),), blocks, self._of(output))

    def _of(self, tensor: Tensor) -> Summary:
        """Values that several ports show are summarised once."""
        if not tensor.is_contiguous():
            return summarise(tensor)
        key = (storage_id(tensor), int(tensor.storage_offset()), tensor.numel(), tensor._version)
        if key not in self._known:  # an address is not reused while a weak reference to it exists
            self._known[key] = summarise(tensor), StorageWeakRef(tensor.untyped_storage())
        return self._known[key][0]


class SummingSurvey(Survey):
    """The first walk: finds what the forward pass consists of, and sums up the values that it sees."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        self.sums = Sums()

    def contract(self, name: str, func: Any, args: Any, kwargs: Any, contraction: Contraction) -> tuple[Any, Tag]:
        first = len(self._anchors)
        result, tag = super().contract(name, func, args, kwargs, contraction)
        self.sums.anchors(range(first, len(self._anchors)), contraction, result)
        return result, tag

    def leave(self, name: str, module: nn.Module, output: Any) -> None:
        seen = len(self._blocks)
        super().leave(name, module, output)
        for block in self._blocks[seen:]:  # which of them are blocks is known in the end
            if (hidden := first_float(output)) is not None:
                self.sums.block((block.name, block.call), hidden)


class SummingExecution(Execution):
    """A later walk: nothing is planted, and no token is followed."""

    def __init__(self, surveyed: Surveyed, scopes: Scopes) -> None:
        super().__init__(surveyed, scopes, promoted=False, jitter=None, plants={}, choices=None)
        self.sums = Sums()

    def contract(self, name: str, func: Any, args: Any, kwargs: Any, contraction: Contraction) -> tuple[Any, Tag]:
        result = func(*args, **kwargs)
        indices = [None if anchor is None else anchor.index for anchor in self._anchors(contraction)]
        self.sums.anchors(indices, contraction, result)
        return result, Tag(Kind.ACTIVATION)

    def follow(self, name: str, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        pass

    def keep_block(self, call: tuple[str, int], hidden: Tensor) -> None:
        self.sums.block(call, hidden)
