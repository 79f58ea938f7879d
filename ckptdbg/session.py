"""A session: one config, two loaded models, and what comparing them gave.

``open_session`` reads the config and nothing else; models are loaded when they are first needed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.checkpoint.dtypes import as_dtype
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
from ckptdbg.errors import HarnessError
from ckptdbg.golden.comparison import SketchComparison
from ckptdbg.golden.sketch import GROUPS, Sketch
from ckptdbg.golden.store import write_sketch
from ckptdbg.mapping import Mapping as TensorMapping
from ckptdbg.probe import other_tokens, sliding_window
from ckptdbg.repair import Diagnosis, diagnose
from ckptdbg.result import Result
from ckptdbg.sides import Progress, Sides
from ckptdbg.sketching import compare_with_sketch, measure_with_sketch, read_stored, sketch_of
from ckptdbg.stepping.verbs import Verbs

if TYPE_CHECKING:
    from ckptdbg.models.loaders import Loaded

Array = NDArray[Any]


def open_session(config: str | Path | Config, *, source_trace: str | Path | None = None) -> Session:
    """Read a config (a path, or one already read). ``source_trace`` is a folder that ``ckptdbg capture`` wrote, a trace
    or a sketch: the source is then taken from there and not run, and with a sketch its checkpoint may be missing.
    Raises ConfigError, CheckpointError."""
    stored = None if source_trace is None else read_stored(Path(source_trace))
    sketch = isinstance(stored, Sketch)
    config = config if isinstance(config, Config) else load_config(Path(config), needs_source=not sketch)
    return Session(config, stored=stored)


@dataclass
class Session(Sides, Verbs):
    """Two models under comparison; the debugger's verbs work on what was recorded."""

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

    def repaired(
        self,
        mapping: TensorMapping,
        patches: dict[str, Array],
        *,
        seed: int | None = None,
        source_anew: bool = False,
    ) -> Session:
        """This session with another mapping and some target tensors replaced, on other tokens where a seed is given;
        ``source_anew`` where the source was given other settings since.

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
            shared["inputs"] = self.inputs
        else:
            shared["inputs"] = other_tokens(self.config.probe, self.model_config, self.inputs, seed)
        if seed is None and not source_anew:
            shared["source_side"] = self.source_side
        elif seed is None or self.source.side.graph(shared["inputs"]) == self.source_side.view.graph:
            shared["source_view"] = self.source_side.view
        if mapping is self.unbound_mapping and not patches:
            shared |= {"mapping": self.mapping, "made": self.made, "differences": self.differences}
            if seed is None or target.side.graph(shared["inputs"]) == self.target_view.graph:
                shared["target_view"] = self.target_view
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


def _omitted(loaded: Loaded) -> tuple[str, ...]:
    return tuple(getattr(loaded.side, "omitted_inputs", ()))
