"""Write parameter values into a model that was made without a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ckptdbg.errors import LoaderError
from ckptdbg.models.jax_model import JaxModel
from ckptdbg.models.records import Array, Side

Writer = Callable[[Mapping[str, Array]], Side]


def torch_writer(module: Any, side: Side) -> Writer:
    """Writes with ``load_state_dict`` and reads back: a value written into a meta tensor, or into the copy that a
    state-dict hook hands out, changes nothing and raises no error by itself.
    """

    def write(values: Mapping[str, Array]) -> Side:
        import torch

        state = module.state_dict()
        _check(values, {name: tuple(tensor.shape) for name, tensor in state.items()})
        for name in values:
            if state[name].is_meta:
                raise LoaderError(
                    f"{name} is a meta tensor: it has no storage to write to",
                    hint="build the model on a real device in the loader, as with module.to_empty(device='cpu')",
                )
        tensors = {name: _tensor(torch, values[name]).to(state[name].dtype) for name in values}
        module.load_state_dict(tensors, strict=False)
        written = module.state_dict()
        for name, tensor in tensors.items():
            if not torch.equal(written[name].cpu().nan_to_num(), tensor.nan_to_num()):
                raise LoaderError(
                    f"{name} was not updated by load_state_dict",
                    hint="it is tied to another parameter that was given another value, or the module renames it",
                )
        return side

    return write


def parameter_writer(module: Any, side: Side) -> Writer:
    """Writes into the parameters themselves, for a module whose state dict names other tensors, and reads back."""

    def write(values: Mapping[str, Array]) -> Side:
        import torch

        from ckptdbg.models.torch_side.params import Parameters

        parameters = Parameters(module)
        _check(values, {name: tuple(parameters.tensor(name).shape) for name in parameters})
        tensors = {name: _tensor(torch, value).to(parameters.tensor(name).dtype) for name, value in values.items()}
        for name, tensor in tensors.items():
            parameters.tensor(name).copy_(tensor)
        for name, tensor in tensors.items():
            if not torch.equal(parameters.tensor(name).cpu().nan_to_num(), tensor.nan_to_num()):
                raise LoaderError(f"{name} is tied to another parameter that was given another value")
        return side

    return write


def jax_writer(model: Any, side: Any, make_side: Callable[[Any], Side]) -> Writer:
    """JAX arrays do not change: a model with the new values is put together, and ``make_side`` called with it."""

    def write(values: Mapping[str, Array]) -> Side:
        specs = side.parameters()
        _check(values, {name: spec.shape for name, spec in specs.items()})
        return make_side(_with_leaves(model, list(specs), values))

    return write


def _with_leaves(model: Any, names: list[str], values: Mapping[str, Array]) -> Any:
    """The model with ``values`` in its leaves; ``names`` are those of all leaves, in the order of the tree."""
    import jax
    import jax.numpy as jnp

    def replaced(tree: Any) -> Any:
        leaves, structure = jax.tree.flatten(tree)
        new = [
            jnp.asarray(values[name], leaf.dtype) if name in values else leaf
            for name, leaf in zip(names, leaves, strict=True)
        ]
        return jax.tree.unflatten(structure, new)

    if isinstance(model, JaxModel):
        return JaxModel(model.apply, replaced(model.params))
    if isinstance(model, tuple):
        return model[0], replaced(model[1])
    from flax import nnx

    graph, passing, state = nnx.split(model, (nnx.RngState, nnx.Cache, nnx.Intermediate), ...)
    return nnx.merge(graph, passing, replaced(state))


def _check(values: Mapping[str, Array], shapes: Mapping[str, tuple[int, ...]]) -> None:
    for name, value in values.items():
        if name not in shapes:
            raise LoaderError(f"the model has no parameter {name!r}", expected=", ".join(sorted(shapes)[:5]) + ", ...")
        if np.shape(value) != tuple(shapes[name]):
            raise LoaderError(
                f"{name} cannot be written", found=f"shape {np.shape(value)}", expected=f"shape {tuple(shapes[name])}"
            )


def _tensor(torch: Any, value: Array) -> Any:
    value = np.asarray(value)
    if value.dtype.kind not in "iubf":  # NumPy's own dtypes only: bfloat16 and float8 go by way of float32, exactly
        value = value.astype(np.float32)
    return torch.from_numpy(np.array(value, order="C"))
