"""One entry instance: concrete tensors and numbers, shapes checked. It computes, explains itself and turns round."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ckptdbg.checkpoint.dtypes import as_dtype
from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.errors import MappingError
from ckptdbg.mapping.ops import Array, Make, Op, Opaque, OpError, Shape
from ckptdbg.mapping.stacking import StackAxis, stack_arrays, stack_shape, unstack_array, unstack_shape

Step = Callable[[Sequence[Array]], list[Array]]
Trace = list[tuple[str, list[Shape]]]
LISTED = 3  # sources and shapes named in an error; the rest is counted


@dataclass(frozen=True)
class BoundEntry:
    """One instance of an entry. Made by ``Mapping.bind``."""

    name: str
    file: str
    line: int
    layer: str | None
    """The placeholders' values as text ("3", "2.1" for several), None without placeholders."""
    sources: tuple[str, ...]
    """For stacked targets: all tensors of the first index, then all of the second, and so on."""
    targets: tuple[str, ...]
    """For stacked sources likewise."""
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
    def opaque(self) -> Opaque | None:
        """The op by which a function makes the target, where one does: nothing is known of its places then."""
        return next((op for op in self.ops if isinstance(op, Opaque)), None)

    @property
    def ops_text(self) -> list[str]:
        """The ops as a person would write them in YAML, one line each."""
        return [str(op) for op in self.ops]

    def apply(self, arrays: Sequence[Array], *, cast: bool = True) -> tuple[Array, ...]:
        """One array per target from one array per source, in their dtypes.

        Computed in float32, in float64 if an array is float64 or of integers, then rounded once to the target's dtype;
        what is only moved, and stored as it was, is not computed with at all.
        ``cast=False`` leaves the result as computed and skips ``cast`` ops; the factor of a ``scale`` with a dtype
        keeps its value. ``MappingError`` where an array has not the source's shape.
        """
        for name, spec, array in zip(self.sources, self.source_specs, arrays, strict=True):
            if tuple(array.shape) != spec.shape:
                problem = f"entry {self.name}: {name} has another shape than when bound"
                raise MappingError(problem, where=self.where, found=array.shape, expected=spec.shape)
        if cast and self._only_moves(arrays):
            return self.moved(arrays)
        dtype = compute_dtype(arrays)
        steps: list[Step] = [lambda lane, op=op: op.apply(lane, rounding=cast) for op in self.ops]
        with np.errstate(all="ignore"):  # overflow to inf shows in the numbers; NumPy's warning would not say where
            results = self._run([np.asarray(array).astype(dtype, copy=False) for array in arrays], steps)
            if cast:
                pairs = zip(results, self.target_specs, strict=True)
                results = [result.astype(as_dtype(spec.dtype), copy=False) for result, spec in pairs]
        return tuple(results)

    def _only_moves(self, arrays: Sequence[Array]) -> bool:
        kinds = {array.dtype for array in arrays} | {as_dtype(spec.dtype) for spec in self.target_specs}
        return len(kinds) == 1 and self.opaque is None and not any(op.elementwise for op in self.ops)

    def known(self) -> tuple[Array, ...]:
        """One bool array per target: False where an element comes from no source (padded with 0)."""
        return tuple(array != 0 for array in self.moved([np.ones(spec.shape, np.int8) for spec in self.source_specs]))

    def moved(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        """The arrays, of any dtype, after the ops that move elements; those that change values are left out."""
        return tuple(self._run(list(arrays), [op.apply for op in self.ops if not op.elementwise]))

    def steps(self) -> Trace:
        """Each step as text, stacking included, with the shapes after it; ``MappingError`` where one does not fit."""
        trace: Trace = []
        lane = self._lane_shapes()
        try:
            if inside := self._sided("source"):
                lane = [unstack_shape(shape, inside) for shape in lane]
                trace.append((", ".join(map(str, inside)), lane))
            for op in self.ops:
                lane = self._after(op, lane, trace)
                trace.append((str(op), lane))
            if outside := self._sided("target"):
                lane = [stack_shape(shape, outside) for shape in lane]
                trace.append((", ".join(map(str, outside)), lane))
        except OpError as cause:
            raise self._misfit(str(cause), trace) from cause
        return trace

    def check(self) -> None:
        """``MappingError`` unless the ops make exactly the targets' shapes."""
        trace = self.steps()
        self._check_opaque(trace)
        made = self.made_shapes(trace)
        if len(made) != len(self.targets):
            many, few = (
                "join the sources with concat, stack or rearrange",
                "end the ops with split, or write one entry per",
            )
            hint = many if len(made) > len(self.targets) else f"{few} target for a tie"
            raise self._misfit(f"makes {len(made)} tensors for {len(self.targets)} targets", trace, hint=hint)
        for name, spec, shape in zip(self.targets, self.target_specs, made, strict=True):
            if shape != spec.shape:
                problem = f"{name} gets shape {shape}, expected {spec.shape}"
                raise self._misfit(problem, trace, hint="correct the ops, or the config the sizes come from")

    def _check_opaque(self, trace: Trace) -> None:
        if self.opaque is not None and (self.ops[0] is not self.opaque or self.stacks or len(self.targets) > 1):
            problem = "opaque is what makes one whole target of its sources"
            raise self._misfit(problem, trace, hint="put it first, without stack, in an entry of one target")

    def with_functions(self, functions: Mapping[str, Make]) -> BoundEntry:
        """The same entry with the function of its opaque op, where it is among these, by name."""
        op = self.opaque
        if op is None or op.function not in functions:
            return self
        dtypes = [as_dtype(spec.dtype) for spec in self.source_specs]
        placed = op.placed(functions[op.function], self.sources, dtypes, self.targets[0])
        return dataclasses.replace(self, ops=(placed, *self.ops[1:]))

    def made_shapes(self, trace: Trace | None = None) -> list[Shape]:
        """What the ops make, whatever the targets' own shapes; ``trace`` is what ``steps`` gave."""
        trace = self.steps() if trace is None else trace
        shapes = trace[-1][1] if trace else self._lane_shapes()
        return shapes * math.prod(stack.size for stack in self._sided("source"))

    def as_made(self) -> BoundEntry:
        """The same entry for targets of exactly the shapes that the ops make; ``check`` says where their number
        differs."""
        made = zip(self.target_specs, self.made_shapes(), strict=False)
        specs = tuple(TensorSpec(shape, spec.dtype) for spec, shape in made)
        return dataclasses.replace(self, target_specs=specs)

    def reversed(self) -> BoundEntry:
        """The same entry from targets to sources; ``MappingError`` where an op has no inverse."""
        ops: list[Op] = []
        for op, shapes in reversed(self.before_each()):
            try:
                ops += (dataclasses.replace(undo, where=op.where) for undo in op.inverse(shapes))
            except OpError as cause:
                problem = f"entry {self.name} has no reverse: {op.kind} {cause}"
                raise MappingError(problem, where=op.where or self.where) from cause
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
        return [f"{op}: {text}" for op, shapes in self.before_each() if (text := op.dropped(shapes))]

    def _run(self, arrays: list[Array], steps: Sequence[Step]) -> list[Array]:
        """Part what the source stacks, do the steps for every index, stack what the target wants stacked."""
        inside, outside = self._sided("source"), self._sided("target")
        rows: list[list[Array]] = []
        for start in range(0, len(arrays), self._per_lane):
            parted = [unstack_array(array, inside) for array in arrays[start : start + self._per_lane]]
            row: list[Array] = []
            for lane in zip(*parted, strict=True):
                values = list(lane)
                for step in steps:
                    values = step(values)
                row += values
            rows.append(row)
        return [stack_arrays(column, outside) for column in zip(*rows, strict=True)]

    @property
    def _per_lane(self) -> int:
        """How many sources one index of the target's stacked axes takes."""
        return len(self.sources) // math.prod(stack.size for stack in self._sided("target"))

    def _sided(self, side: str) -> list[StackAxis]:
        return [stack for stack in self.stacks if stack.side == side]

    def _lane_shapes(self) -> list[Shape]:
        """Shapes of the sources of the first index; ``MappingError`` where those of another differ."""
        count = self._per_lane
        for i, spec in enumerate(self.source_specs):
            if spec.shape != self.source_specs[i % count].shape:
                problem = f"entry {self.name}: {self.sources[i]} cannot be stacked with {self.sources[i % count]}"
                expected = self.source_specs[i % count].shape
                raise MappingError(problem, where=self.where, found=spec.shape, expected=expected)
        return [spec.shape for spec in self.source_specs[:count]]

    def before_each(self) -> list[tuple[Op, list[Shape]]]:
        """Each op with the shapes of the arrays that it is given, for one index of the stacked axes."""
        lane = [unstack_shape(shape, self._sided("source")) for shape in self._lane_shapes()]
        pairs = []
        for op in self.ops:
            pairs.append((op, lane))
            lane = op.shapes(lane)
        return pairs

    def _after(self, op: Op, lane: list[Shape], trace: Trace) -> list[Shape]:
        try:
            return op.shapes(lane)
        except OpError as cause:
            raise self._misfit(f"{op.kind} {cause}", trace, op.where) from cause

    def _misfit(self, problem: str, trace: Trace, where: str | None = None, hint: str | None = None) -> MappingError:
        pairs = zip(self.sources[:LISTED], self.source_specs, strict=False)
        more = f" and {len(self.sources) - LISTED} more" if len(self.sources) > LISTED else ""
        first = "  " + ", ".join(f"{name} {spec.shape}" for name, spec in pairs) + more
        lines = [f"  {text} -> {', '.join(map(str, shapes[:LISTED]))}" for text, shapes in trace]
        text = "\n".join([f"entry {self.name}: {problem}", first, *lines])
        return MappingError(text, where=where or self.where, hint=hint)


def compute_dtype(arrays: Sequence[Array]) -> np.dtype:
    """float32; float64 for float64 and for integers (exact to 2^53); complex stays."""
    dtypes = [array.dtype for array in arrays]
    if any(dtype.kind == "c" for dtype in dtypes):
        return np.result_type(np.complex64, *(dtype for dtype in dtypes if dtype.kind in "cf"))
    if any(dtype == np.float64 or dtype.kind in "iub" for dtype in dtypes):
        return np.dtype(np.float64)
    return np.dtype(np.float32)
