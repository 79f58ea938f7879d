"""Reads an operator call as a contraction or a lookup: one parameter-derived operand, one activation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from ckptdbg.models.torch_side.layouts import (
    Axes,
    Channels,
    Filters,
    FirstGroup,
    Flat,
    Gathered,
    Layout,
    Segments,
    Table,
    Windows,
)
from ckptdbg.models.torch_side.tensors import is_float

Is = Callable[[Any], bool]


@dataclass(frozen=True)
class Contraction:
    """One call, read. ``activation_at`` is the position of the activation among the call's arguments."""

    kind: Literal["contraction", "lookup"]
    activation_at: int
    activation: Tensor
    operand: Tensor
    operand_layout: Layout
    out_layout: Layout
    in_layout: Layout | None = None
    """None for a lookup: its ids are no port."""
    grouped: bool = False
    """Whether operand and activation share a batch axis: one anchor per group."""
    bias: Tensor | None = None
    """Added by the same call, after the contraction, times ``beta``."""
    beta: float = 1.0
    bias_axes_after: int = 0
    """Axes of the result that follow the bias's own."""

    def added(self, result: Tensor) -> Tensor | None:
        """What the call added to the contraction, in the shape of its result."""
        if self.bias is None:
            return None
        return self.bias.reshape(*self.bias.shape, *[1] * self.bias_axes_after).expand(result.shape) * self.beta

    @property
    def plantable(self) -> bool:
        """Whether values can be put in the place of the input."""
        return self.in_layout is not None and not isinstance(self.in_layout, Windows)


_EINSUMS: dict[str, tuple[str, str, str]] = {
    "mm": ("ac", "cb", "ab"),
    "_int_mm": ("ac", "cb", "ab"),
    "bmm": ("gac", "gcb", "gab"),
    "mv": ("ac", "c", "a"),
    "dot": ("c", "c", ""),
    "vdot": ("c", "c", ""),
}
"""Letters of the first operand, the second, the result: g group, c contraction, a and b the rest."""

_WITH_BIAS = {"addmm": "mm", "baddbmm": "bmm", "addmv": "mv"}


def einsum_letters(name: str) -> tuple[int, tuple[str, str, str]] | None:
    """Position of the first operand among the arguments, and the letters; None if ``name`` is no plain contraction."""
    if name in _EINSUMS:
        return 0, _EINSUMS[name]
    if name in _WITH_BIAS:
        return 1, _EINSUMS[_WITH_BIAS[name]]
    return None


def decode(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any], is_parameter: Is, is_activation: Is
) -> Contraction | None:
    """The call as a contraction or lookup, or None if it is neither.

    Args:
        name: operator name without overload (``"addmm"``).
        is_parameter, is_activation: what an argument's value is derived from.
    """
    if einsum_letters(name):
        return _einsum(name, args, kwargs, is_parameter, is_activation)
    reader = _READERS.get(name)
    return reader(args, kwargs, is_parameter, is_activation) if reader else None


def _einsum(name: str, args: Any, kwargs: Any, is_parameter: Is, is_activation: Is) -> Contraction | None:
    first, letters = einsum_letters(name) or (0, ("", "", ""))
    left, right = args[first], args[first + 1]
    if is_activation(left) and is_parameter(right):
        at, rows, features = first, "a", "b"
        activation, operand, (of_activation, of_operand, of_out) = left, right, letters
    elif is_parameter(left) and is_activation(right):
        at, rows, features = first + 1, "b", "a"
        activation, operand, (of_operand, of_activation, of_out) = right, left, letters
    else:
        return None
    if kwargs.get("alpha", 1) != 1:
        return None  # scales the contraction itself: no caller in sight, so it is listed rather than half handled
    merge = "g" in of_operand and operand.shape[0] > 1 and operand.stride(0) == 0
    operand_layout = Axes(of_operand, f"g{features}c")
    return Contraction(
        kind="contraction",
        activation_at=at,
        activation=activation,
        operand=operand,
        operand_layout=FirstGroup(operand_layout) if merge else operand_layout,
        in_layout=Axes(of_activation, f"g{rows}c", merge),
        out_layout=Axes(of_out, f"g{rows}{features}", merge),
        grouped="g" in of_operand and operand.shape[0] > 1 and not merge,
        bias=args[0] if first else None,
        beta=kwargs.get("beta", 1),
    )


def _argument(args: Any, kwargs: Any, position: int, name: str, default: Any = None) -> Any:
    return args[position] if len(args) > position else kwargs.get(name, default)


def _linear(args: Any, kwargs: Any, is_parameter: Is, is_activation: Is) -> Contraction | None:
    activation, operand = args[:2]
    if not (is_activation(activation) and is_parameter(operand)):
        return None
    bias = _argument(args, kwargs, 2, "bias")
    return Contraction("contraction", 0, activation, operand, Axes("nk", "gnk"), Flat(), Flat(), bias=bias)


def _grouped_mm(args: Any, kwargs: Any, is_parameter: Is, is_activation: Is) -> Contraction | None:
    activation, operand = args[:2]
    ends = _argument(args, kwargs, 2, "offs")
    if ends is None or activation.ndim != 2 or operand.ndim != 3:
        return None
    if not (is_activation(activation) and is_parameter(operand)):
        return None
    rows = Segments(tuple(ends.tolist()))
    return Contraction("contraction", 0, activation, operand, Axes("gkn", "gnk"), rows, rows, grouped=True)


def _convolution(args: Any, kwargs: Any, is_parameter: Is, is_activation: Is) -> Contraction | None:
    activation, operand, bias, stride, padding, dilation, transposed, _, groups = args
    if transposed or not (is_activation(activation) and is_parameter(operand)):
        return None
    if groups > 1 and operand.shape[1] == 1 and operand.shape[0] == groups:
        return None  # depthwise: elementwise in the channels, and elsewhere written as shifted multiplications
    kernel = tuple(operand.shape[2:])
    windows = Windows(kernel, tuple(stride), tuple(padding), tuple(dilation), groups)
    return Contraction(
        "contraction",
        0,
        activation,
        operand,
        Filters(groups),
        Channels(groups),
        windows,
        grouped=groups > 1,
        bias=bias,
        bias_axes_after=len(kernel),
    )


def _embedding(args: Any, kwargs: Any, is_parameter: Is, is_activation: Is) -> Contraction | None:
    table, ids = args[:2]
    return _lookup(table, ids, 0, 1, is_parameter, is_activation)


def _index_select(args: Any, kwargs: Any, is_parameter: Is, is_activation: Is) -> Contraction | None:
    table, axis, ids = args
    return _lookup(table, ids, axis % table.ndim, 2, is_parameter, is_activation)


def _index(args: Any, kwargs: Any, is_parameter: Is, is_activation: Is) -> Contraction | None:
    table, indices = args
    used = [axis for axis, ids in enumerate(indices) if ids is not None]
    if len(used) != 1 or is_float(indices[used[0]]) or indices[used[0]].dtype.itemsize == 1:
        return None  # several index tensors, or a mask
    return _lookup(table, indices[used[0]], used[0], 1, is_parameter, is_activation)


def _lookup(table: Tensor, ids: Tensor, axis: int, at: int, is_parameter: Is, is_activation: Is) -> Contraction | None:
    if not (is_parameter(table) and is_activation(ids)):
        return None
    return Contraction("lookup", at, ids, table, Table(axis), Gathered(axis, ids.ndim))


_READERS: dict[str, Callable[..., Contraction | None]] = {
    "linear": _linear,
    "_grouped_mm": _grouped_mm,
    "convolution": _convolution,
    "embedding": _embedding,
    "index_select": _index_select,
    "index": _index,
}
