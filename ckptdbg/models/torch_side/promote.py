"""Float64 in place of every lower float (promotion), and one-ulp changes of constants (jitter)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ckptdbg.models.torch_side.tensors import is_aten, map_leaves, op_name

_BITS = frozenset({"view.dtype"})
"""Operators that look at the bits of a float: their arguments are left as they are."""
_UNTOUCHED = 1e30
"""Stand-ins for infinity (masks) and above: not values that rounding could have changed."""
_SCALAR_ULP = 2.0**-23
"""Python scalars are applied in float32 by kernels of float32 and below."""


def promoted_dtype(dtype: torch.dtype) -> torch.dtype:
    if dtype.is_floating_point:
        return torch.float64
    return torch.complex128 if dtype.is_complex else dtype


def promoted_tensor(tensor: Tensor) -> Tensor:
    wanted = promoted_dtype(tensor.dtype)
    return tensor if tensor.dtype == wanted else tensor.to(wanted)


def promote(
    func: Any, args: Any, kwargs: Any, tensor: Callable[[Tensor], Tensor] = promoted_tensor, *, dtypes: bool = True
) -> tuple[Any, Any]:
    """Arguments of a call: ``tensor`` applied to every tensor and, if ``dtypes``, float64 for a float's dtype."""
    if is_aten(func) and f"{op_name(func)}.{func._overloadname}" in _BITS:
        return args, kwargs

    def leaf(value: Any) -> Any:
        if isinstance(value, Tensor):
            return tensor(value)
        return promoted_dtype(value) if dtypes and isinstance(value, torch.dtype) else value

    return map_leaves(leaf, args), map_leaves(leaf, kwargs)


@contextmanager
def default_float64() -> Iterator[None]:
    """Tensors made without a dtype are float64 in here."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class Jitter:
    """Multiplies constants by 1 plus or minus one ulp of their own dtype; the signs are pseudo-random.

    Values that every dtype holds exactly (halves, quarters: at most 8 significant bits; or whole numbers) are left
    alone: no implementation could have rounded them otherwise, and masks are built from them.
    """

    def __init__(self, seed: int) -> None:
        self._signs = torch.Generator().manual_seed(seed)

    def scalar(self, value: float) -> float:
        moved = self._moved(torch.tensor(value, dtype=torch.float64), _SCALAR_ULP)
        return float(moved)

    def computed(self, tensor: Tensor) -> Tensor:
        """A changed copy; promoted tensors are changed by what they would have rounded to in float32."""
        if not tensor.dtype.is_floating_point or tensor.numel() == 0:
            return tensor
        ulp = max(torch.finfo(tensor.dtype).eps, _SCALAR_ULP)
        return self._moved(tensor, ulp)

    def _moved(self, tensor: Tensor, ulp: float) -> Tensor:
        signs = torch.randint(0, 2, tensor.shape, generator=self._signs, dtype=torch.int64).to(torch.float64) * 2 - 1
        wide = tensor.to(torch.float64)
        exact = (wide == wide.round()) | (wide == wide.to(torch.bfloat16).to(torch.float64))
        moved = torch.where(exact | (wide.abs() > _UNTOUCHED) | ~wide.isfinite(), wide, wide * (1 + signs * ulp))
        return moved.to(tensor.dtype)
