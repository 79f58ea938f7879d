"""The two sides of a comparison: models, mapping and probe, as a config names them.

Each is loaded when it is first needed, and stays.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ckptdbg.checkpoint import open_checkpoint
from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.compare.store import StoredSource
from ckptdbg.config import Config
from ckptdbg.diagnose.harness import without_nan
from ckptdbg.errors import CkptdbgError, ConfigError
from ckptdbg.golden.sketch import Sketch
from ckptdbg.mapping import BoundMapping
from ckptdbg.mapping import Mapping as TensorMapping
from ckptdbg.mapping.layout import Read
from ckptdbg.obtain import obtain_mapping, open_named
from ckptdbg.probe import covering_inputs, make_inputs

if TYPE_CHECKING:
    from ckptdbg.models.loaders import Loaded

Array = NDArray[Any]
Progress = Callable[[str], None]


@dataclass
class Sides:
    """Source and target with what belongs to them; nothing here is compared."""

    config: Config
    stored: StoredSource | Sketch | None = None
    """The source as it ran elsewhere, or a sketch of it, where it is not run here."""
    timings: dict[str, float] = field(default_factory=dict)
    """Seconds of each stage."""
    progress: Progress = lambda _: None
    """Called with the name of each stage as it begins."""
    repeats: bool = False
    """Whether each model is known to give the same output on the same input every time."""

    @cached_property
    def source(self) -> Loaded:
        """The trusted model. Raises LoaderError, CheckpointError."""
        with self._stage("loading the source"):
            return self._named(_load(self.config, "source"), "source")

    @cached_property
    def empty_target(self) -> Loaded:
        """The model under suspicion as its loader makes it: without a path of its own, its tensors hold nothing yet."""
        with self._stage("loading the target"):
            return self._named(_load(self.config, "target"), "target")

    def _named(self, loaded: Loaded, which: Literal["source", "target"]) -> Loaded:
        """A mapping file may speak of names in memory; a conversion is given those on disk."""
        path = self.config.mapping
        return loaded.named_for(TensorMapping.load(path), which) if isinstance(path, Path) else loaded

    @cached_property
    def target(self) -> Loaded:
        """The model under suspicion; without a path of its own, filled from the source through the mapping."""
        loaded = self.empty_target
        if self.config.target.path is None:
            bound = self._bind(loaded)
            made = {n: v for n, v, _ in bound.values(self.read_source)}
            loaded.set(loaded.to_parameters(lambda name: made[name]))
        return loaded

    @cached_property
    def mapping(self) -> BoundMapping:
        """The mapping, bound to both models' tensors. Raises MappingError."""
        return self._bind(self.target)

    def _bind(self, target: Loaded) -> BoundMapping:
        return self.unbound_mapping.bind(self.model_config, self.source_specs, target.specs)

    @cached_property
    def unbound_mapping(self) -> TensorMapping:
        """As its file says, a conversion function does it, or both checkpoints tell. Raises ConfigError, MappingError,
        LoaderError."""
        with self._stage("reading the mapping"):
            return obtain_mapping(
                self.config, self.source_specs, self.read_source, self.model_config, lambda: self.empty_target
            )

    @property
    def source_specs(self) -> dict[str, TensorSpec]:
        """The source's tensors, as mapping files name them."""
        return self.source.specs if self.stored is None else self.stored.view.specs

    @cached_property
    def read_source(self) -> Read:
        """Reads a source tensor by name: from its checkpoint alone where the source ran elsewhere."""
        if self.stored is None:
            return self.source.read
        if self.config.source.path is None:
            return _no_tensors
        path = self.config.mapping
        if isinstance(path, Path):
            return open_named(self.config, "source", TensorMapping.load(path)).read
        return open_checkpoint(self.config.source.path, self.config.source.under).read

    @property
    def has_source_tensors(self) -> bool:
        """Whether the source's tensors can be read: a sketch does without."""
        return not isinstance(self.stored, Sketch) or self.config.source.path is not None

    @property
    def model_config(self) -> dict[str, Any]:
        """The source's ``config.json``, else the target's. Mapping variables and the vocabulary come from it."""
        if self.stored is not None:
            return self.stored.config
        if self.source.config:
            return self.source.config
        target = vars(self).get("target") or self.empty_target  # filling it takes the config
        return target.config or {}

    @cached_property
    def inputs(self) -> dict[str, Array]:
        """The probe: arrays under Hugging Face names."""
        if self.stored is not None:
            return self.stored.inputs
        if self.config.probe.tokens == "cover":
            return covering_inputs(self.config.probe, self.model_config, self._unrouted)
        return make_inputs(self.config.probe, self.model_config)

    def _unrouted(self, inputs: dict[str, Array]) -> int:
        """How many options of the source's choices (experts of its routers) no token takes."""
        graph, made = self.source.side.graph(inputs).choices, self.source.side.run(inputs).choices
        return sum(choice.options - len(np.unique(taken.indices)) for choice, taken in zip(graph, made, strict=True))

    @cached_property
    def source_exact(self) -> dict[str, Array]:
        """The source's parameters in float64, as stored on disk, before any cast to the working precision."""
        return self.source.to_parameters(lambda name: without_nan(name, self.source.read(name)))

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Whole numbers above 1 that mapping and config name: what the sizes in a repair may be."""
        return self.unbound_mapping.sizes(self.model_config)

    @cached_property
    def unused_sources(self) -> dict[str, tuple[int, ...]]:
        """Source tensors that no entry uses, with their shapes."""
        used = self.mapping.entries_of_source
        return {n: spec.shape for n, spec in self.source_specs.items() if n not in used}

    def stored_dtypes(self) -> dict[str, str]:
        """Of every target tensor, the dtype on disk where the path is a checkpoint we can read, else the model's."""
        dtypes = {name: spec.dtype for name, spec in self.target.specs.items()}
        side = self.config.target
        if side.path is not None:
            with suppress(CkptdbgError):  # a loader may read formats of its own
                on_disk = open_checkpoint(side.path, side.under).specs
                dtypes |= {name: on_disk[name].dtype for name in dtypes if name in on_disk}
        return dtypes

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        self.progress(name)
        started = time.perf_counter()
        yield
        self.timings[name] = self.timings.get(name, 0.0) + time.perf_counter() - started


def _load(config: Config, which: str) -> Loaded:
    from ckptdbg.models.loaders import load_model

    side = getattr(config, which)
    return load_model(
        side.loader,
        side.path,
        options=side.options,
        inputs=side.inputs,
        output=side.output,
        base=config.file.parent,
        precision=config.precision,
    )


def _no_tensors(name: str) -> Array:
    raise ConfigError("a source trace needs the source's checkpoint as well", hint="set source: {path: ...}")
