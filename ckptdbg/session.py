"""A session: one config, two loaded models, and what comparing them gave.

``open_session`` reads the config and nothing else; models are loaded when they are first needed.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.checkpoint import open_checkpoint
from ckptdbg.compare.comparison import Comparison, SourceSide, compare_sides
from ckptdbg.compare.features import pair
from ckptdbg.compare.runs import run_source
from ckptdbg.compare.views import TargetView, view_source, view_target
from ckptdbg.config import Config, load_config
from ckptdbg.diagnose.assemble import About, assemble
from ckptdbg.diagnose.findings import Evidence, find
from ckptdbg.diagnose.harness import check_inputs, check_repeatable
from ckptdbg.diagnose.structure import feed_differences, mixed_layouts, shift_differences, shifted_layouts
from ckptdbg.diagnose.tensors import compare_tensors
from ckptdbg.errors import CkptdbgError, ConfigError
from ckptdbg.mapping import BoundMapping
from ckptdbg.mapping import Mapping as TensorMapping
from ckptdbg.probe import make_inputs
from ckptdbg.result import Result

if TYPE_CHECKING:
    from ckptdbg.models.loaders import Loaded

Array = NDArray[np.generic]
Progress = Callable[[str], None]


def open_session(config: str | Path | Config) -> Session:
    """Read a config (a path, or one already read). Raises ConfigError."""
    return Session(config if isinstance(config, Config) else load_config(Path(config)))


@dataclass
class Session:
    """Two models under comparison."""

    config: Config
    timings: dict[str, float] = field(default_factory=dict)
    """Seconds of each stage."""
    progress: Progress = lambda _: None
    """Called with the name of each stage as it begins."""

    @cached_property
    def source(self) -> Loaded:
        """The trusted model. Raises LoaderError, CheckpointError."""
        with self._stage("loading the source"):
            return _load(self.config, "source")

    @cached_property
    def target(self) -> Loaded:
        """The model under suspicion; without a path of its own, filled from the source through the mapping."""
        with self._stage("loading the target"):
            loaded = _load(self.config, "target")
        if self.config.target.path is None:
            bound = self._bind(loaded)
            made = {n: v for n, v, _ in bound.values(self.source.read)}
            loaded.set(loaded.to_parameters(lambda name: made[name]))
        return loaded

    @cached_property
    def mapping(self) -> BoundMapping:
        """The mapping, bound to both models' tensors. Raises MappingError."""
        return self._bind(self.target)

    def _bind(self, target: Loaded) -> BoundMapping:
        if not isinstance(self.config.mapping, Path):
            raise ConfigError(
                "this kind of mapping cannot be read yet",
                where=str(self.config.file),
                found=self.config.mapping,
                expected="the path of a mapping file",
            )
        unbound = TensorMapping.load(self.config.mapping)
        return unbound.bind(self.model_config, self.source.specs, target.specs)

    @property
    def model_config(self) -> dict[str, Any]:
        """The source's ``config.json``; the target's where the source has none. Mapping variables and vocabulary come from it."""
        return self.source.config or self.target.config or {}

    @cached_property
    def inputs(self) -> dict[str, Array]:
        """The probe: arrays under Hugging Face names."""
        return make_inputs(self.config.probe, self.model_config)

    @cached_property
    def source_exact(self) -> dict[str, Array]:
        """The source's parameters in float64, as stored on disk, before any cast to the working precision."""
        return self.source.to_parameters(lambda name: np.asarray(self.source.read(name), np.float64))

    @cached_property
    def source_side(self) -> SourceSide:
        """The source, walked and run."""
        side = self.source.side
        with self._stage("reading the source's layouts"):
            view = view_source(side, self.source.specs, self.source.to_parameters, self.inputs)
        with self._stage("running the source"):
            check_repeatable(side, self.inputs, "source")
            return SourceSide(view, run_source(side, self.inputs, self.source_exact))

    @cached_property
    def target_view(self) -> TargetView:
        """The target, walked, its layouts read through the mapping."""
        with self._stage("reading the target's layouts"):
            target = self.target
            return view_target(
                target.side, target.specs, target.to_parameters, self.inputs, self.mapping, self.source.specs
            )

    @cached_property
    def made(self) -> dict[str, Array]:
        """What the mapping makes of the source: target tensors in float64, not rounded to any stored dtype."""

        def exact(name: str) -> Array:
            return np.asarray(self.source.read(name), np.float64)

        return {n: v for n, v, _ in self.mapping.values(exact, cast=False, dtype=np.float64)}

    @cached_property
    def evidence(self) -> Evidence:
        """What can be found before anything runs."""
        source, target = self.source_side.view, self.target_view
        pairing = pair(source.graph.anchors, source.anchors, target.graph.anchors, target.anchors)
        with self._stage("comparing tensors"):
            tensors = compare_tensors(self.made.items(), self.target.read, self._stored_dtypes())
        return Evidence(
            tensors,
            feed_differences(
                source.graph,
                source.anchors,
                source.meetings,
                target.graph,
                target.anchors,
                target.meetings,
                pairing,
            ),
            shift_differences(source.meetings, target.meetings),
            mixed_layouts(target.anchors),
            shifted_layouts(target.anchors),
        )

    @cached_property
    def comparison(self) -> Comparison:
        """Everything measured. Raises HarnessError where the two runs cannot be compared."""
        source = self.source_side
        target = self.target_view
        check_inputs(self.inputs, {"source": self.source.side, "target": self.target.side})
        with self._stage("running the target"):
            check_repeatable(self.target.side, self.inputs, "target")
            return compare_sides(
                source, target, self.target.side, self.inputs, self._promoted_parameters(), self.progress
            )

    def compare(self, progress: Progress | None = None) -> Result:
        """Compare the two models. Raises CkptdbgError on bad input; a divergence is a Result, not an error."""
        if progress is not None:
            self.progress = progress
        started = time.perf_counter()
        comparison = self.comparison
        with self._stage("looking for causes"):
            findings = find(comparison, self.evidence, self.mapping)
        self.timings["total"] = time.perf_counter() - started
        omitted = {"source": _omitted(self.source), "target": _omitted(self.target)}
        return assemble(comparison, findings, self.mapping, omitted, self._about())

    def _promoted_parameters(self) -> dict[str, Array]:
        """The target's parameters for its float64 runs: exact where its tensors are as mapped, its own where they are not."""
        wrong = {d.tensor for d in self.evidence.tensors}

        def exact(name: str) -> Array:
            own = name in wrong or name not in self.made
            return np.asarray(self.target.read(name), np.float64) if own else self.made[name]

        return self.target.to_parameters(exact)

    def _stored_dtypes(self) -> dict[str, str]:
        """Of every target tensor, the dtype on disk where the path is a checkpoint we can read, else the model's."""
        dtypes = {name: spec.dtype for name, spec in self.target.specs.items()}
        if self.config.target.path is not None:
            with suppress(CkptdbgError):  # a loader may read formats of its own
                on_disk = open_checkpoint(self.config.target.path).specs
                dtypes |= {name: on_disk[name].dtype for name in dtypes if name in on_disk}
        return dtypes

    def _about(self) -> About:
        return About(
            probe={**self.config.probe.model_dump(mode="json"), "shape": list(self.inputs["input_ids"].shape)},
            environment=_environment(),
            timings={k: round(v, 3) for k, v in self.timings.items()},
        )

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


def _omitted(loaded: Loaded) -> tuple[str, ...]:
    return tuple(getattr(loaded.side, "omitted_inputs", ()))


def _environment() -> dict[str, Any]:
    names = ("ckptdbg", "numpy", "torch", "jax", "flax", "transformers")
    versions = {}
    for name in names:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {"python": platform.python_version(), "platform": platform.platform(terse=True), **versions}
