"""The parameters of a module: named, read, and swapped for others while a run lasts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.errors import LoaderError
from ckptdbg.models.records import Array
from ckptdbg.models.torch_side.border import dtype_name, to_numpy, to_torch
from ckptdbg.models.torch_side.promote import promoted_tensor


class Parameters:
    """Parameters and persistent buffers under the names of ``state_dict()``, tied ones under each of their names.

    Raises:
        LoaderError: a parameter is on the meta device, so it has no values.
    """

    def __init__(self, module: nn.Module) -> None:
        self._slots: dict[str, tuple[nn.Module, str]] = {}
        for prefix, owner in module.named_modules(remove_duplicate=False):
            kept = {name for name in owner._buffers if name not in owner._non_persistent_buffers_set}
            for attribute in (*owner._parameters, *kept):
                if getattr(owner, attribute) is not None:
                    self._slots[f"{prefix}.{attribute}" if prefix else attribute] = (owner, attribute)
        self._slots = {name: self._slots[name] for name in self._ordered(module)}
        by_identity: dict[int, list[str]] = {}
        for name, (owner, attribute) in self._slots.items():
            by_identity.setdefault(id(getattr(owner, attribute)), []).append(name)
        self._tied = {name: tuple(names) for names in by_identity.values() for name in names}
        meta = [name for name in self._slots if self.tensor(name).is_meta]
        if meta:
            raise LoaderError(
                "parameter has no values",
                where=meta[0],
                found=f"a meta tensor ({len(meta)} of {len(self._slots)} parameters are)",
                expected="a tensor in memory",
                hint="have the loader materialise the model (to_empty, or load without device='meta')",
            )

    def _ordered(self, module: nn.Module) -> list[str]:
        parameters = [name for name, _ in module.named_parameters(remove_duplicate=False) if name in self._slots]
        return list(dict.fromkeys([*parameters, *self._slots]))

    def __iter__(self) -> Iterator[str]:
        return iter(self._slots)

    def tensor(self, name: str) -> Tensor:
        """The tensor in place now.

        Raises:
            LoaderError: no such parameter.
        """
        if name not in self._slots:
            raise LoaderError("no such parameter in the model", where=name, hint="names are those of state_dict()")
        owner, attribute = self._slots[name]
        return getattr(owner, attribute).detach()

    def tied(self, name: str) -> tuple[str, ...]:
        """All names of the tensor called ``name``, itself first."""
        return tuple(dict.fromkeys((name, *self._tied[name])))

    def group(self, name: str) -> str:
        """What all names of one tensor have in common: the first of them."""
        return self._tied[name][0]

    def spec(self, name: str) -> TensorSpec:
        tensor = self.tensor(name)
        return TensorSpec(tuple(tensor.shape), dtype_name(tensor.dtype))

    def given(self, name: str, values: Mapping[str, Array]) -> Tensor | None:
        """What ``values`` say about ``name``: under that name, else under a tied one: a fresh tensor, same dtype,
        strides as the model's (``reshape`` is another operator for others, and anchors are known by how they are made).

        Raises:
            LoaderError: the shape is not the parameter's.
        """
        for known in self.tied(name):
            if known in values:
                own = self.tensor(name)
                if tuple(values[known].shape) != tuple(own.shape):
                    found, expected = tuple(values[known].shape), tuple(own.shape)
                    raise LoaderError("value has the wrong shape", where=known, found=found, expected=expected)
                value = to_torch(values[known])
                return (
                    value if value.stride() == own.stride() else torch.empty_like(own, dtype=value.dtype).copy_(value)
                )
        return None

    @contextmanager
    def swapped(self, replace: Callable[[str], Tensor | None]) -> Iterator[None]:
        """The parameters that ``replace`` gives a tensor for hold that tensor in here; the originals return."""
        originals: list[tuple[nn.Module, str, Tensor]] = []
        try:
            for name, (owner, attribute) in self._slots.items():
                tensor = replace(name)
                if tensor is None:
                    continue
                original = getattr(owner, attribute)
                originals.append((owner, attribute, original))
                is_parameter = isinstance(original, nn.Parameter)
                # torch chooses between matmul kernels by requires_grad, even where no gradient is taken
                grad = original.requires_grad and tensor.is_floating_point()
                setattr(owner, attribute, nn.Parameter(tensor, requires_grad=grad) if is_parameter else tensor)
            yield
        finally:
            for owner, attribute, original in reversed(originals):
                setattr(owner, attribute, original)

    def check(self, values: Mapping[str, Array]) -> None:
        """Raises LoaderError if ``values`` name a parameter that is not there."""
        for name in values:
            self.tensor(name)

    def fresh(self, name: str, values: Mapping[str, Array]) -> Tensor:
        """A new tensor with the value of ``name``, given or its own: floats in float64, strides as the model's."""
        own, value = self.tensor(name), self.given(name, values)
        dtype = torch.float64 if own.is_floating_point() else own.dtype
        return torch.empty_like(own, dtype=dtype).copy_(own if value is None else value)

    def untied(self) -> Callable[[str], Tensor | None]:
        """For ``swapped``: every use of a tied tensor gets its own, so that it can be told which name was used."""
        return lambda name: None if name == self.group(name) else self.tensor(name).clone()

    def replacement(self, values: Mapping[str, Array], promoted: bool) -> Callable[[str], Tensor | None]:
        """For ``swapped``: ``values`` in the model's dtype, or everything in float64."""
        self.check(values)
        made: dict[str, Tensor] = {}

        def replace(name: str) -> Tensor | None:
            own, value = self.tensor(name), self.given(name, values)
            if value is not None:
                return promoted_tensor(value) if promoted and own.is_floating_point() else value.to(own.dtype)
            if not promoted or promoted_tensor(own) is own:
                return None
            return made.setdefault(self.group(name), promoted_tensor(own))

        return replace

    def read(self, name: str) -> Array:
        return to_numpy(self.tensor(name))


@contextmanager
def left_as_found(module: nn.Module) -> Iterator[None]:
    """Whatever a forward pass does to buffers, modes and random state is undone; within, it is in eval mode."""
    modes = [(child, child.training) for child in module.modules()]
    buffers = [(child, dict(child._buffers), set(child._non_persistent_buffers_set)) for child in module.modules()]
    copies = {
        id(tensor): (tensor, tensor.clone()) for _, held, _ in buffers for tensor in held.values() if tensor is not None
    }
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    module.eval()
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            # A model that draws random numbers must not repeat itself, or nobody would notice that it does.
            torch.default_generator.seed()
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
        for child, held, non_persistent in buffers:
            child._buffers.clear()
            child._buffers.update(held)
            child._non_persistent_buffers_set = non_persistent
        for tensor, copy in copies.values():
            if not tensor.is_inference() and not torch.equal(tensor, copy):
                tensor.copy_(copy)
        for child, training in modes:
            child.training = training
