"""Target tensors against a sketch's 16 projections of each source tensor, where the source's checkpoint is not at hand:
every entry is gone back through, and what it gives is projected likewise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.checkpoint import TensorSpec
from ckptdbg.compare.labels import Label
from ckptdbg.compare.noise import SUSPECT
from ckptdbg.compare.views import TargetView
from ckptdbg.diagnose.elements import roundoff
from ckptdbg.diagnose.suspects import layers_of, references
from ckptdbg.errors import MappingError
from ckptdbg.golden.sketch import Place, Sketch
from ckptdbg.mapping import BoundEntry, BoundMapping
from ckptdbg.mapping.ops.values import Cast
from ckptdbg.result import Finding

Array = NDArray[Any]


@dataclass(frozen=True)
class Odd:
    """A source tensor that the target's tensors do not give back."""

    source: str
    entry: BoundEntry
    ratio: float


@dataclass(frozen=True)
class Checked:
    """What became of the tensors of a mapping."""

    odd: tuple[Odd, ...] = ()
    unchecked: tuple[tuple[str, str], ...] = ()
    """Target tensors of which nothing can be said, and why."""


def check_tensors(
    sketch: Sketch, mapping: BoundMapping, read: Callable[[str], Array], stored: Callable[[str], str]
) -> Checked:
    """``read`` gives a target tensor by name and ``stored`` the dtype it is rounded to."""
    odd, unchecked = [], []
    for entry in mapping.entries:
        try:
            back = entry.reversed()
        except MappingError as error:
            unchecked += [(name, f"its entry cannot be gone back through: {error.problem}") for name in entry.targets]
            continue
        values = back.apply([np.asarray(read(name), np.float64) for name in back.sources], cast=False)
        u = _rounding(entry, sketch.view.specs, stored)
        for name, value, known in zip(back.targets, values, back.known(), strict=True):
            place = sketch.tensors.get(name)
            if place is None or place.features != value.size or not known.all():
                unchecked += [(t, f"it holds only a part of {name}") for t in entry.targets]
                continue
            ratio = _ratio(place, value, u)
            if ratio >= SUSPECT:
                odd.append(Odd(name, entry, ratio))
    return Checked(tuple(odd), tuple(dict.fromkeys(unchecked)))


def _rounding(entry: BoundEntry, source: Mapping[str, TensorSpec], stored: Callable[[str], str]) -> float:
    """How much of its size an element loses when it is stored: nothing where it only moves."""
    theirs, ours = (
        max(roundoff(source[s].dtype) for s in entry.sources),
        max(roundoff(stored(t)) for t in entry.targets),
    )
    computed = any(op.elementwise and not isinstance(op, Cast) for op in entry.ops)
    return ours if computed or ours > theirs else 0.0


def _ratio(place: Place, value: Array, u: float) -> float:
    flat = value.reshape(1, -1)
    if not np.isfinite(flat).all():
        return np.inf
    error = np.sqrt(np.square(place.projected(flat) - place.projections).mean())
    return float(error / max(u * float(place.norms(flat)[0]), float(place.step[0])))


def odd_findings(odd: Sequence[Odd], target: TargetView) -> list[Finding]:
    """One finding for each entry."""
    groups: dict[str, list[Odd]] = {}
    for each in odd:
        groups.setdefault(each.entry.name, []).append(each)
    return [_finding(group, target) for group in groups.values()]


def _finding(group: list[Odd], target: TargetView) -> Finding:
    first, names = group[0], {t for each in group for t in each.entry.targets}
    own: list[Label] = [x for x in (*target.labels, *target.met_labels) if names & set(x.tensors)]
    others = f" (and {len(group) - 1} more of this entry)" if len(group) > 1 else ""
    made = " + ".join(first.entry.targets)
    return Finding(
        kind="tensor",
        cause="checkpoint",
        effect="diverges",
        entries=references(each.entry for each in group),
        layers=layers_of(own),
        site=made,
        ratio=max(each.ratio for each in group),
        explanation=(
            f"{made}{others} is not what the mapping makes of the source's {first.source}: their projections differ. "
            "Convert or load it again."
        ),
        evidence=["with the source's checkpoint at hand it would be said how it differs"],
    )
