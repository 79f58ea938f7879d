"""Recorded ops done on tensors that are constant along most of their axes, without ever making those axes.

A tensor here is expanded: its stride is 0 along every axis that it does not vary along. An op on it is done with those
axes at size 1, wherever it treats every index of them alike, and its result expanded again, so that the coordinate of a
billion elements along one axis costs what that axis is long.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map_only

from ckptdbg.mapping.tracing.joining import Unfactored

aten = torch.ops.aten
Shape = tuple[int, ...]
# An op that mixes all axes is done on the whole tensor up to this many elements: 540 MB in float64.
MOST_ELEMENTS = 2**26

_SAME = {"clone", "contiguous", "lift_fresh_copy"}
_RESHAPES = {"view", "_unsafe_view", "reshape", "_reshape_alias"}
_FILLED = {"zeros": 0, "ones": 1, "empty": 0, "new_zeros": 0, "new_ones": 1, "new_empty": 0}
_LIKE = {"zeros_like": 0, "ones_like": 1, "empty_like": 0, "full": None, "new_full": None, "full_like": None}
_ALONG_DIM = {
    *("cat", "slice_scatter", "index_select", "cumsum", "sum", "mean", "amax", "amin", "max", "min", "prod", "sort"),
    *("argsort", "topk", "_softmax", "_log_softmax", "logsumexp", "var", "std", "linalg_vector_norm", "norm"),
}


class Unreadable(Unfactored):
    """An op that cannot be done on labels; the text says which and why."""


def perform(op: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], shapes: Sequence[Shape]) -> list[Tensor]:
    """The tensors, of these shapes, that an op makes. Raises Unreadable."""
    name = str(op).split(".")[1]
    given = _named(op, args, kwargs)
    if name in _SAME:
        return [given["self"]]
    if name in _RESHAPES and "size" in given:
        return [reshape(given["self"], shapes[0])]
    if name in _FILLED or name in _LIKE:
        return [_filled(name, given).expand(shapes[0])]
    if name == "stack":
        parts = [t.unsqueeze(given["dim"]) for t in given["tensors"]]
        return perform(aten.cat.default, (parts, given["dim"]), {}, shapes)
    if name == "select_scatter":
        dim, index = given["dim"], given["index"] % shapes[0][given["dim"]]
        scatter = (given["self"], given["src"].unsqueeze(dim), dim, index, index + 1)
        return perform(aten.slice_scatter.default, scatter, {}, shapes)
    if name == "as_strided":
        raise Unreadable("as_strided takes a tensor by its memory")
    if op.is_view and name != "view":
        return _listed(op(*args, **kwargs))
    if name == "cat" and (part := _repeated(given["tensors"], given["dim"])) is not None:
        return [part.expand(shapes[0])]
    axes = _axes(name, op, given)
    return _done(op, args, kwargs, shapes, axes)


def reshape(tensor: Tensor, shape: Shape) -> Tensor:
    """The same elements in another shape; axes that are constant stay so unless they meet one that is not."""
    groups = list(_groups(tuple(tensor.shape), shape))
    if any(0 in (*old, *new) for old, new in groups):
        return tensor.reshape(shape)
    kept: list[int] = []
    index: list[slice] = []
    for (old, new), start in zip(groups, _starts(groups), strict=True):
        constant = all(_constant(tensor, start + i) for i in range(len(old)))
        index += [slice(0, 1) if constant else slice(None)] * len(old)
        kept += [1] * len(new) if constant else list(new)
    part = tensor[tuple(index)]
    _afford(math.prod(part.shape), "reshape")
    return part.reshape(kept).expand(shape)


def thinned(tensor: Tensor) -> Tensor:
    """With size 1 along every axis that it is constant along."""
    return tensor[tuple(slice(0, 1) if _constant(tensor, d) else slice(None) for d in range(tensor.dim()))]


def _named(op: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Every argument by its name, those left out at their defaults."""
    names = [a.name for a in op._schema.arguments]
    defaults = {a.name: a.default_value for a in op._schema.arguments if a.has_default_value()}
    return {**defaults, **dict(zip(names, args, strict=False)), **kwargs}


def _filled(name: str, given: Mapping[str, Any]) -> Tensor:
    like, fill = given.get("self"), (_FILLED | _LIKE)[name]
    dtype = given.get("dtype") or (like.dtype if isinstance(like, Tensor) else None)
    if fill is None:
        return torch.full((), given["fill_value"], dtype=dtype)
    return torch.full((), fill, dtype=dtype or torch.get_default_dtype())


def _axes(name: str, op: Any, given: Mapping[str, Any]) -> Callable[[int], set[int]] | None:
    """Which axes of its tensors an op looks along, given how many there are; None for all of them."""
    if torch.Tag.pointwise in op.tags or name in ("fill", "_to_copy"):
        return lambda ndim: set()
    if name in _ALONG_DIM:
        dim = given.get("dim")
        dims = dim if isinstance(dim, list | tuple) else [dim]
        known = [d for d in dims if d is not None]
        return (lambda ndim: {d % ndim for d in known}) if known else None
    if name in ("flip", "roll") and given["dims"]:
        return lambda ndim: {d % ndim for d in given["dims"]}
    if name == "constant_pad_nd":
        pad = given["pad"]
        return lambda ndim: {ndim - 1 - i // 2 for i, n in enumerate(pad) if n}
    if name == "index":
        return lambda ndim: {d for d, index in enumerate(given["indices"]) if index is not None}
    return None


def _done(
    op: Any, args: tuple[Any, ...], kwargs: Any, shapes: Sequence[Shape], axes: Callable[[int], set[int]] | None
) -> list[Tensor]:
    """The op on its tensors, thinned along every axis that it does not look along and none of them varies along."""
    tensors = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)]
    most = max((t.dim() for t in tensors), default=0)
    looked = set(range(most)) if axes is None else axes(most)
    kept = {d - most for d in looked} | {
        d - t.dim() for t in tensors for d in range(t.dim()) if not _constant(t, d)
    }  # counted from the last axis, as tensors broadcast
    if "index" in str(op):  # what indices are constant along says nothing
        kept = {d - most for d in looked} | {d - most for d in range(most) if not _constant(tensors[0], d)}

    def thin(tensor: Tensor) -> Tensor:
        if "index" in str(op) and tensor is not tensors[0]:
            return tensor
        if axes is None:
            return tensor
        dims = range(tensor.dim())
        return tensor[tuple(slice(None) if d - tensor.dim() in kept else slice(0, 1) for d in dims)]

    _afford(sum(math.prod(thin(t).shape) for t in tensors), str(op))
    whole = [tree_map_only(Tensor, lambda t: thin(t).contiguous(), given) for given in (args, dict(kwargs))]
    made = op(*whole[0], **whole[1])
    return [t.expand(shape) for t, shape in zip(_listed(made), shapes, strict=True)]


def _repeated(tensors: Sequence[Tensor], dim: int) -> Tensor | None:
    """What tensors have in common that are joined along an axis: one slice, where all of them are that slice again and
    again."""
    if not all(_constant(t, dim % t.dim()) for t in tensors):
        return None
    first, *others = (thinned(t) for t in tensors)
    return first if all(t.shape == first.shape and torch.equal(t, first) for t in others) else None


def _afford(elements: int, what: str) -> None:
    if elements > MOST_ELEMENTS:
        raise Unreadable(f"{what} mixes the axes of a tensor too large to be made whole ({elements} elements)")


def _constant(tensor: Tensor, dim: int) -> bool:
    return tensor.shape[dim] == 1 or (tensor.stride(dim) == 0 and tensor.shape[dim] > 0)


def _listed(made: Any) -> list[Tensor]:
    return [made] if isinstance(made, Tensor) else list(made)


def _groups(old: Shape, new: Shape) -> Iterator[tuple[Shape, Shape]]:
    """Runs of axes of two shapes with the same elements: ``(6, 4), (2, 3, 4)`` is ``(6) (2, 3)`` and ``(4) (4)``."""
    i = j = 0
    while i < len(old) or j < len(new):
        a, b = i + 1, j + 1
        left, right = math.prod(old[i:a]), math.prod(new[j:b])
        while left != right:
            if left < right:
                a += 1
                left = math.prod(old[i:a])
            else:
                b += 1
                right = math.prod(new[j:b])
            if a > len(old) + 1 or b > len(new) + 1:
                a, b = len(old), len(new)
                break
        yield old[i:a], new[j:b]
        i, j = a, b


def _starts(groups: Sequence[tuple[Shape, Shape]]) -> Iterator[int]:
    start = 0
    for old, _ in groups:
        yield start
        start += len(old)
