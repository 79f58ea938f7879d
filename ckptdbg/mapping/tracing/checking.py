"""A traced mapping against its function on a checkpoint's own tensors: what it does to them alone shows only there."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from collections.abc import Mapping as Dict
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ckptdbg.checkpoint.dtypes import as_dtype
from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.errors import MappingError
from ckptdbg.mapping.entry import BoundEntry
from ckptdbg.mapping.file import Mapping
from ckptdbg.mapping.ops import Make
from ckptdbg.mapping.tracing.numerics import nearly
from ckptdbg.mapping.tracing.origins import Convert
from ckptdbg.mapping.tracing.recorded import Program

Array = NDArray[Any]
T = TypeVar("T")
Check = Callable[[Mapping, Dict[str, TensorSpec], set[str]], dict[str, str]]
"""From a mapping, the tensors that it makes and which of them are inexact, to those that the function makes otherwise,
and how they differ."""
_CHUNK = 2**22


def against_function(
    convert: Convert, specs: Dict[str, TensorSpec], config: Dict[str, Any] | None, real: Dict[str, Array]
) -> Check:
    """Run the function once on everything."""

    def check(mapping: Mapping, made: Dict[str, TensorSpec], inexact: set[str]) -> dict[str, str]:
        wanted = convert({n: np.array(a) for n, a in real.items()})
        found = {}
        for target, value, _ in mapping.bind(config, specs, made).values(lambda n: np.asarray(real[n])):
            there = wanted.get(target)
            if there is None or np.shape(there) != value.shape:
                found[target] = "of the real tensors the function makes another shape, or nothing"
            elif wrong := _wrong(value, np.asarray(there), target in inexact):
                found[target] = _otherwise(wrong, value.size)
        return found

    return check


def against_programs(
    programs: Dict[str, Program],
    specs: Dict[str, TensorSpec],
    config: Dict[str, Any] | None,
    read: Callable[[str], Array],
) -> Check:
    """Make every target by its own ops, one at a time; of one that is stacked, one slice at a time."""

    def check(mapping: Mapping, made: Dict[str, TensorSpec], inexact: set[str]) -> dict[str, str]:
        found = {}
        for entry in mapping.bind(config, specs, made).entries:
            (target,) = entry.targets
            wrong = 0
            for lane, program in _lanes(entry, programs[target]):
                (value,) = lane.apply([read(name) for name in lane.sources])
                wrong += _wrong(value, program.run(read), target in inexact)
            if wrong:
                found[target] = _otherwise(wrong, math.prod(made[target].shape))
        return found

    return check


def run_for_one(convert: Convert, specs: Dict[str, TensorSpec]) -> Make:
    """The function for one target, whose sources are given: zeros stand for all others."""

    def make(target: str, sources: Dict[str, Array]) -> Array:
        blank = (n for n in specs if n not in sources)
        given = {n: np.zeros(specs[n].shape, as_dtype(specs[n].dtype)) for n in blank}
        with np.errstate(all="ignore"):  # what becomes of zeros is left aside
            made = convert({n: np.array(sources[n]) if n in sources else given[n] for n in specs})
        return _one_of(made, target)

    return make


def run_recorded(programs: Dict[str, Program]) -> Make:
    """The same of recorded ops, of which only those of the target are done."""
    return lambda target, sources: _one_of(programs, target).run(sources.__getitem__)


def _one_of(made: Dict[str, T], target: str) -> T:
    if target not in made:
        few = ", ".join([*made][:5])
        raise MappingError("the function makes no such tensor", found=target, expected=f"{few} and the like")
    return made[target]


def _otherwise(wrong: int, size: int) -> str:
    return f"of the real tensors the function makes other values ({wrong} of {size} elements)"


def _wrong(value: Array, wanted: Array, inexact: bool) -> int:
    """Elements that differ, a few rows at a time."""
    rows = [a.reshape(-1) for a in (value, wanted)]
    wrong = 0
    for start in range(0, value.size, _CHUNK):
        a, b = (r[start : start + _CHUNK].astype(np.float64) for r in rows)
        here = int((~((np.isnan(a) & np.isnan(b)) | (a == b))).sum())
        wrong += 0 if here and inexact and nearly(a, b) else here
    return wrong


def _lanes(entry: BoundEntry, program: Program) -> Iterator[tuple[BoundEntry, Program]]:
    """Every slice of a stacked tensor, by its entry and by its program; the whole where nothing is stacked."""
    sizes, axes = [s.size for s in entry.stacks], [s.axis for s in entry.stacks]
    per_lane = len(entry.sources) // math.prod(sizes)
    (spec,) = entry.target_specs
    inner = TensorSpec(tuple(n for axis, n in enumerate(spec.shape) if axis not in axes), spec.dtype)
    for lane, index in enumerate(itertools.product(*map(range, sizes))):
        part, own = program, slice(lane * per_lane, (lane + 1) * per_lane)
        for axis, at in sorted(zip(axes, index, strict=True), reverse=True):  # the last axis first: others keep theirs
            part = part.slice(axis, at)
        yield (
            dataclasses.replace(
                entry,
                stacks=(),
                sources=entry.sources[own],
                source_layers=entry.source_layers[own],
                source_specs=entry.source_specs[own],
                target_specs=(inner,),
            ),
            part,
        )
