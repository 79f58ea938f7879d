"""How shadows follow an operation that goes by indices or an order, or sums products (see ``rows``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from ckptdbg.models.jax_side.program import Op
from ckptdbg.models.jax_side.shadows import Shadow, Shadows, distinct, none, varies, widen


def _dynamic_slice(op: Op, values: Sequence[jax.Array], shadows: Sequence[Shadows]) -> list[list[Shadow]]:
    def cut(shadow: Shadow) -> Shadow:
        moves = [varies(shadow, axis) for axis in range(shadow.ndim)]
        starts = [s if v else jnp.zeros_like(s) for s, v in zip(values[1:], moves, strict=True)]
        return lax.dynamic_slice(
            shadow, starts, [n if v else 1 for n, v in zip(op.params["slice_sizes"], moves, strict=True)]
        )

    return [[cut(s) for s in shadows[0]]]


def _dynamic_update_slice(op: Op, values: Sequence[jax.Array], shadows: Sequence[Shadows]) -> list[list[Shadow]]:
    base, update = values[0], values[1]
    under, over = (many[0] if many else none((1,) * base.ndim) for many in shadows[:2])
    full = [i for i in range(base.ndim) if varies(under, i) or varies(over, i) or base.shape[i] != update.shape[i]]
    starts = [s if axis in full else jnp.zeros_like(s) for axis, s in enumerate(values[2:])]
    wide = widen(under, tuple(base.shape), full)
    return [[lax.dynamic_update_slice(wide, widen(over, tuple(update.shape), full), starts)]]


def _gather(op: Op, values: Sequence[jax.Array], shadows: Sequence[Shadows]) -> list[list[Shadow]]:
    numbers, sizes = op.params["dimension_numbers"], op.params["slice_sizes"]
    shape = tuple(values[0].shape)
    found = []
    for shadow in shadows[0]:
        # A window over all of an axis along which the token is the same may as well be one wide.
        keep = [varies(shadow, i) or sizes[i] != shape[i] or i in numbers.start_index_map for i in range(len(shape))]
        window = [n if k else 1 for n, k in zip(sizes, keep, strict=True)]
        wide = widen(shadow, shape, [i for i, k in enumerate(keep) if k])
        found.append(lax.gather(wide, values[1], numbers, window, mode=op.params["mode"], fill_value=-1))
    if found:
        return [found]
    rank = len(op.outs[0].aval.shape)
    rows = [axis for axis in range(rank) if axis not in numbers.offset_dims]
    for shadow in shadows[1]:
        if not varies(shadow, -1):
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
    under = shadows[0][0] if shadows[0] else none((1,) * base.ndim)
    over = shadows[2][0]
    same = {
        u: b
        for u, b in window.items()
        if not varies(over, u)
        and not varies(under, b)
        and update.shape[u] == base.shape[b]
        and b not in numbers.scatter_dims_to_operand_dims
    }
    wide = widen(under, tuple(base.shape), [i for i in range(base.ndim) if i not in same.values()])
    new = widen(over, tuple(update.shape), [i for i in range(update.ndim) if i not in same])
    return [[lax.scatter(wide, values[1], new, numbers, mode=op.params["mode"])]]


def _sort(op: Op, values: Sequence[jax.Array], shadows: Sequence[Shadows]) -> list[list[Shadow]]:
    axis, keys = op.params["dimension"], op.params["num_keys"]
    moved = []
    for shadow in distinct([s for many in shadows for s in many]):
        if varies(shadow, axis):
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
            if not any(varies(s, axis) for axis in contract[side]):
                sizes = [[s.shape[i] for i in free[side]] if side == k else [1] * len(free[k]) for k in (0, 1)]
                moved = s.transpose([*batch[side], *free[side], *contract[side]])
                found.append(moved.reshape([s.shape[i] for i in batch[side]] + sizes[0] + sizes[1]))
    return [found]


def _ragged_dot(op: Op, values: Sequence[jax.Array], shadows: Sequence[Shadows]) -> list[list[Shadow]]:
    numbers = op.params["ragged_dot_dimension_numbers"].dot_dimension_numbers
    (contract, _), (batch, _) = numbers
    if batch or len(op.outs[0].aval.shape) != 2:
        return [[]]
    return [[s.reshape(-1, 1) for s in shadows[0] if not any(varies(s, axis) for axis in contract)]]


def _conv(op: Op, values: Sequence[jax.Array], shadows: Sequence[Shadows]) -> list[list[Shadow]]:
    numbers = op.params["dimension_numbers"]
    shape, out = tuple(values[0].shape), tuple(op.outs[0].aval.shape)
    found = []
    for s in shadows[0]:
        resized = any(
            varies(s, a) and shape[a] != out[b] for a, b in zip(numbers.lhs_spec, numbers.out_spec, strict=True)
        )
        if not resized and not varies(s, numbers.lhs_spec[1]):
            named = s.transpose(numbers.lhs_spec)
            found.append(named.transpose([numbers.out_spec.index(axis) for axis in range(len(out))]))
    return [found]


RULES: dict[str, Callable[..., list[list[Shadow]]]] = {
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
    "gather": _gather,
    "scatter": _scatter,
    "sort": _sort,
    "dot_general": _dot_general,
    "ragged_dot_general": _ragged_dot,
    "conv_general_dilated": _conv,
}
