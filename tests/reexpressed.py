"""A source model that holds its weights as the target of a mapping does, and computes with them in the target's layout.

The mapping's own reverse says where each of the source's parameters lies among the target's tensors. A linear layer or
a table contracts with the target's tensor, its features and columns in the order and scale in which they lie there; its
activations are brought into that order before, and back after. All else is the source's own code. So the definition is
the source's, to the letter, and the layouts are the target's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from ckptdbg.mapping import BoundMapping
from ckptdbg.models.records import Array

Undo = Callable[[dict[str, Array]], dict[str, Array]]
"""Target tensors to source tensors, in float64."""


def undo_of(bound: BoundMapping) -> Undo:
    """The reverse of a mapping."""
    back = bound.reversed()
    return lambda tensors: {n: v for n, v, _ in back.values(tensors.__getitem__, cast=False, dtype=np.float64)}


@dataclass(frozen=True)
class Way:
    """How one parameter of the source is made: ``concat(tensors)[places] * scale + shift``."""

    tensors: tuple[str, ...]
    places: Array
    scale: Array
    shift: Array

    def values(self, held: Mapping[str, Tensor], order: tuple[Array, Array] | None) -> Tensor:
        """The parameter; with ``order``, of rows and columns, as it lies in the target."""
        flat = torch.cat([held[name].reshape(-1) for name in self.tensors])
        if order is not None:
            return flat[torch.from_numpy(self.places[np.ix_(*order)])]
        found = flat[torch.from_numpy(self.places)]
        found = found if (self.scale == 1).all() else found * _constant(self.scale)
        return found if (self.shift == 0).all() else found + _constant(self.shift)

    def order(self) -> tuple[Array, Array] | None:
        """Rows and columns of a matrix in the order in which they lie in the target; None where it is more than
        that."""
        if self.places.ndim != 2 or (self.scale != self.scale.flat[0]).any() or self.shift.any():
            return None
        return np.argsort(self.places.min(1)), np.argsort(self.places.min(0))


def find_ways(
    undo: Undo, shapes: Mapping[str, tuple[int, ...]], to_parameters: Callable[[dict[str, Array]], dict[str, Array]]
) -> dict[str, Way]:
    """For each of the source's parameters that the target holds. ``shapes``: of the target's tensors;
    ``to_parameters``: from the tensors that mapping files name."""
    names, sizes = list(shapes), [int(np.prod(shape)) for shape in shapes.values()]
    ends = np.cumsum(sizes)
    numbers = {n: np.arange(e - s, e, dtype=np.float64) for n, s, e in zip(names, sizes, ends, strict=True)}

    def pushed(values: Callable[[Array], Array]) -> dict[str, Array]:
        return to_parameters(undo({n: values(numbers[n]).reshape(shapes[n]) for n in names}))

    zeros, ones, found = pushed(np.zeros_like), pushed(np.ones_like), pushed(lambda x: x)
    ways = {}
    for name, shift in zeros.items():
        scale = ones[name] - shift
        if not scale.all():  # not from the target
            continue
        places = np.rint((found[name] - shift) / scale).astype(np.int64)
        owners = np.unique(np.searchsorted(ends, places, side="right"))
        held = np.concatenate([numbers[names[i]] for i in owners]).astype(np.int64)
        ways[name] = Way(tuple(names[i] for i in owners), np.searchsorted(held, places), scale, shift)
    return ways


class Turned(nn.Module):
    """A linear layer or a table in another order of features (``rows``) and columns, its results ``scale`` too
    small."""

    def __init__(self, module: Any, order: tuple[Array, Array], scale: float) -> None:
        super().__init__()
        self.weight, self.bias, self.scale = module.weight, getattr(module, "bias", None), scale
        self.lookup = isinstance(module, nn.Embedding)
        features, columns = order[::-1] if self.lookup else order
        self.columns, self.back = torch.from_numpy(columns), torch.from_numpy(np.argsort(features))

    def forward(self, x: Tensor) -> Tensor:
        y = F.embedding(x, self.weight) if self.lookup else F.linear(x[..., self.columns], self.weight)
        y = y[..., self.back] * self.scale
        return y if self.bias is None else y + self.bias


class Reexpressed(nn.Module):
    """``model`` with ``tensors``, the target's, as its only parameters."""

    def __init__(self, model: nn.Module, tensors: Mapping[str, Array], ways: Mapping[str, Way]) -> None:
        super().__init__()
        named = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers())
        users: dict[int, list[str]] = {}
        for name in ways:
            users.setdefault(id(named[name]), []).append(name)
        self.ways = {names[0]: ways[names[0]] for names in users.values()}  # tied ones once
        self.orders: dict[str, tuple[Array, Array]] = {}
        for name, module in list(model.named_modules()):
            way, tied = ways.get(f"{name}.weight"), len(users.get(id(getattr(module, "weight", None)), ())) > 1
            order = way.order() if way and type(module) in (nn.Linear, nn.Embedding) and not tied else None
            if way is not None and order is not None:
                rows = np.arange(len(order[0])) if isinstance(module, nn.Embedding) else order[0]
                self.orders[f"{name}.weight"] = rows, order[1]
                model.set_submodule(name, Turned(module, (rows, order[1]), float(way.scale.flat[0])))
        self._model = [model]  # not a child: its parameters are none of ours
        for name, value in tensors.items():
            self._hold(name, nn.Parameter(torch.from_numpy(value)))

    def _hold(self, name: str, value: nn.Parameter) -> None:
        *path, last = name.split(".")
        owner: nn.Module = self
        for part in path:
            if part not in owner._modules:
                owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)
        owner.register_parameter(last, value)

    def forward(self, **inputs: Any) -> Any:
        held = dict(self.named_parameters())
        made = {name: way.values(held, self.orders.get(name)) for name, way in self.ways.items()}
        return functional_call(self._model[0], made, (), {**inputs, "use_cache": False})


def _constant(values: Array) -> Tensor:
    return torch.tensor(values.flat[0]) if (values == values.flat[0]).all() else torch.from_numpy(values)
