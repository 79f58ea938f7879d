"""A loaded model some of whose tensors have other values; the model itself is left as it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from ckptdbg.models.loaders.loaded import Loaded
from ckptdbg.models.records import Array, Side, Statistics, Trace


def patched(loaded: Loaded, patches: Mapping[str, Array]) -> Loaded:
    """``loaded`` with ``patches`` (mapping names) in place of its own tensors."""
    return Patched(loaded, patches)


class Patched(Loaded):
    """Reads patches where there are some, and runs with them."""

    def __init__(self, loaded: Loaded, patches: Mapping[str, Array]) -> None:
        self._loaded, self._patches = loaded, dict(patches)
        side = PatchedSide(loaded.side, loaded.to_parameters(self.read))
        super().__init__(side=side, config=loaded.config, specs=loaded.specs, unused=loaded.unused)

    def read(self, name: str) -> Array:
        return self._patches[name] if name in self._patches else self._loaded.read(name)

    def to_parameters(self, read: Callable[[str], Array]) -> dict[str, Array]:
        return self._loaded.to_parameters(read)


class PatchedSide:
    """A side some of whose parameters have other values. The model itself is not touched."""

    framework: Literal["torch", "jax"]

    def __init__(self, side: Side, values: Mapping[str, Array]) -> None:
        self._side, self._values = side, dict(values)
        self.framework = side.framework
        self.parameters, self.graph, self.operands = side.parameters, side.graph, side.operands
        self.knobs = getattr(side, "knobs", None)

    @property
    def omitted_inputs(self) -> tuple[str, ...]:
        return tuple(getattr(self._side, "omitted_inputs", ()))

    def read(self, name: str) -> Array:
        return self._values[name] if name in self._values else self._side.read(name)

    def run(self, inputs: Mapping[str, Array], *, values: Mapping[str, Array] | None = None, **options: Any) -> Trace:
        return self._side.run(inputs, values={**self._values, **(values or {})}, **options)

    def statistics(self, inputs: Mapping[str, Array], *, values: Mapping[str, Array] | None = None) -> Statistics:
        return self._side.statistics(inputs, values={**self._values, **(values or {})})
