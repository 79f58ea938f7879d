"""A conversion as MaxText writes it down: a table of names and a table of hooks, run in either direction.

The table of names says which Hugging Face tensors a MaxText tensor stands for: one name, or lists in lists, one level
for every axis that they are stacked on, outermost first. A tuple in place of a name, on either side, is several tensors
that a hook takes or makes at once. A hook, or a list of them, is called as ``hook(tensor, target_shape)``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ckptdbg.errors import LoaderError

Shape = tuple[int, ...]
Get = Callable[[str], Any]


@dataclass(frozen=True)
class Tables:
    """One direction of one model's conversion; MaxText's names as it spells them (``params-decoder-...``)."""

    names: Mapping[Any, Any]
    hooks: Mapping[Any, Any]
    scan: bool
    """Whether layers are stacked on ``scan_axis``; a stack that has one level and is of no layers is on axis 0."""
    scan_axis: int
    where: str

    def from_hf(self, get: Get, shapes: Mapping[str, Shape]) -> dict[str, Any]:
        """MaxText tensors of these shapes. What a table names and ``shapes`` do not is left out, as MaxText does."""
        made: dict[str, Any] = {}
        for key, sources in self.names.items():
            own = _several(key)
            if not all(name in shapes for name in own):
                continue
            value = self._gathered(key, sources, get, shapes[own[0]])
            parts = [value[..., i] for i in range(len(own))] if isinstance(key, tuple) else [value]
            for name, part in zip(own, parts, strict=True):
                if tuple(part.shape) != shapes[name]:
                    raise LoaderError(
                        f"the hooks make another shape of {name}",
                        where=self.where,
                        found=tuple(part.shape),
                        expected=f"{shapes[name]}, the target's",
                    )
                made[name] = part
        return made

    def to_hf(self, tensors: Mapping[str, Any], shapes: Mapping[Any, Shape]) -> dict[str, Any]:
        """Hugging Face tensors of these shapes."""
        made: dict[str, Any] = {}
        for key, targets in self._joined().items():
            own = _several(key)
            if targets is None or not all(name in tensors for name in own):
                continue
            axes = self._axes(own[0], targets, tensors[own[0]].shape)
            for index, target in _leaves(targets, len(axes)):
                parts = [_slice(tensors[name], axes, index) for name in own]
                value = parts if isinstance(key, tuple) else parts[0]
                made.update(self._written(key, value, target, shapes))
        return made

    def _joined(self) -> dict[Any, Any]:
        """The names, with one entry for tensors that a hook takes together."""
        together = [key for key in self.hooks if isinstance(key, tuple) and key[0] in self.names]
        parts = {name for key in together for name in key}
        kept = {key: value for key, value in self.names.items() if key not in parts}
        return kept | {key: self.names[key[0]] for key in together}

    def _gathered(self, key: Any, sources: Any, get: Get, shape: Shape) -> Any:
        axes = self._axes(_several(key)[0], sources, shape)
        inner = tuple(size for axis, size in enumerate(shape) if axis not in axes)

        def stacked(sources: Any, level: int) -> Any:
            if level < len(axes):
                return np.stack([np.asarray(stacked(part, level + 1)) for part in sources])
            if sources is None or isinstance(sources, str):
                return self._hooked(key, None if sources is None else get(sources), inner)
            return self._hooked(key, tuple(get(name) for name in sources), inner)

        return np.moveaxis(np.asarray(stacked(sources, 0)), range(len(axes)), axes)

    def _written(self, key: Any, value: Any, target: Any, shapes: Mapping[Any, Shape]) -> dict[str, Any]:
        if isinstance(target, str):
            return {target: self._hooked(key, value, shapes[target]).reshape(shapes[target])}
        wanted = tuple(shapes[name] for name in target)
        parts = self._hooked(key, value, wanted)
        return {name: part.reshape(shape) for name, part, shape in zip(target, parts, wanted, strict=True)}

    def _hooked(self, key: Any, value: Any, shape: Any) -> Any:
        hooks = self.hooks.get(key)
        for hook in hooks if isinstance(hooks, list) else [] if hooks is None else [hooks]:
            value = hook(value, shape)
        return value

    def _axes(self, key: str, names: Any, shape: Shape) -> tuple[int, ...]:
        """Where the levels of a list of names lie in a MaxText tensor."""
        depth = _depth(names)
        if "-local_layers" in key and depth > 1:  # a scan in a scan, and experts before both
            return (*range(depth - 2), self.scan_axis, self.scan_axis + 1)
        if depth != 1:
            return tuple(range(depth))
        layers = self.scan and len(shape) > self.scan_axis and shape[self.scan_axis] == len(names)
        return (self.scan_axis,) if layers else (0,)


def names_in(value: Any) -> list[str]:
    """Every name in a key or a value of a table of names."""
    if isinstance(value, list | tuple):
        return [name for part in value for name in names_in(part)]
    return [] if value is None else [value]


def _several(key: Any) -> tuple[str, ...]:
    return key if isinstance(key, tuple) else (key,)


def _depth(names: Any) -> int:
    return 1 + _depth(names[0]) if isinstance(names, list) else 0


def _leaves(names: Any, depth: int) -> list[tuple[tuple[int, ...], Any]]:
    """Every name in lists of lists with its index in each."""
    if not depth:
        return [((), names)]
    parts = ([((i, *index), name) for index, name in _leaves(part, depth - 1)] for i, part in enumerate(names))
    return list(itertools.chain.from_iterable(parts))


def _slice(tensor: Any, axes: tuple[int, ...], index: tuple[int, ...]) -> Any:
    picked = dict(zip(axes, index, strict=True))
    return tensor[tuple(picked.get(axis, slice(None)) for axis in range(tensor.ndim))]
