"""What one equation is: a contraction, a lookup, a meeting, a choice, a cast, or something that cannot be seen into.

A site is one equation of the program; it becomes one anchor per scan iteration and per group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import jax
import jax.numpy as jnp
from jax import lax

from ckptdbg.models.jax_side import compat
from ckptdbg.models.jax_side.fold import Fold
from ckptdbg.models.jax_side.program import Atom, Op, dtype_of


class Level(IntEnum):
    """What a value is computed from; the highest wins."""

    CONSTANT = 0
    PARAMETER = 1
    ACTIVATION = 2


@dataclass(frozen=True)
class AnchorSite:
    """An equation where a parameter-derived operand is contracted with, or looked up by, an activation."""

    op: Op
    weight: int
    """Which operand of the equation is parameter-derived."""
    data: int
    """Which one is the activation."""
    operand: Fold
    """-> ``[group, features, contraction]``"""
    output: Fold
    """-> ``[group, rows, features]``"""
    input: Fold | None = None
    """-> ``[group, rows, contraction]``; None for a lookup."""
    ragged: int | None = None
    """Which operand holds the group sizes of a grouped matmul: rows are split by them after the run."""
    patches: bool = False
    """A convolution: its ``input`` folds the patches of the activation, not the activation."""

    @property
    def groups(self) -> int:
        return self.operand.folded[0]


@dataclass(frozen=True)
class MeetingSite:
    op: Op
    weights: tuple[int, ...]


@dataclass(frozen=True)
class ChoiceSite:
    op: Op
    axis: int
    options: int
    chosen: int


@dataclass(frozen=True)
class CastSite:
    op: Op


@dataclass(frozen=True)
class OpaqueSite:
    op: Op
    reason: str


Site = AnchorSite | MeetingSite | ChoiceSite | CastSite | OpaqueSite

CONTROL = frozenset({"scan", "cond"})
"""Walked into; not sites themselves."""
PASSTHROUGH = frozenset({"optimization_barrier"})
"""Result i is operand i; the operands do not meet."""


def classify(op: Op, levels: Sequence[Level]) -> Site | None:
    """The site that ``op`` is, given the levels of its operands; None for an equation of no interest."""
    if Level.ACTIVATION not in levels or op.name in CONTROL | PASSTHROUGH:
        return None
    if Level.PARAMETER not in levels:
        return _choice(op, levels) or _cast(op)
    weights = tuple(i for i, level in enumerate(levels) if level is Level.PARAMETER)
    if op.name == "while":
        return OpaqueSite(op, "a while loop that reads parameters has no known number of iterations")
    if compat.holds_jaxpr(op.params) and not op.name.startswith("scatter"):
        return OpaqueSite(op, "a kernel that the walk cannot see into")
    if op.name in _ANCHORS and len(weights) == 1:
        return _ANCHORS[op.name](op, weights[0])
    return MeetingSite(op, weights)


def _shape(atom: Atom) -> tuple[int, ...]:
    return tuple(atom.aval.shape)


def _rest(ndim: int, *taken: Sequence[int]) -> tuple[int, ...]:
    return tuple(axis for axis in range(ndim) if not any(axis in axes for axes in taken))


def _dot_general(op: Op, weight: int) -> Site:
    contract, batch = op.params["dimension_numbers"]
    if not contract[0]:
        return MeetingSite(op, (weight,))
    data = 1 - weight
    # In the order of the operand's own axes, whichever order the equation lists them in.
    pairs = sorted(zip(contract[weight], contract[data], strict=True))
    shared = sorted(zip(batch[weight], batch[data], strict=True))
    w_axes, x_axes = (tuple(p[side] for p in pairs) for side in (0, 1))
    w_batch, x_batch = (tuple(p[side] for p in shared) for side in (0, 1))
    w, x = _shape(op.ins[weight]), _shape(op.ins[data])
    w_free, x_free = _rest(len(w), w_axes, w_batch), _rest(len(x), x_axes, x_batch)
    # The result has the batch axes (in the equation's order), then the free axes of the left, then of the right.
    place = {axis: i for i, axis in enumerate(batch[weight])}
    left = len(batch[0])
    right = left + len(w_free if weight == 0 else x_free)
    w_out = tuple(range(left if weight == 0 else right, (left if weight == 0 else right) + len(w_free)))
    x_out = tuple(range(left if data == 0 else right, (left if data == 0 else right) + len(x_free)))
    return AnchorSite(
        op,
        weight,
        data,
        operand=Fold(w, (w_batch, w_free, w_axes)),
        output=Fold(_shape(op.outs[0]), (tuple(place[axis] for axis in w_batch), x_out, w_out)),
        input=Fold(x, (x_batch, x_free, x_axes)),
    )


def _ragged_dot(op: Op, weight: int) -> Site:
    numbers = op.params["ragged_dot_dimension_numbers"]
    (contract, batch), ragged = numbers.dot_dimension_numbers, numbers.lhs_ragged_dimensions
    x, w = _shape(op.ins[0]), _shape(op.ins[1])
    plain = len(x) == 2 and len(w) == 3 and not batch[0] and len(contract[0]) == 1 and ragged[0] not in contract[0]
    if weight != 1 or not plain or op.params.get("group_offset") is not None:
        return OpaqueSite(op, "a grouped matmul in a form whose groups cannot be told apart")
    (group,), (inner,), (rows,) = numbers.rhs_group_dimensions, contract[1], ragged
    return AnchorSite(
        op,
        weight=1,
        data=0,
        operand=Fold(w, ((group,), _rest(3, (group, inner)), (inner,))),
        output=Fold(_shape(op.outs[0]), ((), (0,), (1,))),
        input=Fold(x, ((), (rows,), tuple(contract[0]))),
        ragged=2,
    )


def _conv(op: Op, weight: int) -> Site:
    if weight != 1 or op.params["batch_group_count"] != 1:
        return OpaqueSite(op, "a convolution of a parameter with an activation as its kernel")
    numbers, kernel = op.params["dimension_numbers"], _shape(op.ins[1])
    features, inner, *window = numbers.rhs_spec
    if op.params["feature_group_count"] != 1:
        if kernel[inner] == 1:  # depthwise: every channel by itself, as with a scale
            return MeetingSite(op, (weight,))
        return OpaqueSite(op, "a grouped convolution")
    axes = tuple(sorted((inner, *window)))
    out = _shape(op.outs[0])
    row_axes = tuple(sorted((numbers.out_spec[0], *numbers.out_spec[2:])))
    # Patches have the axes (rows as the result lists them, contraction as the kernel lists it).
    patches = tuple(out[axis] for axis in row_axes) + tuple(kernel[axis] for axis in axes)
    return AnchorSite(
        op,
        weight=1,
        data=0,
        operand=Fold(kernel, ((), (features,), axes)),
        output=Fold(out, ((), row_axes, (numbers.out_spec[1],))),
        input=Fold(patches, ((), tuple(range(len(row_axes))), tuple(range(len(row_axes), len(patches))))),
        patches=True,
    )


def _gather(op: Op, weight: int) -> Site:
    numbers, sizes = op.params["dimension_numbers"], op.params["slice_sizes"]
    table, out = _shape(op.ins[0]), _shape(op.outs[0])
    axes = tuple(numbers.start_index_map)
    whole = all(size == (1 if axis in axes else table[axis]) for axis, size in enumerate(sizes))
    if weight != 0:
        return MeetingSite(op, (weight,))
    if len(axes) != 1 or not whole or numbers.operand_batching_dims:
        return OpaqueSite(op, "a gather from a parameter that is not of single rows")
    # The looked-up axis may stay in the result, with size one: a row axis like those of the indices.
    kept = (axis for axis in range(len(table)) if axis not in numbers.collapsed_slice_dims)
    features = tuple(place for axis, place in zip(kept, numbers.offset_dims, strict=True) if axis not in axes)
    return AnchorSite(
        op,
        weight=0,
        data=1,
        operand=Fold(table, ((), _rest(len(table), axes), axes)),
        output=Fold(out, ((), _rest(len(out), features), features)),
    )


def _dynamic_slice(op: Op, weight: int) -> Site:
    return OpaqueSite(op, "a slice of a parameter at a place that depends on the inputs")


_ANCHORS = {
    "dot_general": _dot_general,
    "ragged_dot_general": _ragged_dot,
    "conv_general_dilated": _conv,
    "gather": _gather,
    "dynamic_slice": _dynamic_slice,
}


def _floating(atom: Atom) -> bool:
    dtype = dtype_of(atom)
    return dtype is not None and jnp.issubdtype(dtype, jnp.floating)


def _choice(op: Op, levels: Sequence[Level]) -> Site | None:
    if levels[0] is not Level.ACTIVATION or not _floating(op.ins[0]):
        return None
    shape = _shape(op.ins[0])
    if op.name == "top_k":
        axis = op.params.get("axis", len(shape) - 1) % len(shape)
        return ChoiceSite(op, axis, shape[axis], op.params["k"])
    if op.name in ("argmax", "argmin") and len(op.params["axes"]) == 1:
        (axis,) = op.params["axes"]
        return ChoiceSite(op, axis, shape[axis], 1)
    if op.name == "sort" and len(op.ins) == 2 and op.params["num_keys"] == 1 and levels[1] is Level.CONSTANT:
        axis = op.params["dimension"]
        return ChoiceSite(op, axis, shape[axis], shape[axis])
    return None


def _cast(op: Op) -> Site | None:
    if op.name not in ("convert_element_type", "reduce_precision") or not _floating(op.ins[0]):
        return None
    if op.name == "reduce_precision":
        return CastSite(op) if op.params["mantissa_bits"] < jnp.finfo(dtype_of(op.ins[0])).nmant else None
    lower = _floating(op.outs[0]) and jnp.finfo(dtype_of(op.outs[0])).nmant < jnp.finfo(dtype_of(op.ins[0])).nmant
    return CastSite(op) if lower else None


def patches(op: Op, image: jax.Array) -> jax.Array:
    """The windows that a convolution sees: the row axes of its result, then the contraction axes of its kernel."""
    numbers, p = op.params["dimension_numbers"], op.params
    kernel = _shape(op.ins[1])
    _, inner, *window = numbers.rhs_spec
    moved = image.transpose(numbers.lhs_spec)
    sizes = [kernel[axis] for axis in window]
    found = lax.conv_general_dilated_patches(
        moved,
        sizes,
        p["window_strides"],
        p["padding"],
        lhs_dilation=p["lhs_dilation"],
        rhs_dilation=p["rhs_dilation"],
        precision=lax.Precision.HIGHEST,
    )
    places = found.shape[2:]
    found = found.reshape(found.shape[0], kernel[inner], *sizes, *places)
    # Now (batch, inner, window..., place...); name each axis, then list them in the wanted order.
    n = len(window)
    row_of = {numbers.out_spec[0]: 0} | {axis: 2 + n + i for i, axis in enumerate(numbers.out_spec[2:])}
    inner_of = {inner: 1} | {axis: 2 + i for i, axis in enumerate(window)}
    return found.transpose([row_of[a] for a in sorted(row_of)] + [inner_of[a] for a in sorted(inner_of)])
