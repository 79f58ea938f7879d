"""Small questions about tensors and operator calls that every part of the walk asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

Place = tuple[int, int, tuple[int, ...], tuple[int, ...]]


def words(text: str) -> frozenset[str]:
    """``"a b"`` -> ``{"a", "b"}``: for sets of operator names."""
    return frozenset(text.split())


def storage_id(tensor: Tensor) -> int:
    """Identifies the memory behind a tensor: equal for a tensor and its views."""
    return tensor.untyped_storage()._cdata


def place(tensor: Tensor) -> Place:
    """Identifies which elements of which memory a tensor is.

    Autograd may wrap one view in several Python objects, so object identity does not tell them apart; this does.
    """
    size = tuple(tensor.size())
    strides = tuple(0 if length == 1 else step for length, step in zip(size, tensor.stride(), strict=True))
    return storage_id(tensor), int(tensor.storage_offset()), size, strides


def op_name(func: Any) -> str:
    """``aten.add_.Tensor`` -> ``"add_"``."""
    return func._schema.name.partition("::")[2]


def is_aten(func: Any) -> bool:
    return func.namespace == "aten"


def tensors_in(*trees: Any) -> Iterator[Tensor]:
    """Every tensor in arguments or results, in order; lists and dicts are entered."""
    for tree in trees:
        if isinstance(tree, Tensor):
            yield tree
        elif isinstance(tree, list | tuple):
            yield from tensors_in(*tree)
        elif isinstance(tree, dict):
            yield from tensors_in(*tree.values())


def map_leaves(fn: Callable[[Any], Any], tree: Any) -> Any:
    """``tree`` with ``fn`` applied to everything that is not a list, tuple or dict."""
    if isinstance(tree, list | tuple):
        return type(tree)([map_leaves(fn, item) for item in tree]) if type(tree) in (list, tuple) else fn(tree)
    if isinstance(tree, dict):
        return {key: map_leaves(fn, value) for key, value in tree.items()}
    return fn(tree)


def is_float(tensor: Tensor) -> bool:
    return tensor.dtype.is_floating_point or tensor.dtype.is_complex


def is_lower(low: torch.dtype, high: torch.dtype) -> bool:
    """Whether ``low`` is a floating-point type with fewer bits than ``high``."""
    return low.is_floating_point and high.is_floating_point and low.itemsize < high.itemsize
