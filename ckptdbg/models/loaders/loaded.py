"""A loaded model: its side, and the names by which mapping files speak of its tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.mapping import Mapping as TensorMapping
from ckptdbg.models.records import Array, Side


@dataclass
class Loaded:
    """One model, whose mapping names are the side's parameter names. Loaders where they differ extend this class."""

    side: Side
    config: dict[str, Any] | None = None
    """The ``config.json`` beside the weights, where there is one: a mapping's variables come from it."""
    specs: dict[str, TensorSpec] = field(default_factory=dict)
    """The names that mapping files use for this model."""
    unused: tuple[str, ...] = ()
    """Names in ``specs`` that the model does not load."""
    write: Callable[[Mapping[str, Array]], Side] | None = None
    """Puts parameter values into the model and returns the side to use from then on."""

    def read(self, name: str) -> Array:
        """The tensor under its mapping name, in its stored dtype."""
        return self.side.read(name)

    def to_parameters(self, read: Callable[[str], Array]) -> dict[str, Array]:
        """Tensors under mapping names to values under the side's parameter names.

        ``read`` may give any float dtype (float64 probes, for instance) and is asked for every name in ``specs``; the
        values come back in that dtype or in float64.
        """
        return {name: read(name) for name in self.specs}

    def named_for(self, mapping: TensorMapping, which: Literal["source", "target"]) -> Loaded:
        """The model under the names that ``mapping`` speaks of, where it has others in memory than on disk. Raises
        MappingError for a mapping that mixes them."""
        return self

    def set(self, values: Mapping[str, Array]) -> None:
        """Write parameter values (side names) into the model.

        Raises LoaderError for an unknown name, another shape, or a parameter without storage (a meta tensor).
        """
        if self.write is None:
            raise NotImplementedError("this model was loaded read-only")
        self.side = self.write(values)
