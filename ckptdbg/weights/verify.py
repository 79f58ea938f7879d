"""A conversion checked on its weights: every target tensor against what the mapping makes of the source, one at a
time."""

from __future__ import annotations

import math
from collections.abc import Callable
from fnmatch import fnmatchcase

from ckptdbg.checkpoint import TensorSpec
from ckptdbg.diagnose.elements import Deviation
from ckptdbg.diagnose.tensors import Due, TensorDifference, explain, status_of, walk_tensors
from ckptdbg.mapping import BoundEntry, BoundMapping, Mapping
from ckptdbg.mapping.made import Made
from ckptdbg.result import EntryRef
from ckptdbg.weights.checkpoints import Tensors
from ckptdbg.weights.records import Missing, TensorReport, Verification, Worst

Progress = Callable[[str], None]


def verify(mapping: Mapping, source: Tensors, target: Tensors, progress: Progress = lambda _: None) -> Verification:
    """Compare ``target`` with what ``mapping`` makes of ``source``. In memory are one tensor as it is due, in float64,
    and what its ops work on. Raises MappingError where the mapping does not fit the source."""
    config = source.config or target.config or {}
    bound = mapping.bind_as_made(config, source.specs, target.specs)
    made, written = (Made(bound, source.read, stored) for stored in (False, True))
    due = Due(bound, made, _stored(bound, target), mapping.sizes(config), written)
    reports, wrong = {}, []
    present = [name for name in due.made if name in target.specs]
    alike = [name for name in present if target.specs[name].shape == _made(bound, name).shape]
    for name, found in walk_tensors(due, target.read, alike):
        progress(f"{len(reports) + 1} of {len(present)}: {name}")
        wrong += [name] if found.wrong else []
        reports[name] = _report(bound.entry_of_target[name], target.specs[name], name, found)
    progress(f"looking at {len(wrong)} tensors that differ")
    for difference in explain(due, target.read, wrong):
        reports[difference.tensor] = _with(reports[difference.tensor], difference)
    reports |= {name: _misshapen(bound, target, name) for name in present if name not in reports}
    return Verification(
        source=source.where,
        target=target.where,
        tensors=[reports[name] for name in present],
        missing=[_missing(bound.entry_of_target[name], name) for name in due.made if name not in target.specs],
        extra=_extra(mapping, bound, target),
    )


def _report(entry: BoundEntry, spec: TensorSpec, name: str, found: Deviation) -> TensorReport:
    return TensorReport(
        tensor=name,
        entry=_reference(entry),
        layer=entry.layer,
        status=status_of(found),
        shape=list(spec.shape),
        dtype=spec.dtype,
        wrong=found.wrong,
        worst=None if found.equal else _worst(found.worst, found.found, found.expected),
    )


def _with(report: TensorReport, difference: TensorDifference) -> TensorReport:
    worst = _worst(difference.first, difference.found, difference.expected, difference.origin)
    return report.model_copy(update={"how": difference.how, "worst": worst})


def _worst(index: tuple[int, ...], found: float, expected: float, origin: str | None = None) -> Worst:
    return Worst(index=list(index), found=_finite(found), expected=_finite(expected), origin=origin)


def _misshapen(bound: BoundMapping, target: Tensors, name: str) -> TensorReport:
    entry, spec = bound.entry_of_target[name], target.specs[name]
    return TensorReport(
        tensor=name,
        entry=_reference(entry),
        layer=entry.layer,
        status="differs",
        shape=list(spec.shape),
        dtype=spec.dtype,
        how=f"of shape {spec.shape}, and the mapping makes {_made(bound, name).shape}",
        wrong=math.prod(spec.shape),
    )


def _missing(entry: BoundEntry, name: str) -> Missing:
    return Missing(tensor=name, entry=_reference(entry), layer=entry.layer)


def _extra(mapping: Mapping, bound: BoundMapping, target: Tensors) -> list[str]:
    ignored = mapping.ignore.target
    unmade = [name for name in target.specs if name not in bound.entry_of_target]
    return [name for name in unmade if not any(fnmatchcase(name, glob) for glob in ignored)]


def _stored(bound: BoundMapping, target: Tensors) -> dict[str, str]:
    """The dtype of every target tensor on disk, else the one it would get."""
    specs = {name: _made(bound, name) for name in bound.entry_of_target} | target.specs
    return {name: spec.dtype for name, spec in specs.items()}


def _made(bound: BoundMapping, name: str) -> TensorSpec:
    entry = bound.entry_of_target[name]
    return entry.target_specs[entry.targets.index(name)]


def _reference(entry: BoundEntry) -> EntryRef:
    return EntryRef(name=entry.name, file=entry.file, line=entry.line)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
