"""A torch module whose ``state_dict()`` has other names or shapes than its parameters: hooks split a fused one, say.

Mappings speak of the names in the state dict, which are those on disk. How they relate to the parameters is never
restated here: tensors are sent through the module's own ``load_state_dict``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.errors import LoaderError
from ckptdbg.models.loaders.loaded import Loaded
from ckptdbg.models.loaders.write import parameter_writer
from ckptdbg.models.records import Array
from ckptdbg.models.torch_side import TorchSide
from ckptdbg.models.torch_side.border import dtype_name, to_numpy, to_torch
from ckptdbg.models.torch_side.params import Parameters


@dataclass
class StateDict(Loaded):
    """Mapping names are the keys of ``state_dict()``; the side's names are those of the parameters."""

    module: Any = None

    def read(self, name: str) -> Array:
        return to_numpy(self.module.state_dict()[name])

    def to_parameters(self, read: Callable[[str], Array]) -> dict[str, Array]:
        """Through ``load_state_dict``, in float64, into parameters that stand in for the module's own meanwhile.

        Raises LoaderError for a tensor that ``load_state_dict`` does not take back.
        """
        state = {name: to_torch(_wide(read(name))) for name in self.specs}
        parameters = Parameters(self.module)
        with parameters.swapped(lambda name: parameters.fresh(name, {})):
            unexpected = self.module.load_state_dict(state, strict=False).unexpected_keys
            if unexpected:
                raise LoaderError(
                    f"{unexpected[0]} was not updated by load_state_dict",
                    where=type(self.module).__name__,
                    hint="a hook renames it in state_dict(): register one that undoes this when loading",
                )
            return {name: parameters.read(name) for name in parameters}


def wrap_hooked(module: nn.Module, side: TorchSide) -> Loaded | None:
    """The module under the names of its state dict; None where these are those of its parameters."""
    state = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    specs = {name: TensorSpec(tuple(value.shape), dtype_name(value.dtype)) for name, value in state.items()}
    if specs == side.parameters():
        return None
    return StateDict(side=side, specs=specs, write=parameter_writer(module, side), module=module)


def _wide(value: Array) -> Array:
    value = np.asarray(value)
    return value if value.dtype.kind in "iub" else value.astype(np.float64)  # bfloat16 and float8 have kind V
