"""Layouts by probing: which source element each element of an effective operand came from, and with what scale and
shift.

Index arrays are pushed through whatever lies between the source checkpoint and the operand (the loader's conversion,
the mapping, the model's own casts, reshapes and transposes), as a black box that is affine in each source element.
Each push is reduced at once to vectors along the operand's two axes, so nothing of the operand's size is kept unless
its axes are really mixed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ckptdbg.checkpoint.spec import TensorSpec

Array = NDArray[Any]
Read = Callable[[str], Array]
Push = Callable[[Read], Sequence[Array]]
"""Source tensors (by name, float64) to operands, each ``[features, contraction]``."""
Role = Literal["constant", "feature", "contraction", "mixed"]

# A decoded index is an integer up to float64 rounding of a scale and its inverse; 0.01 is far above that and far
# below one step.
_INTEGER = 0.01
_NOWHERE = -1


@dataclass(frozen=True)
class Along:
    """One quantity over an operand: constant, or varying along one axis only (``values`` is then that vector), or
    mixed."""

    role: Role
    values: Array
    """Shape ``()``, ``[features]``, ``[contraction]``, or ``[features, contraction]`` where mixed."""

    def over_features(self, features: int) -> Array:
        """Values per feature; only for a quantity that does not vary along the contraction."""
        return np.broadcast_to(self.values, (features,))


@dataclass(frozen=True)
class Layout:
    """Where the elements of one effective operand came from."""

    shape: tuple[int, int]
    coordinates: tuple[Along, ...]
    """Ordinal of the source tensor, then the index along each of its axes; -1 where an element comes from no source
    (padding)."""
    scale: Along
    shift: Along
    opaque: str | None = None
    """Why the operand is not an index map of the source, where it is not."""

    @property
    def tensors(self) -> tuple[int, ...]:
        """Ordinals of the source tensors that take part."""
        if self.opaque is not None:
            return ()
        return tuple(int(v) for v in np.unique(self.coordinates[0].values) if v >= 0)

    @property
    def mixed(self) -> bool:
        """True where some source axis runs along both axes of the operand."""
        return self.opaque is None and any(c.role == "mixed" for c in self.coordinates)


def reduce(array: Array, dead: Array | None = None) -> Along:
    """Say along which axis a ``[features, contraction]`` array varies. ``dead`` marks elements that do not count."""
    if dead is None or not dead.any():
        return _reduce_plain(array)
    rows, columns = ~dead.all(axis=1), ~dead.all(axis=0)
    if dead[np.ix_(rows, columns)].any():
        return Along("mixed", np.where(dead, _NOWHERE, array))
    inner = _reduce_plain(array[np.ix_(rows, columns)])
    if inner.role == "mixed" or not (rows.all() or columns.all()):
        return Along("mixed", np.where(dead, _NOWHERE, array))
    if columns.all():  # dead rows: the padding lies along the features
        if inner.role == "contraction":
            return inner
        values = np.full(rows.shape, float(_NOWHERE))
        values[rows] = inner.values
        return Along("feature", values)
    if inner.role in ("feature", "constant"):  # the index along the contraction says where the padding is
        return inner
    values = np.full(columns.shape, float(_NOWHERE))
    values[columns] = inner.values
    return Along("contraction", values)


def _reduce_plain(array: Array) -> Along:
    if array.size == 0:
        return Along("constant", np.asarray(float(_NOWHERE)))
    row, column = array[:1, :], array[:, :1]
    along_rows = bool((array == row).all())
    if along_rows:
        if bool((row == row[0, 0]).all()):
            return Along("constant", np.asarray(array[0, 0]))
        return Along("contraction", row[0].copy())
    if bool((array == column).all()):
        return Along("feature", column[:, 0].copy())
    return Along("mixed", array.copy())


def read_layouts(push: Push, specs: Mapping[str, TensorSpec]) -> list[Layout]:
    """Layouts of all operands that ``push`` returns, against the tensors of ``specs`` (their order gives the ordinals).

    Pushes: zeros, ones, the tensor's ordinal, the index along each axis, and random values to check what was read.
    """
    names = list(specs)
    zero_label, one_label, *index_labels = labels(specs)
    zeros = [np.asarray(a, np.float64) for a in push(zero_label)]
    ones = push(one_label)
    shifts = [reduce(zero) for zero in zeros]
    scales = [np.asarray(one, np.float64) - zero for one, zero in zip(ones, zeros, strict=True)]
    del ones
    states = [_State(zero, scale) for zero, scale in zip(zeros, scales, strict=True)]
    del zeros, scales
    for label in index_labels:
        for state, pushed in zip(states, push(label), strict=True):
            state.decode(np.asarray(pushed, np.float64))
    return _checked(push, specs, names, states, shifts)


def _axis_label(specs: Mapping[str, TensorSpec], axis: int) -> Read:
    def label(name: str) -> Array:
        shape = specs[name].shape
        if axis >= len(shape):
            return np.zeros(shape)
        index = np.arange(shape[axis], dtype=np.float64)
        return np.ascontiguousarray(np.broadcast_to(index.reshape(-1, *[1] * (len(shape) - axis - 1)), shape))

    return label


def layout_of(pushes: Sequence[Array]) -> Layout:
    """The layout of one operand from its pushes in the order of ``labels``: unchecked, for an operand known to be an
    index map."""
    zero, one, *rest = (np.asarray(p, np.float64) for p in pushes)
    state = _State(zero, one - zero)
    for pushed in rest:
        state.decode(pushed)
    return Layout(state.shape, tuple(state.coordinates), state.scale, reduce(zero), state.opaque)


def labels(specs: Mapping[str, TensorSpec]) -> list[Read]:
    """What is pushed: zeros, ones, the tensor's ordinal, the index along each axis."""
    ordinal = {name: i for i, name in enumerate(specs)}
    axes = max((len(spec.shape) for spec in specs.values()), default=0)
    return [
        lambda n: np.zeros(specs[n].shape),
        lambda n: np.ones(specs[n].shape),
        lambda n: np.full(specs[n].shape, float(ordinal[n])),
        *(_axis_label(specs, axis) for axis in range(axes)),
    ]


class _State:
    """What has been read of one operand so far."""

    def __init__(self, zero: Array, scale: Array) -> None:
        self.shape = (int(zero.shape[0]), int(zero.shape[1]))
        self.opaque: str | None = None
        if not (np.isfinite(zero).all() and np.isfinite(scale).all()):
            self.opaque = "not finite on index probes"
            zero, scale = np.zeros_like(zero), np.zeros_like(scale)
        self.dead = scale == 0
        self.all_dead = bool(self.dead.all())
        self.zero: Array | float = zero if zero.any() else 0.0
        flat = scale.reshape(-1)
        uniform = flat.size > 0 and bool((flat == flat[0]).all())
        self.divisor: Array | float = float(flat[0]) if uniform and flat[0] != 0 else np.where(self.dead, 1.0, scale)
        self.scale = reduce(scale, self.dead if self.dead.any() and not self.all_dead else None)
        self.coordinates: list[Along] = []

    def decode(self, pushed: Array) -> None:
        if self.opaque is not None:
            return
        index = (pushed - self.zero) / self.divisor
        rounded = np.rint(index)
        off = np.abs(index - rounded)
        if not np.isfinite(index).all() or float(np.where(self.dead, 0, off).max(initial=0.0)) > _INTEGER:
            self.opaque = "not an affine index map of the source tensors"
            return
        rounded[self.dead] = _NOWHERE
        self.coordinates.append(reduce(rounded, self.dead if self.dead.any() and not self.all_dead else None))


def _checked(
    push: Push, specs: Mapping[str, TensorSpec], names: list[str], states: list[_State], shifts: list[Along]
) -> list[Layout]:
    """Predict the operands for random tensors; an operand predicted wrongly is opaque."""
    random = {n: np.random.default_rng([17, i]).standard_normal(specs[n].shape) for i, n in enumerate(names)}
    pushed = push(lambda n: random[n])
    layouts = []
    for state, shift, actual in zip(states, shifts, pushed, strict=True):
        opaque = state.opaque
        if opaque is None and not state.all_dead:
            expected = _predict(state, [random[n] for n in names])
            size = np.abs(actual).max(initial=0.0) + 1.0
            if expected is None or not np.allclose(expected, actual, rtol=1e-9, atol=1e-9 * size):
                opaque = "a value-dependent or non-linear function of the source tensors"
        layouts.append(Layout(state.shape, tuple(state.coordinates), state.scale, shift, opaque))
    return layouts


def _predict(state: _State, tensors: list[Array]) -> Array | None:
    """The operand for these tensors; None where what was read names an element that is not there, as the labels of two
    tensors multiplied do."""
    out = np.broadcast_to(np.asarray(state.zero, np.float64), state.shape).copy()
    grids = [_grid(c, state.shape) for c in state.coordinates]
    alive = ~state.dead
    for ordinal in np.unique(grids[0][alive]):
        if not 0 <= ordinal < len(tensors):
            return None
        tensor = tensors[int(ordinal)]
        here = alive & (grids[0] == ordinal)
        index = tuple(grid[here].astype(np.int64) for grid in grids[1 : 1 + tensor.ndim])
        if any((at < 0).any() or (at >= n).any() for at, n in zip(index, tensor.shape, strict=True)):
            return None
        out[here] += np.broadcast_to(state.divisor, state.shape)[here] * tensor[index]
    return out


def _grid(along: Along, shape: tuple[int, int]) -> Array:
    values = np.asarray(along.values)
    return np.broadcast_to(values[:, None] if along.role == "feature" else values, shape)


def as_matrix(array: Array) -> Array:
    """A region parameter's effective operand as a matrix of one column, so that it has a layout like any other."""
    return np.asarray(array).reshape(-1, 1)
