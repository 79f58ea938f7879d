"""How shadows follow an operation that moves its operands in a way known beforehand (see ``rows``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ckptdbg.models.jax_side.program import Op
from ckptdbg.models.jax_side.shadows import Shadow, Shadows, Shape, none, same, varies, widen


def _one(rule: Callable[[Op, Shape, Shadow], Shadow | None]) -> Callable:
    """A rule for an operation that moves its first operand only."""

    def many(op: Op, values: Sequence[jax.Array], shadows: Sequence[Shadows]) -> list[list[Shadow]]:
        moved = [rule(op, tuple(values[0].shape), s) for s in shadows[0]]
        return [[s for s in moved if s is not None]] * len(op.outs)

    return many


def _reshape(op: Op, shape: Shape, shadow: Shadow) -> Shadow | None:
    new = tuple(op.params["new_sizes"])
    if 0 in shape or op.params.get("dimensions") is not None:
        return None
    widened: list[int] = []
    target: list[int] = []
    for old_axes, new_axes in _factors(shape, new):
        varying = any(varies(shadow, axis) for axis in old_axes)
        widened += old_axes if varying else []
        target += [new[axis] if varying else 1 for axis in new_axes]
    return widen(shadow, shape, widened).reshape(target)


def _factors(old: Shape, new: Shape) -> list[tuple[list[int], list[int]]]:
    """The smallest runs of axes of ``old`` and of ``new`` that hold the same elements."""
    runs: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        left, right, a, b = [], [], 1, 1
        while (not left and not right) or a != b:
            if (a <= b and i < len(old)) or j >= len(new):
                left.append(i)
                a *= old[i]
                i += 1
            else:
                right.append(j)
                b *= new[j]
                j += 1
        while i < len(old) and old[i] == 1:
            left.append(i)
            i += 1
        while j < len(new) and new[j] == 1:
            right.append(j)
            j += 1
        runs.append((left, right))
    return runs


def _broadcast(op: Op, shape: Shape, shadow: Shadow) -> Shadow:
    target = [1] * len(op.params["shape"])
    for axis, place in enumerate(op.params["broadcast_dimensions"]):
        target[place] = shadow.shape[axis]
    return shadow.reshape(target)


def _slice(op: Op, shape: Shape, shadow: Shadow) -> Shadow:
    strides = op.params["strides"] or (1,) * len(shape)
    bounds = zip(op.params["start_indices"], op.params["limit_indices"], strides, strict=True)
    return shadow[tuple(slice(*b) if varies(shadow, axis) else slice(None) for axis, b in enumerate(bounds))]


def _pad(op: Op, shape: Shape, shadow: Shadow) -> Shadow:
    config = [c if varies(shadow, axis) else (0, 0, 0) for axis, c in enumerate(op.params["padding_config"])]
    return lax.pad(shadow, np.int32(-1), config)


def _reduce(op: Op, shape: Shape, shadow: Shadow) -> Shadow | None:
    axes = op.params["axes"]
    return None if any(varies(shadow, axis) for axis in axes) else lax.squeeze(shadow, axes)


def _top_k(op: Op, shape: Shape, shadow: Shadow) -> Shadow | None:
    return None if varies(shadow, op.params.get("axis", -1)) else shadow


def _split(op: Op, values: Sequence[jax.Array], shadows: Sequence[Shadows]) -> list[list[Shadow]]:
    axis, outs, start = op.params["axis"], [], 0
    for size in op.params["sizes"]:
        stop = start + size
        outs.append([lax.slice_in_dim(s, start, stop, axis=axis) if varies(s, axis) else s for s in shadows[0]])
        start = stop
    return outs


def _unstack(op: Op, values: Sequence[jax.Array], shadows: Sequence[Shadows]) -> list[list[Shadow]]:
    axis = op.params["axis"]
    return [
        [lax.index_in_dim(s, i if varies(s, axis) else 0, axis, keepdims=False) for s in shadows[0]]
        for i in range(len(op.outs))
    ]


def _concatenate(op: Op, values: Sequence[jax.Array], shadows: Sequence[Shadows]) -> list[list[Shadow]]:
    return [_join(op.params["dimension"], [tuple(value.shape) for value in values], shadows)]


def _stack(op: Op, values: Sequence[jax.Array], shadows: Sequence[Shadows]) -> list[list[Shadow]]:
    axis = op.params["axis"]
    shapes = [(*value.shape[:axis], 1, *value.shape[axis:]) for value in values]
    # The same ones stay the same.
    longer = {id(s): s.reshape((*s.shape[:axis], 1, *s.shape[axis:])) for many in shadows for s in many}
    return [_join(axis, shapes, [tuple(longer[id(s)] for s in many) for many in shadows])]


def _join(axis: int, shapes: Sequence[Shape], shadows: Sequence[Shadows]) -> list[Shadow]:
    flat = [s for many in shadows for s in many]
    identical = all(_same(many, shadows[0]) for many in shadows)
    features = not any(varies(s, axis) for s in flat)
    # Features side by side are of one token; what is stacked along a new axis need not be.
    if features and (identical or any(shape[axis] != 1 for shape in shapes)):
        return flat
    full = [i for i in range(len(shapes[0])) if i == axis or any(varies(s, i) for many in shadows for s in many[:1])]
    parts = []
    for shape, many in zip(shapes, shadows, strict=True):
        shadow = many[0] if many else none((1,) * len(shape))
        parts.append(widen(shadow, shape, full))
    return [jnp.concatenate(parts, axis)]


def _same(some: Shadows, others: Shadows) -> bool:
    return len(some) == len(others) and all(same(a, b) for a, b in zip(some, others, strict=True))


RULES: dict[str, Callable[..., list[list[Shadow]]]] = {
    "reshape": _one(_reshape),
    "broadcast_in_dim": _one(_broadcast),
    "transpose": _one(lambda op, shape, s: s.transpose(op.params["permutation"])),
    "squeeze": _one(lambda op, shape, s: lax.squeeze(s, op.params["dimensions"])),
    "rev": _one(lambda op, shape, s: lax.rev(s, [d for d in op.params["dimensions"] if varies(s, d)])),
    "slice": _one(_slice),
    "pad": _one(_pad),
    "reduce": _one(_reduce),
    "argmax": _one(_reduce),
    "argmin": _one(_reduce),
    "top_k": _one(_top_k),
    "split": _split,
    "unstack": _unstack,
    "concatenate": _concatenate,
    "stack": _stack,
}
