"""Entries with their tensors and numbers: what computes target tensors from source tensors, and back."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import ml_dtypes
import numpy as np

from ckptdbg.checkpoint.dtypes import as_dtype
from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.errors import MappingError
from ckptdbg.mapping.ops import Array, Op, OpError, Shape


@dataclass(frozen=True)
class StackAxis:
    """One axis of a stacked tensor, over the values of one placeholder; ``side`` says whose tensors are stacked."""

    over: str
    size: int
    axis: int
    side: Literal["source", "target"]

    def __str__(self) -> str:
        verb = "stack" if self.side == "target" else "unstack"
        return f"{verb}: {{over: {self.over}, axis: {self.axis}}}"


@dataclass(frozen=True)
class BoundEntry:
    """One instance of an entry: concrete tensors, concrete numbers, shapes checked."""

    name: str
    file: str
    line: int
    layer: str | None
    """The placeholders' values as text ("3", "2.1" for several), None without placeholders."""
    sources: tuple[str, ...]
    """For stacked targets: all tensors of the first index, then all of the second, and so on."""
    targets: tuple[str, ...]
    source_layers: tuple[str | None, ...]
    """Per source tensor the numbers in its name, None without."""
    target_layers: tuple[str | None, ...]
    ops: tuple[Op, ...]
    """Done once for every index of the stacked axes."""
    stacks: tuple[StackAxis, ...]
    source_specs: tuple[TensorSpec, ...]
    target_specs: tuple[TensorSpec, ...]

    @property
    def where(self) -> str:
        """file:line"""
        return f"{self.file}:{self.line}"

    @property
    def ops_text(self) -> list[str]:
        """The ops as a person would write them in YAML, one line each."""
        return [str(op) for op in self.ops]

    def apply(self, arrays: Sequence[Array], *, cast: bool = True) -> tuple[Array, ...]:
        """One array per target from one array per source, in their dtypes.

        Computed in float32, in float64 if an array is float64 or of integers, then rounded once to the target's dtype.
        ``cast=False`` leaves the result as computed and skips ``cast`` ops; the factor of a ``scale`` with a dtype
        keeps its value. ``MappingError`` where an array has not the source's shape.
        """
        for name, spec, array in zip(self.sources, self.source_specs, arrays, strict=True):
            if tuple(array.shape) != spec.shape:
                raise MappingError(
                    f"{name} has another shape than when bound",
                    where=self.where,
                    found=array.shape,
                    expected=spec.shape,
                )
        dtype = compute_dtype(arrays)
        with np.errstate(all="ignore"):  # overflow to inf shows in the numbers; NumPy's warning would not say where
            results = self._run([np.asarray(array).astype(dtype, copy=False) for array in arrays], self._steps(cast))
            if cast:
                results = [
                    r.astype(as_dtype(spec.dtype), copy=False)
                    for r, spec in zip(results, self.target_specs, strict=True)
                ]
        return tuple(results)

    def known(self) -> tuple[Array, ...]:
        """One bool array per target: False where an element comes from no source (padding)."""
        ones = [np.ones(spec.shape, np.int8) for spec in self.source_specs]
        ops = [op for op in self.ops if not op.elementwise]
        return tuple(array != 0 for array in self._run(ones, [op.apply for op in ops]))

    def steps(self) -> list[tuple[str, list[Shape]]]:
        """Each step as text, stacking included, with the shapes after it; ``MappingError`` where one does not fit."""
        shapes = [spec.shape for spec in self.source_specs]
        trace: list[tuple[str, list[Shape]]] = []
        lane, others = shapes[: self._per_lane], shapes[self._per_lane :]
        for i, shape in enumerate(others):
            if shape != lane[i % self._per_lane]:
                name = self.sources[i + self._per_lane]
                raise MappingError(
                    f"{name} cannot be stacked with {self.sources[i % self._per_lane]}",
                    where=self.where, found=shape, expected=lane[i % self._per_lane],
                )  # fmt: skip
        if unstacked := self._sided("source"):
            lane = [self._unstacked(shape) for shape in lane]
            trace.append((", ".join(map(str, unstacked)), lane))
        for op in self.ops:
            try:
                lane = op.shapes(lane)
            except OpError as cause:
                raise self._misfit(f"{op.kind} {cause}", trace, op.where) from cause
            trace.append((str(op), lane))
        if stacked := self._sided("target"):
            lane = [self._stacked(shape) for shape in lane]
            trace.append((", ".join(map(str, stacked)), lane))
        return trace

    def check(self) -> None:
        """``MappingError`` unless the ops make exactly the targets' shapes."""
        trace = self.steps()
        shapes = trace[-1][1] if trace else [spec.shape for spec in self.source_specs]
        made = shapes * math.prod(stack.size for stack in self._sided("source"))
        if len(made) != len(self.targets):
            hint = "end the ops with split, or write one entry per target for a tie"
            if len(made) > len(self.targets):
                hint = "join the sources with concat, stack or rearrange"
            raise self._misfit(f"makes {len(made)} tensors for {len(self.targets)} targets", trace, None, hint)
        for name, spec, shape in zip(self.targets, self.target_specs, made, strict=True):
            if shape != spec.shape:
                problem = f"{name} gets shape {shape}; expected {spec.shape}"
                raise self._misfit(problem, trace, None, "correct the ops, or the config the sizes come from")

    def reversed(self) -> BoundEntry:
        """The same entry from targets to sources; ``MappingError`` where an op has no inverse."""
        befores = self._shapes_before()
        ops: list[Op] = []
        for op, shapes in zip(reversed(self.ops), reversed(befores), strict=True):
            try:
                ops += (dataclasses.replace(undo, where=op.where) for undo in op.inverse(shapes))
            except OpError as cause:
                raise MappingError(
                    f"entry {self.name} has no reverse: {op.kind} {cause}", where=op.where or self.where
                ) from cause
        sides: dict[str, Literal["source", "target"]] = {"source": "target", "target": "source"}
        return dataclasses.replace(
            self,
            sources=self.targets,
            targets=self.sources,
            source_layers=self.target_layers,
            target_layers=self.source_layers,
            source_specs=self.target_specs,
            target_specs=self.source_specs,
            ops=tuple(ops),
            stacks=tuple(dataclasses.replace(stack, side=sides[stack.side]) for stack in self.stacks),
        )

    def dropped(self) -> list[str]:
        """What this direction or its reverse loses, one line per op."""
        pairs = zip(self.ops, self._shapes_before(), strict=True)
        return [f"{op}: {text}" for op, shapes in pairs if (text := op.dropped(shapes))]

    def _shapes_before(self) -> list[list[Shape]]:
        lane = [self._unstacked(spec.shape) for spec in self.source_specs[: self._per_lane]]
        befores = []
        for op in self.ops:
            befores.append(lane)
            lane = op.shapes(lane)
        return befores

    def _steps(self, cast: bool) -> list[Callable[[Sequence[Array]], list[Array]]]:
        return [lambda arrays, op=op: op.apply(arrays, rounding=cast) for op in self.ops]

    def _run(self, arrays: list[Array], steps: Sequence[Callable[[list[Array]], list[Array]]]) -> list[Array]:
        """Part what is stacked on the source side, do the steps for every index, stack what the target wants stacked."""
        inside, outside = self._sided("source"), self._sided("target")
        rows: list[list[Array]] = []
        for start in range(0, len(arrays), self._per_lane):
            parted = [_unstack(array, inside) for array in arrays[start : start + self._per_lane]]
            row: list[Array] = []
            for lane in zip(*parted, strict=True):
                values = list(lane)
                for step in steps:
                    values = step(values)
                row += values
            rows.append(row)
        return [_stack(column, outside) for column in zip(*rows, strict=True)]

    @property
    def _per_lane(self) -> int:
        return len(self.sources) // math.prod(stack.size for stack in self._sided("target"))

    def _sided(self, side: str) -> list[StackAxis]:
        return [stack for stack in self.stacks if stack.side == side]

    def _unstacked(self, shape: Shape) -> Shape:
        stacks = self._sided("source")
        for stack in stacks:
            if not -len(shape) <= stack.axis < len(shape) or shape[stack.axis] != stack.size:
                raise MappingError(
                    f"{self.sources[0]} has shape {shape}: axis {stack.axis} should run over {stack.size} values of {stack.over}",
                    where=self.where,
                )
        axes = {stack.axis % len(shape) for stack in stacks}
        return tuple(size for axis, size in enumerate(shape) if axis not in axes)

    def _stacked(self, shape: Shape) -> Shape:
        stacks = self._sided("target")
        rank = len(shape) + len(stacks)
        sizes = {}
        for stack in stacks:
            if not -rank <= stack.axis < rank or stack.axis % rank in sizes:
                raise MappingError(
                    f"stack over {stack.over} has no axis {stack.axis} of its own",
                    where=self.where,
                    found=f"{rank} axes",
                )
            sizes[stack.axis % rank] = stack.size
        rest = iter(shape)
        return tuple(sizes[axis] if axis in sizes else next(rest) for axis in range(rank))

    def _misfit(
        self, problem: str, trace: list[tuple[str, list[Shape]]], where: str | None, hint: str | None = None
    ) -> MappingError:
        starts = ", ".join(f"{n} {s.shape}" for n, s in list(zip(self.sources, self.source_specs, strict=True))[:3])
        more = f" and {len(self.sources) - 3} more" if len(self.sources) > 3 else ""
        lines = [f"  {text} -> {', '.join(map(str, shapes[:4]))}" for text, shapes in trace]
        text = "\n".join([f"entry {self.name}: {problem}", f"  {starts}{more}", *lines])
        return MappingError(text, where=where or self.where, hint=hint)


@dataclass(frozen=True)
class BoundMapping:
    """Every entry instance of one mapping for two sets of tensors. Made by ``Mapping.bind``."""

    entries: tuple[BoundEntry, ...]
    file: str = ""

    @cached_property
    def entry_of_target(self) -> dict[str, BoundEntry]:
        """The entry that makes each target tensor (the first, where a reversed tie has several)."""
        return {name: entries[0] for name, entries in self.producers.items()}

    @cached_property
    def entries_of_source(self) -> dict[str, tuple[BoundEntry, ...]]:
        """The entries that use each source tensor."""
        return _by_name(self.entries, "sources")

    @cached_property
    def producers(self) -> dict[str, tuple[BoundEntry, ...]]:
        """All entries that make each target tensor: more than one only in a reversed mapping."""
        return _by_name(self.entries, "targets")

    def values(
        self, read: Callable[[str], Array], *, cast: bool = True, dtype: Any = None
    ) -> Iterator[tuple[str, Array, BoundEntry]]:
        """Every target tensor with its name and entry, one entry at a time.

        ``read`` gives a source tensor by name. ``dtype=np.float64`` computes in float64; ``cast=False`` leaves the result
        as computed. Where several entries make one tensor (reversed ties and slices) what they agree on is put together;
        ``MappingError`` where they differ.
        """
        waiting: dict[str, list[tuple[BoundEntry, Array, Array]]] = {}
        for entry in self.entries:
            arrays = [read(name) for name in entry.sources]
            if dtype is not None:
                arrays = [array.astype(dtype) for array in arrays]
            results = entry.apply(arrays, cast=cast)
            shared = any(len(self.producers[name]) > 1 for name in entry.targets)
            masks = entry.known() if shared else ()
            for i, (name, result) in enumerate(zip(entry.targets, results, strict=True)):
                if len(self.producers[name]) == 1:
                    yield name, result, entry
                    continue
                parts = waiting.setdefault(name, [])
                parts.append((entry, result, masks[i]))
                if len(parts) == len(self.producers[name]):
                    yield name, _merged(name, waiting.pop(name)), parts[0][0]

    def shapes(self, entry: BoundEntry) -> list[tuple[str, Shape]]:
        """Each step of an entry as text with the shape after it; one row per array where a step makes several."""
        rows = []
        for text, shapes in entry.steps():
            several = len(shapes) > 1
            rows += [(f"{text} [{i + 1} of {len(shapes)}]" if several else text, s) for i, s in enumerate(shapes)]
        return rows

    def reversed(self) -> BoundMapping:
        """From target to source. What several entries read from one source must agree when it is put together again."""
        return BoundMapping(tuple(entry.reversed() for entry in self.entries), self.file)


def compute_dtype(arrays: Sequence[Array]) -> np.dtype:
    """float32; float64 for float64 and for integers (exact to 2^53); complex stays."""
    dtypes = [array.dtype for array in arrays]
    if any(dtype.kind == "c" for dtype in dtypes):
        return np.result_type(np.complex64, *(dtype for dtype in dtypes if dtype.kind in "cf"))
    if any(dtype == np.float64 or dtype.kind in "iub" for dtype in dtypes):
        return np.dtype(np.float64)
    return np.dtype(np.float32)


def _unstack(array: Array, stacks: list[StackAxis]) -> list[Array]:
    if not stacks:
        return [array]
    array = np.moveaxis(array, [stack.axis for stack in stacks], range(len(stacks)))
    return list(array.reshape(-1, *array.shape[len(stacks) :]))


def _stack(arrays: Sequence[Array], stacks: list[StackAxis]) -> Array:
    if not stacks:
        return arrays[0]
    array = np.stack(arrays).reshape(*(stack.size for stack in stacks), *arrays[0].shape)
    return np.moveaxis(array, range(len(stacks)), [stack.axis for stack in stacks])


def _merged(name: str, parts: list[tuple[BoundEntry, Array, Array]]) -> Array:
    first, merged, filled = parts[0][0], parts[0][1].copy(), parts[0][2].copy()
    for entry, array, mask in parts[1:]:
        both = filled & mask
        if not np.all(_equal(merged[both], array[both], _eps(first, entry))):
            raise MappingError(
                f"{name} comes out differently from entry {first.name} ({first.where}) and from entry {entry.name}",
                where=entry.where,
                hint=f"in the reverse they must agree: compare {', '.join(first.sources[:1])} with {', '.join(entry.sources[:1])}",
            )
        new = mask & ~filled
        merged[new] = array[new]
        filled |= mask
    return merged


def _equal(a: Array, b: Array, eps: float) -> Array:
    """Equal but for the rounding of an inverse scale."""
    a, b = (x if x.dtype.kind in "ciub" else x.astype(np.float64) for x in (a, b))
    return (a == b) | (np.abs(a - b) <= 4 * eps * np.abs(a)) | ((a != a) & (b != b))


def _eps(*entries: BoundEntry) -> float:
    """Unit in the last place of the coarsest dtype on the way."""
    dtypes = {as_dtype(spec.dtype) for entry in entries for spec in (*entry.source_specs, *entry.target_specs)}
    floats = [dtype for dtype in dtypes if dtype.kind not in "iub"]
    return max((float(ml_dtypes.finfo(dtype).eps) for dtype in floats), default=0.0)


def _by_name(entries: Sequence[BoundEntry], side: str) -> dict[str, tuple[BoundEntry, ...]]:
    found: dict[str, list[BoundEntry]] = {}
    for entry in entries:
        for name in dict.fromkeys(getattr(entry, side)):
            found.setdefault(name, []).append(entry)
    return {name: tuple(users) for name, users in found.items()}
