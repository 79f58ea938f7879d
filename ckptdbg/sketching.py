"""A session and a sketch: making one of its source, and comparing its target with one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.checkpoint import TensorSpec, open_checkpoint
from ckptdbg.compare.store import StoredSource, read_source
from ckptdbg.diagnose.assemble import environment
from ckptdbg.diagnose.elements import roundoff
from ckptdbg.diagnose.harness import check_inputs, check_repeatable
from ckptdbg.diagnose.tensors import Due
from ckptdbg.errors import CheckpointError, HarnessError
from ckptdbg.golden.comparison import SketchComparison, compare_sketch
from ckptdbg.golden.findings import find_with_sketch
from ckptdbg.golden.result import assemble_sketch
from ckptdbg.golden.sketch import GROUPS, Sketch, make_sketch
from ckptdbg.golden.store import is_sketch, read_sketch
from ckptdbg.golden.tensors import Checked, check_tensors
from ckptdbg.probe import make_inputs
from ckptdbg.result import NotCompared, Result

if TYPE_CHECKING:
    from ckptdbg.session import Session

Array = NDArray[Any]
_MOVED = 29
"""The seed of weights moved by rounding."""


def read_stored(path: Path) -> StoredSource | Sketch:
    """What ``ckptdbg capture`` wrote, of either kind. Raises CheckpointError."""
    return read_sketch(path) if is_sketch(path) else read_source(path)


def sketch_of(session: Session, groups: int = GROUPS) -> Sketch:
    """The sketch of a session's source, which is run here; ``groups`` as ``make_sketch`` takes them."""
    source = session.source
    tensors = ((name, session.read_source(name)) for name in source.specs)
    return make_sketch(session.source_side, session.inputs, session.model_config, tensors, environment(), groups)


def check_sketch(session: Session, sketch: Sketch) -> None:
    """Raise CheckpointError where the source's checkpoint is of another model than the sketch, and HarnessError where
    the config names another probe."""
    config = session.config
    if config.source.path is not None and config.source.loader == "huggingface":
        _check_specs(sketch.view.specs, open_checkpoint(config.source.path).specs, str(config.source.path))
    if config.probe.tokens == "cover":
        return  # made with the source's help
    asked = make_inputs(config.probe, sketch.config)
    name = next((n for n in sorted({*asked, *sketch.inputs}) if not _same(asked.get(n), sketch.inputs.get(n))), None)
    if name is not None:
        raise HarnessError(
            f"the sketch was made with another probe: {name} differs",
            where=str(config.file),
            found=_described(asked.get(name)),
            expected=_described(sketch.inputs.get(name)),
            hint="set probe: as it was when the sketch was made, or capture again",
        )


def _check_specs(kept: Mapping[str, TensorSpec], found: Mapping[str, TensorSpec], where: str) -> None:
    other = next((n for n in kept if n not in found or found[n].shape != kept[n].shape), None)
    if other is not None:
        raise CheckpointError(
            f"the sketch is of another model: its tensor {other} is not here",
            where=where,
            found=f"shape {list(found[other].shape)}" if other in found else "no such tensor",
            expected=f"shape {list(kept[other].shape)}",
            hint="give the checkpoint that the sketch was made of, or none",
        )


def _same(a: Array | None, b: Array | None) -> bool:
    return a is not None and b is not None and np.array_equal(a, b)


def _described(value: Array | None) -> str:
    if value is None:
        return "none"
    first = ", ".join(str(x) for x in np.asarray(value).reshape(-1)[:4])
    return f"{list(np.shape(value))} beginning {first}"


def measure_with_sketch(session: Session, sketch: Sketch) -> SketchComparison:
    """Run the session's target and measure it. Raises HarnessError where the runs cannot be compared."""
    check_sketch(session, sketch)
    view, side, inputs, tensors = session.target_view, session.target.side, session.inputs, session.tensors()
    check_inputs(inputs, {"target": side})
    check_repeatable(side, inputs, "target")
    exact = tensors.exact()
    unsure = tensors.unsure(exact) if session.has_source_tensors else tensors.exact(_moved(session))
    return compare_sketch(sketch, view, side, inputs, exact, None if unsure is exact else unsure)


def _moved(session: Session) -> dict[str, Array]:
    """The target's tensors, each element moved by at most what storing it rounds: without the source's tensors nobody
    knows from what they were rounded."""
    due, moved = Due(session.mapping, {}, session.stored_dtypes(), session.sizes), {}
    for i, name in enumerate(session.target.specs):
        value = np.asarray(session.target.read(name), np.float64)
        by = np.random.default_rng([_MOVED, i]).uniform(-1, 1, value.shape)
        moved[name] = value * (1 + roundoff(due.dtype(name)) * by)
    return moved


def compare_with_sketch(session: Session, sketch: Sketch) -> Result:
    """The Result of comparing a session's target with a sketch."""
    comparison, here = session.sketch_comparison, session.has_source_tensors
    checked = Checked() if here else _by_projections(session, sketch)
    findings = find_with_sketch(comparison, session.evidence, session.mapping, checked.odd)
    left = [NotCompared(name=name, side="target", reason=why) for name, why in checked.unchecked]
    omitted = tuple(getattr(session.target.side, "omitted_inputs", ()))
    result = assemble_sketch(comparison, findings, session.mapping, left, omitted, session.about())
    if here:
        return result
    note = NotCompared(name="single elements of tensors", side="source", reason=_NO_CHECKPOINT)
    return result.model_copy(update={"not_compared": [note, *result.not_compared]})


_NO_CHECKPOINT = "its checkpoint is not here: every tensor was compared as a whole, by 16 projections"


def _by_projections(session: Session, sketch: Sketch) -> Checked:
    due = Due(session.mapping, {}, session.stored_dtypes(), session.sizes)
    return check_tensors(sketch, session.mapping, session.target.read, due.dtype)
