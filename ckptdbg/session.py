"""A session: one config, two loaded models, and what comparing them gave.

``open_session`` reads the config and nothing else; models are loaded when they are first needed.
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
from ckptdbg.checkpoint.dtypes import as_dtype
from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.compare.comparison import Comparison, SourceSide, Tensors, compare_sides
from ckptdbg.compare.features import pair
from ckptdbg.compare.noise import unit_roundoff
from ckptdbg.compare.runs import Runs, isolate_source, run_source
from ckptdbg.compare.store import StoredSource, write_source
from ckptdbg.compare.views import TargetView, View, view_source, view_target
from ckptdbg.config import Config, load_config
from ckptdbg.diagnose.assemble import About, assemble, environment
from ckptdbg.diagnose.coverage import measure_coverage
from ckptdbg.diagnose.findings import find
from ckptdbg.diagnose.harness import check_inputs, check_repeatable, check_source, without_nan
from ckptdbg.diagnose.regions import find_places
from ckptdbg.diagnose.static import Evidence
from ckptdbg.diagnose.structure import feed_differences, mixed_layouts, shift_differences, shifted_layouts
from ckptdbg.diagnose.tensors import Due, TensorDifference, compare_tensors
from ckptdbg.errors import CkptdbgError, ConfigError, HarnessError
from ckptdbg.golden.comparison import SketchComparison
from ckptdbg.golden.sketch import GROUPS, Sketch
from ckptdbg.golden.store import write_sketch
from ckptdbg.mapping import BoundMapping
from ckptdbg.mapping import Mapping as TensorMapping
from ckptdbg.mapping.layout import Read
from ckptdbg.obtain import obtain_mapping, open_named
from ckptdbg.probe import covering_inputs, make_inputs, other_tokens, sliding_window
from ckptdbg.repair import Diagnosis, diagnose
from ckptdbg.result import Result
from ckptdbg.sketching import compare_with_sketch, measure_with_sketch, read_stored, sketch_of
from ckptdbg.stepping.verbs import Verbs

if TYPE_CHECKING:
    from ckptdbg.models.loaders import Loaded

Array = NDArray[Any]
Progress = Callable[[str], None]


def open_session(config: str | Path | Config, *, source_trace: str | Path | None = None) -> Session:
    """Read a config (a path, or one already read). ``source_trace`` is a folder that ``ckptdbg capture`` wrote, a trace
    or a sketch: the source is then taken from there and not run, and with a sketch its checkpoint may be missing.
    Raises ConfigError, CheckpointError."""
    stored = None if source_trace is None else read_stored(Path(source_trace))
    sketch = isinstance(stored, Sketch)
    config = config if isinstance(config, Config) else load_config(Path(config), needs_source=not sketch)
    return Session(config, stored=stored)


@dataclass
class Session(Verbs):
    """Two models under comparison; the debugger's verbs work on what was recorded."""

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
        return open_checkpoint(self.config.source.path).read

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
    def source_view(self) -> View:
        """The source, walked, its layouts read: kept where the run that follows is interrupted."""
        with self._stage("reading the source's layouts"):
            return view_source(self.source.side, self.source.specs, self.source.to_parameters, self.inputs)

    @cached_property
    def source_side(self) -> SourceSide:
        """The source, walked and run."""
        if isinstance(self.stored, Sketch):
            raise HarnessError(
                "a sketch holds no values of the source, and this takes them",
                expected="a trace that `ckptdbg capture` wrote without --sketch, or the source itself",
            )
        if self.stored is not None:
            return self.stored.side
        side, exact, view = self.source.side, self.source_exact, self.source_view
        with self._stage("running the source"):
            if not self.repeats:
                check_repeatable(side, self.inputs, "source")
            source = SourceSide(view, run_source(side, self.inputs, exact))
        check_source(source, exact)
        return source

    @cached_property
    def target_view(self) -> TargetView:
        """The target, walked, its layouts read through the mapping."""
        with self._stage("reading the target's layouts"):
            target = self.target
            return view_target(
                target.side, target.specs, target.to_parameters, self.inputs, self.mapping, self.source_specs
            )

    @cached_property
    def made(self) -> dict[str, Array]:
        """What the mapping makes of the source: target tensors in float64, not rounded to any stored dtype. Nothing
        where the source's tensors are not here."""
        if not self.has_source_tensors:
            return {}

        def exact(name: str) -> Array:
            return without_nan(name, self.read_source(name))

        return {n: v for n, v, _ in self.mapping.values(exact, cast=False, dtype=np.float64)}

    @cached_property
    def differences(self) -> list[TensorDifference]:
        """Target tensors that are not what the mapping makes of the source."""
        with self._stage("comparing tensors"):
            due = Due(self.mapping, self.made, self.stored_dtypes(), self.sizes)
            return compare_tensors(due, self.target.read)

    @cached_property
    def evidence(self) -> Evidence:
        """What can be found before anything runs."""
        source = self.source_side.view if self.stored is None else self.stored.view
        target = self.target_view
        pairing = pair(source.graph.anchors, source.anchors, target.graph.anchors, target.anchors)
        return Evidence(
            self.differences,
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
        sides = {"target": self.target.side} if self.stored is not None else {"source": self.source.side}
        check_inputs(self.inputs, {**sides, "target": self.target.side})
        with self._stage("running the target"):
            if not self.repeats:
                check_repeatable(self.target.side, self.inputs, "target")
            again = None if self.stored is not None else self._isolate_source
            return compare_sides(source, target, self.target.side, self.inputs, self.tensors(), self.progress, again)

    def _isolate_source(self, ins: frozenset[int], outs: frozenset[int]) -> Runs:
        runs = self.source_side.runs
        return isolate_source(self.source.side, self.inputs, self.source_exact, runs.free, ins, outs, runs.padded)

    @cached_property
    def sketch_comparison(self) -> SketchComparison:
        """Everything measured against the sketch that this session was opened with. Raises HarnessError."""
        assert isinstance(self.stored, Sketch), "`comparison` is what a session without a sketch has"
        with self._stage("running the target"):
            return measure_with_sketch(self, self.stored)

    def capture(self, path: str | Path, *, sketch: bool = False, groups: int = GROUPS) -> Path:
        """Run the source here and write everything a comparison needs of it, for ``open_session(source_trace=...)``;
        with ``sketch`` random projections in place of values, small enough for git (docs/golden.md), of so many
        ``groups`` of token rows at most. Raises CheckpointError where something else is in the way."""
        if sketch:
            return write_sketch(Path(path), sketch_of(self, groups))
        write_source(Path(path), StoredSource(self.source_side, self.inputs, self.model_config))
        return Path(path)

    @cached_property
    def diagnosis(self) -> Diagnosis:
        """Causes, found by trying corrections and running the whole model again."""
        comparison = self.comparison
        with self._stage("looking for causes"):
            return diagnose(self) if self._worth_mending(comparison) else Diagnosis.of(self)

    def _worth_mending(self, comparison: Comparison) -> bool:
        return comparison.output.free.divergent or bool(find_places(comparison)) or bool(self.evidence.tensors)

    def compare(self, progress: Progress | None = None, *, repair: bool = True) -> Result:
        """Compare the two models. Raises CkptdbgError on bad input; a divergence is a Result, not an error.

        With ``repair`` corrections are tried and the whole model is run again (``findings[].repair``,
        ``session.diagnosis.mapping``); without it the findings say where, and why only where that is plain.
        """
        if progress is not None:
            self.progress = progress
        started = time.perf_counter()
        if isinstance(self.stored, Sketch):
            return compare_with_sketch(self, self.stored)
        comparison = self.comparison
        findings = self.diagnosis.findings if repair else find(comparison, self.evidence, self.mapping)
        self.timings["total"] = time.perf_counter() - started
        omitted = {"target": _omitted(self.target), "source": () if self.stored else _omitted(self.source)}
        return assemble(comparison, findings, self.mapping, omitted, self.about())

    def with_coverage(self, result: Result) -> Result:
        """``result`` of this comparison with ``coverage`` measured: how small a change of each parameter this probe
        would have shown, and what it cannot see."""
        with self._stage("measuring coverage"):
            window, cover = sliding_window(self.model_config), self.config.probe.tokens == "cover"
            found = measure_coverage(self.comparison, self.mapping, result.coverage, window, cover, self.progress)
        return result.model_copy(update={"coverage": found})

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Whole numbers above 1 that mapping and config name: what the sizes in a repair may be."""
        return self.unbound_mapping.sizes(self.model_config)

    @cached_property
    def unused_sources(self) -> dict[str, tuple[int, ...]]:
        """Source tensors that no entry uses, with their shapes."""
        used = self.mapping.entries_of_source
        return {n: spec.shape for n, spec in self.source_specs.items() if n not in used}

    def repaired(self, mapping: TensorMapping, patches: dict[str, Array], *, seed: int | None = None) -> Session:
        """This session with another mapping and some target tensors replaced, on other tokens where a seed is given.

        The models are shared and left as they are; nothing is loaded or compiled anew, and no layout is read twice.
        """
        from ckptdbg.models.loaders.patched import patched

        other = Session(
            self.config, None if seed is not None else self.stored, self.timings, self.progress, repeats=True
        )
        target = patched(self.target, patches) if patches else self.target
        shared = {"unbound_mapping": mapping, "target": target, "read_source": self.read_source}
        if self.stored is None:
            shared |= {"source": self.source, "source_exact": self.source_exact}
        if seed is None:
            shared |= {"inputs": self.inputs, "source_side": self.source_side}
        else:
            shared["inputs"] = other_tokens(self.config.probe, self.model_config, self.inputs, seed)
            shared["source_view"] = self.source_side.view
        if mapping is self.unbound_mapping and not patches:
            shared |= {"mapping": self.mapping, "target_view": self.target_view, "made": self.made}
            shared["differences"] = self.differences
        vars(other).update(shared)
        return other

    def tensors(self) -> Tensors:
        """Where a comparison takes parameter values from."""
        wrong = {d.tensor for d in self.evidence.tensors}

        def exact(name: str) -> Array:
            own = name in wrong or name not in self.made
            return np.asarray(self.target.read(name), np.float64) if own else self.made[name]

        by_function = [(e.targets[0], e.opaque.dtype) for e in self.mapping.entries if e.opaque is not None]
        rounded = {name: 2 * unit_roundoff(as_dtype(dtype)) for name, dtype in by_function}
        return Tensors(self.read_source, exact, self.target.to_parameters, rounded)

    def stored_dtypes(self) -> dict[str, str]:
        """Of every target tensor, the dtype on disk where the path is a checkpoint we can read, else the model's."""
        dtypes = {name: spec.dtype for name, spec in self.target.specs.items()}
        if self.config.target.path is not None:
            with suppress(CkptdbgError):  # a loader may read formats of its own
                on_disk = open_checkpoint(self.config.target.path).specs
                dtypes |= {name: on_disk[name].dtype for name in dtypes if name in on_disk}
        return dtypes

    def about(self) -> About:
        """The circumstances, for the record."""
        return About(
            probe={
                **self.config.probe.model_dump(mode="json"),
                "shape": list(np.shape(next(iter(self.inputs.values())))),
            },
            environment=environment(),
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


def _no_tensors(name: str) -> Array:
    raise ConfigError("a source trace needs the source's checkpoint as well", hint="set source: {path: ...}")


def _omitted(loaded: Loaded) -> tuple[str, ...]:
    return tuple(getattr(loaded.side, "omitted_inputs", ()))
