"""Which token a value belongs to, followed through the data movement of the program.

Beside every activation go *shadows*: int32 arrays of the same rank that hold flat token indices, of size 1 along the
axes where all elements belong to the same token (features). A value that is indexed by two tokens, as attention scores
are by query and key, carries one shadow for each; a sum over an axis ends the shadows that vary along it, so that what
remains after attention is the query. -1 stands for no token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ckptdbg.models.jax_side.program import Op

Shadow = jax.Array
Shadows = tuple[Shadow, ...]
Shape = tuple[int, ...]


def token_ids(shape: Shape, tokens: Shape) -> Shadows:
    """The shadow of a model input: inputs that begin with the axes (batch, length) have one."""
    if shape[: len(tokens)] != tokens:
        return ()
    ids = np.arange(np.prod(tokens), dtype=np.int32).reshape(tokens + (1,) * (len(shape) - len(tokens)))
    return (jnp.asarray(ids),)


def distinct(shadows: Sequence[Shadow]) -> Shadows:
    """One shadow per set of varying axes, the first one of each."""
    found: dict[Shape, Shadow] = {}
    for shadow in shadows:
        found.setdefault(shadow.shape, shadow)
    return tuple(found.values())


def best(shadows: Shadows, dead: Sequence[int]) -> Shadow | None:
    """The most telling shadow that is the same along the axes ``dead``."""
    alive = [s for s in shadows if not any(s.shape[axis] > 1 for axis in dead)]
    return max(alive, key=lambda s: sum(size > 1 for size in s.shape), default=None)


def propagate(op: Op, values: Sequence[jax.Array], shadows: Sequence[Shadows]) -> list[Shadows]:
    """The shadows of every result of ``op``, given the data and the shadows of its operands."""
    if not any(shadows):
        return [()] * len(op.outs)
    name = "reduce" if op.name.startswith("reduce_") and "axes" in op.params else op.name
    name = "scatter" if name.startswith("scatter") else name
    rule = _RULES.get(name)
    if rule is not None:
        return [distinct(found) for found in rule(op, values, shadows)]
    return [_elementwise(tuple(var.aval.shape), shadows) for var in op.outs]


def _elementwise(shape: Shape, shadows: Sequence[Shadows]) -> Shadows:
    fits = [s for many in shadows for s in many if s.ndim == len(shape)]
    return distinct([s for s in fits if all(a in (1, b) for a, b in zip(s.shape, shape, strict=True))])


def _varies(shadow: Shadow, axis: int) -> bool:
    return shadow.shape[axis] > 1


def _widen(shadow: Shadow, shape: Shape, axes: Sequence[int]) -> Shadow:
    """``shadow`` at full size along ``axes``."""
    return jnp.broadcast_to(shadow, [shape[i] if i in axes else n for i, n in enumerate(shadow.shape)])


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
        varying = any(_varies(shadow, axis) for axis in old_axes)
        widened += old_axes if varying else []
        target += [new[axis] if varying else 1 for axis in new_axes]
    return _widen(shadow, shape, widened).reshape(target)


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
    return shadow[tuple(slice(*b) if _varies(shadow, axis) else slice(None) for axis, b in enumerate(bounds))]


def _pad(op: Op, shape: Shape, shadow: Shadow) -> Shadow:
    config = [c if _varies(shadow, axis) else (0, 0, 0) for axis, c in enumerate(op.params["padding_config"])]
    return lax.pad(shadow, np.int32(-1), config)


def _reduce(op: Op, shape: Shape, shadow: Shadow) -> Shadow | None:
    axes = op.params["axes"]
    return None if any(_varies(shadow, axis) for axis in axes) else lax.squeeze(shadow, axes)


def _top_k(op: Op, shape: Shape, shadow: Shadow) -> Shadow | None:
    return None if _varies(shadow, op.params.get("axis", -1)) else shadow


def _split(op: Op, values: Sequence[jax.Array], shadows: Sequence[Shadows]) -> list[list[Shadow]]:
    axis, outs, start = op.params["axis"], [], 0
    for size in op.params["sizes"]:
        stop = start + size
        outs.append([lax.slice_in_dim(s, start, stop, axis=axis) if _varies(s, axis) else s for s in shadows[0]])
        start = stop
    return outs


def _unstack(op: Op, values: Sequence[jax.Array], shadows: Sequence[Shadows]) -> list[list[Shadow]]:
    axis = op.params["axis"]
    return [
        [lax.index_in_dim(s, i if _varies(s, axis) else 0, axis, keepdims=False) for s in shadows[0]]
        for i in range(len(op.outs))
    ]


def _concatenate(op: Op, values: Sequence[jax.Array], shadows: Sequence[Shadows]) -> list[list[Shadow]]:
    return [_join(op.params["dimension"], [tuple(value.shape) for value in values], shadows)]


def _stack(op: Op, values: Sequence[jax.Array], shadows: Sequence[Shadows]) -> list[list[Shadow]]:
    axis = op.params["axis"]
    shapes = [(*value.shape[:axis], 1, *value.shape[axis:]) for value in values]
    known = {id(s): jnp.expand_dims(s, axis) for many in shadows for s in many}  # the same ones stay the same
    return [_join(axis, shapes, [tuple(known[id(s)] for s in many) for many in shadows])]


def _join(axis: int, shapes: Sequence[Shape], shadows: Sequence[Shadows]) -> list[Shadow]:
    flat = [s for many in shadows for s in many]
    identical = len({tuple(id(s) for s in many) for many in shadows}) == 1
    features = not any(_varies(s, axis) for s in flat)
    # Features side by side are of one token; what is stacked along a new axis need not be.
    if features and (identical or any(shape[axis] != 1 for shape in shapes)):
        return flat
    full = [i for i in range(len(shapes[0])) if i == axis or any(_varies(s, i) for many in shadows for s in many[:1])]
    parts = []
    for shape, many in zip(shapes, shadows, strict=True):
        shadow = many[0] if many else jnp.full((1,) * len(shape), -1, jnp.int32)
        parts.append(_widen(shadow, shape, full))
    return [jnp.concatenate(parts, axis)]


def _dynamic_slice(op: Op, values: Sequence[jax.Array], shadows: Sequence[Shadows]) -> list[list[Shadow]]:
    def cut(shadow: Shadow) -> Shadow:
        varies = [_varies(shadow, axis) for axis in range(shadow.ndim)]
        starts = [s if v else jnp.zeros_like(s) for s, v in zip(values[1:], varies, strict=True)]
        return lax.dynamic_slice(
            shadow, starts, [n if v else 1 for n, v in zip(op.params["slice_sizes"], varies, strict=True)]
        )

    return [[cut(s) for s in shadows[0]]]


def _dynamic_update_slice(op: Op, values: Sequence[jax.Array], shadows: Sequence[Shadows]) -> list[list[Shadow]]:
    base, update = values[0], values[1]
    under, over = (many[0] if many else jnp.full((1,) * base.ndim, -1, jnp.int32) for many in shadows[:2])
    full = [i for i in range(base.ndim) if _varies(under, i) or _varies(over, i) or base.shape[i] != update.shape[i]]
    starts = [s if axis in full else jnp.zeros_like(s) for axis, s in enumerate(values[2:])]
    wide = _widen(under, tuple(base.shape), full)
    return [[lax.dynamic_update_slice(wide, _widen(over, tuple(update.shape), full), starts)]]


def _gather(op: Op, values: Sequence[jax.Array], shadows: Sequence[Shadows]) -> list[list[Shadow]]:
    numbers, sizes = op.params["dimension_numbers"], op.params["slice_sizes"]
    shape = tuple(values[0].shape)
    found = []
    for shadow in shadows[0]:
        # A window over all of an axis along which the token is the same may as well be one wide.
        keep = [_varies(shadow, i) or sizes[i] != shape[i] or i in numbers.start_index_map for i in range(len(shape))]
        window = [n if k else 1 for n, k in zip(sizes, keep, strict=True)]
        wide = _widen(shadow, shape, [i for i, k in enumerate(keep) if k])
        found.append(lax.gather(wide, values[1], numbers, window, mode=op.params["mode"], fill_value=-1))
    if found:
        return [found]
    rank = len(op.outs[0].aval.shape)
    rows = [axis for axis in range(rank) if axis not in numbers.offset_dims]
    for shadow in shadows[1]:
        if not _varies(shadow, -1):
            target = [1] * rank
            for axis, size in zip(rows, shadow.shape[:-1], strict=True):
                target[axis] = size
            found.append(shadow.reshape(target))
    return [found]


def _scatter(op: Op, values: Sequence[jax.Array], shadows: Sequence[Shadows]) -> list[list[Shadow]]:
    numbers, base, update = op.params["dimension_numbers"], values[0], values[2]
    if not shadows[2]:
        return [list(shadows[0])]
    placed = {*numbers.inserted_window_dims, *numbers.operand_batching_dims}
    window = dict(zip(numbers.update_window_dims, [i for i in range(base.ndim) if i not in placed], strict=True))
    under = shadows[0][0] if shadows[0] else jnp.full((1,) * base.ndim, -1, jnp.int32)
    over = shadows[2][0]
    same = {
        u: b
        for u, b in window.items()
        if not _varies(over, u)
        and not _varies(under, b)
        and update.shape[u] == base.shape[b]
        and b not in numbers.scatter_dims_to_operand_dims
    }
    wide = _widen(under, tuple(base.shape), [i for i in range(base.ndim) if i not in same.values()])
    new = _widen(over, tuple(update.shape), [i for i in range(update.ndim) if i not in same])
    return [[lax.scatter(wide, values[1], new, numbers, mode=op.params["mode"])]]


def _sort(op: Op, values: Sequence[jax.Array], shadows: Sequence[Shadows]) -> list[list[Shadow]]:
    axis, keys = op.params["dimension"], op.params["num_keys"]
    moved = []
    for shadow in distinct([s for many in shadows for s in many]):
        if _varies(shadow, axis):
            wide = jnp.broadcast_to(shadow, values[0].shape)
            moved.append(lax.sort([*values[:keys], wide], axis, op.params["is_stable"], keys)[-1])
        else:
            moved.append(shadow)
    return [moved] * len(op.outs)


def _dot_general(op: Op, values: Sequence[jax.Array], shadows: Sequence[Shadows]) -> list[list[Shadow]]:
    contract, batch = op.params["dimension_numbers"]
    free = [
        [i for i in range(values[side].ndim) if i not in contract[side] and i not in batch[side]] for side in (0, 1)
    ]
    found = []
    for side in (0, 1):
        for s in shadows[side]:
            if not any(_varies(s, axis) for axis in contract[side]):
                sizes = [[s.shape[i] for i in free[side]] if side == k else [1] * len(free[k]) for k in (0, 1)]
                moved = s.transpose([*batch[side], *free[side], *contract[side]])
                found.append(moved.reshape([s.shape[i] for i in batch[side]] + sizes[0] + sizes[1]))
    return [found]


def _ragged_dot(op: Op, values: Sequence[jax.Array], shadows: Sequence[Shadows]) -> list[list[Shadow]]:
    numbers = op.params["ragged_dot_dimension_numbers"].dot_dimension_numbers
    (contract, _), (batch, _) = numbers
    if batch or len(op.outs[0].aval.shape) != 2:
        return [[]]
    return [[s.reshape(-1, 1) for s in shadows[0] if not any(_varies(s, axis) for axis in contract)]]


def _conv(op: Op, values: Sequence[jax.Array], shadows: Sequence[Shadows]) -> list[list[Shadow]]:
    numbers = op.params["dimension_numbers"]
    shape, out = tuple(values[0].shape), tuple(op.outs[0].aval.shape)
    found = []
    for s in shadows[0]:
        resized = any(
            _varies(s, a) and shape[a] != out[b] for a, b in zip(numbers.lhs_spec, numbers.out_spec, strict=True)
        )
        if not resized and not _varies(s, numbers.lhs_spec[1]):
            named = s.transpose(numbers.lhs_spec)
            found.append(named.transpose([numbers.out_spec.index(axis) for axis in range(len(out))]))
    return [found]


_RULES: dict[str, Callable[..., list[list[Shadow]]]] = {
    "reshape": _one(_reshape),
    "broadcast_in_dim": _one(_broadcast),
    "transpose": _one(lambda op, shape, s: s.transpose(op.params["permutation"])),
    "squeeze": _one(lambda op, shape, s: lax.squeeze(s, op.params["dimensions"])),
    "rev": _one(lambda op, shape, s: lax.rev(s, [d for d in op.params["dimensions"] if _varies(s, d)])),
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
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
    "gather": _gather,
    "scatter": _scatter,
    "sort": _sort,
    "dot_general": _dot_general,
    "ragged_dot_general": _ragged_dot,
    "conv_general_dilated": _conv,
}
