"""What a torch model keeps outside its parameters: settings that can be given another value while a run lasts.

Settings are plain attributes of modules and of the configuration objects that modules hold (a norm's epsilon, a
window), the activation functions, and the constant tables (rotary frequencies). Nothing here knows what they mean.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ckptdbg.models.records import Array

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu by tanh": lambda x: F.gelu(x, approximate="tanh"),
    "gelu by sigmoid": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
    "relu squared": lambda x: F.relu(x).square(),
    "tanh": torch.tanh,
}
_HOLDERS = ("config", "cfg", "args", "definition", "hparams", "params")
"""Attributes of modules that hold a configuration."""


class Activation(nn.Module):
    """One of ``ACTIVATIONS`` where a model holds its activation as a module."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.forward = ACTIVATIONS[name]


class Knobs:
    """The settings of one module, by path (``layers.0.norm.eps``, ``config.sliding_window``)."""

    def __init__(self, module: nn.Module) -> None:
        self._owners: dict[str, tuple[Any, str]] = {}
        self._tables: dict[str, tuple[nn.Module, str]] = {}
        self._activations: dict[str, tuple[nn.Module, str]] = {}
        held: set[int] = set()
        for prefix, owner in module.named_modules():
            start = f"{prefix}." if prefix else ""
            for name, value in [*vars(owner).items()]:
                if _plain(name, value):
                    self._owners[start + name] = (owner, name)
                elif name in _HOLDERS and id(value) not in held and hasattr(value, "__dict__"):
                    held.add(id(value))
                    self._hold(start + name, value)
                elif callable(value) and not isinstance(value, nn.Module) and _is_activation(value):
                    self._activations[start + name] = (owner, name)
            for name, child in owner._modules.items():
                if child is not None and not [*child.parameters()] and _is_activation(child):
                    self._activations[start + name] = (owner, name)
            for name, buffer in owner._buffers.items():
                if buffer is not None and buffer.is_floating_point() and buffer.ndim <= 1:
                    self._tables[start + name] = (owner, name)

    def _hold(self, path: str, holder: Any) -> None:
        frozen = dataclasses.is_dataclass(holder) and holder.__dataclass_params__.frozen  # type: ignore[union-attr]
        for name, value in vars(holder).items():
            if _plain(name, value) and not frozen:
                self._owners[f"{path}.{name}"] = (holder, name)

    def values(self) -> dict[str, Any]:
        """Numbers, truth values and None, by path."""
        return {path: getattr(owner, name) for path, (owner, name) in self._owners.items()}

    def tables(self) -> dict[str, Array]:
        """Constant floating-point buffers ``[n]`` or ``[]``, in their own precision (float64 if lower than single)."""
        read = {path: getattr(owner, name) for path, (owner, name) in self._tables.items()}
        return {path: value.detach().to(torch.float64).numpy() for path, value in read.items()}

    def activations(self) -> dict[str, str]:
        """The name in ``ACTIVATIONS`` of every activation function that is held as an attribute, by path."""
        return {path: _name(getattr(owner, name)) for path, (owner, name) in self._activations.items()}

    @contextmanager
    def turned(self, changes: Mapping[str, Any]) -> Iterator[None]:
        """The model has these settings in here, by path; the old ones return. A table is an array of its shape, an
        activation a name in ``ACTIVATIONS``."""
        undo: list[Callable[[], None]] = []
        try:
            for path, value in changes.items():
                # known before anything is changed: an interrupt may come in between
                undo.append(self._back(path))
                self._turn(path, value)
            yield
        finally:
            for back in reversed(undo):
                back()

    def _back(self, path: str) -> Callable[[], None]:
        """What gives a setting the value that it has now."""
        if path in self._tables:
            owner, name = self._tables[path]
            return partial(owner._buffers.__setitem__, name, owner._buffers[name])
        if path in self._activations:
            owner, name = self._activations[path]
            return partial(setattr, owner, name, getattr(owner, name))
        holder, name = self._owners[path]
        return partial(object.__setattr__, holder, name, getattr(holder, name))

    def _turn(self, path: str, value: Any) -> None:
        if path in self._tables:
            owner, name = self._tables[path]
            old = owner._buffers[name]
            assert old is not None
            owner._buffers[name] = torch.from_numpy(np.asarray(value, np.float64).copy()).to(old.dtype)
        elif path in self._activations:
            owner, name = self._activations[path]
            held = isinstance(getattr(owner, name), nn.Module)
            setattr(owner, name, Activation(value) if held else ACTIVATIONS[value])
        else:
            holder, name = self._owners[path]
            # not setattr: a configuration may check types, and a number that is searched for is no whole one
            object.__setattr__(holder, name, value)


def _plain(name: str, value: Any) -> bool:
    return not name.startswith("_") and name != "training" and (value is None or isinstance(value, bool | int | float))


_PROBE = torch.linspace(-4, 4, 33, dtype=torch.float64)


def _is_activation(function: Any) -> bool:
    return bool(_name(function))


def _name(function: Any) -> str:
    """The name in ``ACTIVATIONS`` of what computes the same; empty for anything else."""
    if isinstance(function, type) or not callable(function):
        return ""
    try:
        with torch.no_grad():
            found: Any = function(_PROBE)
    except Exception:  # whatever it is, it is no function of one tensor
        return ""
    if not isinstance(found, torch.Tensor) or found.shape != _PROBE.shape or found.dtype != _PROBE.dtype:
        return ""
    return next((n for n, f in ACTIVATIONS.items() if torch.allclose(f(_PROBE), found, rtol=1e-12, atol=1e-12)), "")
