"""Which token each row of each activation belongs to.

Beside an activation walks its **shadow**: an int64 tensor with as many axes, of size 1 where the token does not change
along the axis (features), whose value is the flat token index. Operators that move data are run on the shadow as well,
so sequence-first models, merged axes and expert dispatch come out right without being known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ckptdbg.models.torch_side.contractions import einsum_letters
from ckptdbg.models.torch_side.tensors import Place, map_leaves, place, tensors_in, words

UNKNOWN = -1

_MOVES = words(
    "transpose t permute expand slice select unsqueeze squeeze cat stack index_select gather take_along_dim "
    "masked_select split split_with_sizes unbind flip roll repeat repeat_interleave narrow diagonal unfold "
    "movedim chunk index"
)
"""Operators that only move elements: what they do to an activation they do to its shadow."""
_RESHAPES = words("view _unsafe_view reshape _reshape_alias")
_REDUCES = words(
    "sum mean amax amin var std all any prod argmax argmin max min logsumexp linalg_vector_norm norm median "
    "count_nonzero"
)
_SCATTERS_ROWS = words(
    "index_add index_add_ index_put index_put_ _index_put_impl_ index_copy_ scatter_add scatter_add_ "
    "scatter_reduce scatter_reduce_ index_reduce_ masked_scatter masked_scatter_ copy_ histc bincount"
)
"""Operators that write rows to computed places: the result's tokens are told by its sizes alone."""
_KEEPS_LEADING = words("linear _grouped_mm convolution")
_BY_VALUE = words(
    "index index_select gather take_along_dim masked_select sort argsort argmax topk nonzero repeat_interleave"
)
"""Operators that move rows as the values of an activation say."""


class Rows:
    """The shadows of one walk.

    ``by_value`` becomes True once tokens were moved as values say: then the rows of another run may differ.
    """

    def __init__(self) -> None:
        self._shadows: dict[Place, Tensor | None] = {}
        self._grids: list[tuple[int, int]] = []
        self.by_value = False

    def start(self, tensor: Tensor) -> None:
        """Numbers the tokens of an input ``(batch, length[, features])`` or ``(batch,)``."""
        if tensor.ndim == 1:
            self._shadows[place(tensor)] = torch.arange(tensor.shape[0])
        elif tensor.ndim in (2, 3):
            batch, length = tensor.shape[:2]
            self._grids.append((batch, length))
            ids = torch.arange(batch * length).view(batch, length, *[1] * (tensor.ndim - 2))
            self._shadows[place(tensor)] = ids

    def shadow(self, tensor: Tensor) -> Tensor | None:
        """The shadow of an activation, or None where no token can be told."""
        key = place(tensor)
        if self._shadows.get(key) is None:
            self._shadows[key] = self._by_size(tensor)
        return self._shadows[key]

    def expanded(self, tensor: Tensor) -> Tensor:
        """Token of every element: int64, shape of ``tensor``, -1 where none can be told."""
        shadow = self.shadow(tensor)
        return torch.full((), UNKNOWN).expand(tensor.shape) if shadow is None else shadow.expand(tensor.shape)

    def matrix(self, tensor: Tensor, split: Callable[[Tensor], list[Tensor]]) -> list[Tensor]:
        """Token of every row of the matrices that ``split`` makes of ``tensor``: int64 ``[rows]`` each."""
        return [_first_column(part) for part in split(self.expanded(tensor))]

    def same(self, known: Tensor, other: Tensor) -> None:
        """``other`` stands in the place of ``known``: the same tokens."""
        self._shadows[place(other)] = self.shadow(known)

    def follow(
        self,
        name: str,
        func: Any,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        outs: Sequence[Any],
        is_activation: Callable[[Any], bool],
    ) -> None:
        """Gives the results of a call their shadows."""
        results = list(tensors_in(outs))
        active = [t for t in tensors_in(args, kwargs) if is_activation(t)]
        self.by_value |= name in _BY_VALUE and is_activation(args[0])
        try:
            shadows = self._rule(name, func, args, kwargs, results, active, is_activation)
        except (RuntimeError, IndexError, TypeError, ValueError):
            shadows = None  # the operator does something to its shape that no rule foresees: told by size
        for index, result in enumerate(results):
            shadow = shadows[index] if shadows is not None and index < len(shadows) else None
            if shadow is not None and not _fits(shadow, result):
                shadow = None
            self._shadows[place(result)] = None if shadow is None else self._collapse(shadow)

    def _rule(
        self,
        name: str,
        func: Any,
        args: Any,
        kwargs: Any,
        results: list[Tensor],
        active: list[Tensor],
        is_activation: Callable[[Any], bool],
    ) -> Sequence[Tensor | None] | None:
        first: Any = args[0] if args else None
        if name in _SCATTERS_ROWS:
            return None
        if name in _RESHAPES:
            return [self.expanded(first).reshape(results[0].shape)]
        if name in ("index", "embedding", "index_select") and not is_activation(first):
            return [self._looked_up(name, args)]
        if name in _MOVES:
            moved = func(
                map_leaves(lambda leaf: self.expanded(leaf) if isinstance(leaf, Tensor) else leaf, first),
                *args[1:],
                **kwargs,
            )
            return [*tensors_in(moved)]
        if name == "nonzero":
            return [self.expanded(first)[results[0].unbind(1)].unsqueeze(1)]
        if name in ("sort", "topk", "argsort"):
            axis = _axis(args, kwargs, 2 if name == "topk" else 1)
            return [self.expanded(first).gather(axis, results[-1])] * 2
        if name in _REDUCES:
            return [self._reduced(args, kwargs, results[0])] * 2
        if name in ("scatter", "scatter_"):
            return [self._scattered(args)]
        if einsum_letters(name):
            return [self._contracted(name, args, is_activation)]
        if name in _KEEPS_LEADING and is_activation(first):
            return [self._leading(first, results[0])]
        return [self._alike(active, result) for result in results]

    def _looked_up(self, name: str, args: Any) -> Tensor | None:
        """Rows of a table take the tokens of the ids that asked for them."""
        table, axis, ids = args[0], 0, args[1]
        if name == "index":
            used = [place for place, index in enumerate(args[1]) if index is not None]
            axis, ids = used[0], args[1][used[0]]
            if len(used) > 1:
                return None
        elif name == "index_select":
            axis, ids = args[1] % table.ndim, args[2]
        shadow = self.shadow(ids)
        if shadow is None:
            return None
        return shadow.reshape(*[1] * axis, *shadow.shape, *[1] * (table.ndim - axis - 1))

    def _reduced(self, args: Any, kwargs: Any, result: Tensor) -> Tensor | None:
        """A reduction over tokens keeps the first of them."""
        shadow = self.shadow(args[0])
        if shadow is None:
            return None
        axes = args[1] if len(args) > 1 else kwargs.get("dim")
        if axes is None or (isinstance(axes, list) and not axes):
            axes = list(range(shadow.ndim))
        elif isinstance(axes, float):
            axes = args[2]  # norms: the order comes before the axes
        return shadow.amin(axes, keepdim=result.ndim == shadow.ndim)

    def _scattered(self, args: Any) -> Tensor | None:
        target, axis, index = args[:3]
        shadow = self.shadow(index)
        return shadow if shadow is not None and shadow.ndim == target.ndim and shadow.shape[axis] == 1 else None

    def _contracted(self, name: str, args: Any, is_activation: Callable[[Any], bool]) -> Tensor | None:
        """The free axes of the activation (of the left one, if both are: the query) keep their tokens."""
        first, (left, right, out) = einsum_letters(name) or (0, ("", "", ""))
        at = first if is_activation(args[first]) else first + 1
        if not is_activation(args[at]):
            return self.shadow(args[0])  # only the bias is an activation
        letters, shadow = (left if at == first else right), self.shadow(args[at])
        if shadow is None:
            return None
        if "c" in letters:
            mixed = shadow.shape[letters.index("c")] > 1
            shadow = shadow.select(letters.index("c"), 0)
            shadow = torch.full_like(shadow, UNKNOWN) if mixed else shadow
            letters = letters.replace("c", "")
        for axis, letter in enumerate(out):
            if letter not in letters:
                shadow = shadow.unsqueeze(axis)
        return shadow

    def _leading(self, activation: Tensor, result: Tensor) -> Tensor | None:
        """Contractions that keep every axis but one: the tokens, unless they lay along that one."""
        shadow = self.shadow(activation)
        changed = [axis for axis in range(result.ndim) if activation.shape[axis] != result.shape[axis]]
        return shadow if shadow is not None and all(shadow.shape[axis] == 1 for axis in changed) else None

    def _alike(self, active: list[Tensor], result: Tensor) -> Tensor | None:
        """Elementwise and the like: the largest activation that broadcasts to the result, the first of equals."""
        fitting = [t for t in active if t.ndim == result.ndim and _fits(t, result)]
        fitting = sorted(fitting, key=Tensor.numel, reverse=True) or [t for t in active if _fits(t, result)]
        for tensor in fitting:
            shadow = self.shadow(tensor)
            if shadow is not None:
                return shadow.reshape(*[1] * (result.ndim - shadow.ndim), *shadow.shape)
        return None

    def _by_size(self, tensor: Tensor) -> Tensor | None:
        shape = tuple(tensor.shape)
        for batch, length in self._grids:
            tokens = torch.arange(batch * length).view(batch, length)
            for axis in range(max(len(shape) - 1, 1)):
                rest = [1] * (len(shape) - axis - 1)
                if shape[axis : axis + 2] == (batch, length):
                    return tokens.view(*[1] * axis, batch, length, *rest[1:])
                if shape[axis : axis + 2] == (length, batch):
                    return tokens.t().reshape(*[1] * axis, length, batch, *rest[1:])
                if shape[axis] == batch * length:
                    return tokens.view(*[1] * axis, -1, *rest)
        return None

    def _collapse(self, shadow: Tensor) -> Tensor:
        """Axes along which the token does not change get size 1."""
        for axis, (size, step) in enumerate(zip(shadow.shape, shadow.stride(), strict=True)):
            if size > 1 and step == 0:
                shadow = shadow.narrow(axis, 0, 1)
        for axis in range(shadow.ndim):
            first = shadow.narrow(axis, 0, min(1, shadow.shape[axis]))
            if shadow.shape[axis] > 1 and bool((shadow == first).all()):
                shadow = first
        return shadow.contiguous()


def _fits(small: Tensor, large: Tensor) -> bool:
    """Whether ``small`` broadcasts to the shape of ``large``."""
    if small.ndim > large.ndim:
        return False
    return all(a in (1, b) for a, b in zip(reversed(small.shape), reversed(large.shape), strict=False))


def _axis(args: Any, kwargs: Any, position: int) -> int:
    return args[position] if len(args) > position else kwargs.get("dim", -1)


def _first_column(ids: Tensor) -> Tensor:
    """``[rows, columns]`` -> ``[rows]``; -1 where the token changes along the columns."""
    if ids.shape[1] == 0:
        return torch.full((ids.shape[0],), UNKNOWN)
    if ids.stride(1) == 0:
        return ids[:, 0].clone()
    return torch.where((ids == ids[:, :1]).all(1), ids[:, 0], UNKNOWN)
