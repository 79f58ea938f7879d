"""What a user's loader may return, and the side that walks it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from ckptdbg.errors import LoaderError
from ckptdbg.models.jax_model import JaxModel
from ckptdbg.models.loaders.call import defined_at
from ckptdbg.models.loaders.loaded import Loaded

ACCEPTED = "a torch.nn.Module, a flax nnx.Module, a pair (flax linen module, variables) or ckptdbg.JaxModel"


def wrap_result(
    model: Any,
    function: Callable[..., Any],
    loader: str,
    *,
    inputs: Mapping[str, str],
    output: str | int | None,
) -> Loaded:
    """The loaded model around what the loader returned, in evaluation mode. Raises LoaderError for anything else."""
    loaded = wrap(model, inputs=inputs, output=output)
    if loaded is None:
        raise LoaderError(
            f"the loader {loader} returned something that cannot be walked",
            where=defined_at(function),
            found=_describe(model),
            expected=ACCEPTED,
        )
    return loaded


def wrap_model(model: Any) -> Loaded:
    """A model that the caller already has, in evaluation mode. Raises LoaderError for what cannot be walked."""
    loaded = wrap(model, inputs={}, output=None)
    if loaded is None:
        raise LoaderError("not a model that can be walked", found=_describe(model), expected=ACCEPTED)
    return loaded


def wrap(model: Any, *, inputs: Mapping[str, str], output: str | int | None) -> Loaded | None:
    """The loaded model in evaluation mode; None for anything else."""
    if _is(model, "torch.nn", "Module"):
        from ckptdbg.models.loaders.state_dict import wrap_hooked
        from ckptdbg.models.loaders.write import torch_writer
        from ckptdbg.models.torch_side import TorchSide

        model.eval()
        side = TorchSide(model, output=output, rename_inputs=dict(inputs))
        hooked = wrap_hooked(model, side)
        return hooked or Loaded(side=side, specs=side.parameters(), write=torch_writer(model, side))
    if _is_jax(model):
        from ckptdbg.models.jax_side import JaxSide
        from ckptdbg.models.loaders.write import jax_writer

        if hasattr(model, "eval"):
            model.eval()

        def make_side(model: Any) -> JaxSide:
            return JaxSide(model, output=output, rename_inputs=dict(inputs))

        side = make_side(model)
        return Loaded(side=side, specs=side.parameters(), write=jax_writer(model, side, make_side))
    return None


def _is_jax(model: Any) -> bool:
    if isinstance(model, JaxModel) or _is(model, "flax.nnx", "Module"):
        return True
    return isinstance(model, tuple) and len(model) == 2 and _is(model[0], "flax.linen", "Module")


def _is(value: object, module: str, name: str) -> bool:
    """isinstance, without importing a framework that the value cannot come from if nobody imported it."""
    kind = getattr(sys.modules.get(module), name, None)
    return kind is not None and isinstance(value, kind)


def _describe(value: object) -> str:
    if isinstance(value, tuple):
        return f"a tuple ({', '.join(_describe(part) for part in value)})"
    if value is None:
        return "None (a return is missing?)"
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
