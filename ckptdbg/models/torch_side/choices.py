"""Discrete selections among activations (a router's top-k): read, measured, pinned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Selection:
    """One call that selects ``chosen`` of the ``options`` along ``axis`` of ``scores``."""

    name: str
    scores: Tensor
    axis: int
    chosen: int
    largest: bool
    keepdim: bool

    @property
    def options(self) -> int:
        return self.scores.shape[self.axis]

    def indices(self, result: Any) -> Tensor:
        """``[rows, chosen]`` int64 of what the call returned."""
        return self._matrix(self._with_axis(result if isinstance(result, Tensor) else result[1]))

    def split(self, tensor: Tensor) -> list[Tensor]:
        """A layout of the scores: ``[rows, options]``."""
        return [self._matrix(tensor)]

    def margin(self, indices: Tensor) -> Tensor:
        """``[rows]`` float64: the worst chosen score minus the best rejected one."""
        scores = self._matrix(self.scores).to(torch.float64) * (1 if self.largest else -1)
        if indices.shape[1] == self.options:
            return torch.full((scores.shape[0],), torch.inf, dtype=torch.float64)
        return scores.gather(1, indices).amin(1) - scores.scatter(1, indices, -torch.inf).amax(1)

    def pinned(self, indices: Tensor, result: Any) -> Any:
        """What the call would have returned, had it chosen ``indices`` (``[rows, chosen]``)."""
        moved = self.scores.movedim(self.axis, -1)
        native = indices.reshape(*moved.shape[:-1], indices.shape[1]).movedim(-1, self.axis).contiguous()
        if isinstance(result, Tensor):
            return native if self.keepdim else native.squeeze(self.axis)
        return type(result)((self.scores.gather(self.axis, native), native))

    def _with_axis(self, indices: Tensor) -> Tensor:
        return indices if indices.ndim == self.scores.ndim else indices.unsqueeze(self.axis)

    def _matrix(self, tensor: Tensor) -> Tensor:
        moved = tensor.movedim(self.axis, -1)
        return moved.reshape(-1, moved.shape[-1])


def read_selection(name: str, func: Any, args: Any, kwargs: Any) -> Selection | None:
    """The call as a selection, or None if it is none (sorting integers orders what was chosen before)."""
    if name not in ("topk", "argmax", "sort", "argsort"):
        return None
    names = [argument.name for argument in func._schema.arguments]
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    scores, axis = given["self"], given.get("dim", -1)
    if not scores.dtype.is_floating_point or axis is None:
        return None
    axis %= scores.ndim
    if name == "topk":
        return Selection(name, scores, axis, given["k"], given.get("largest", True), True)
    if name == "argmax":
        return Selection(name, scores, axis, 1, True, given.get("keepdim", False))
    return Selection(name, scores, axis, scores.shape[axis], given.get("descending", False), True)
