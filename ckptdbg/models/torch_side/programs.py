"""What makes one target tensor, by itself: run on tensors, or on labels that keep only the axes they vary along."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map, tree_map_only

from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.mapping.tracing.origins import undetermined
from ckptdbg.mapping.tracing.spread import Spread
from ckptdbg.models.records import Array
from ckptdbg.models.torch_side.border import dtype_name, to_numpy, to_torch
from ckptdbg.models.torch_side.picking import pick, stacked_axis
from ckptdbg.models.torch_side.recording import Function, Recording, Ref, Step, digest, record
from ckptdbg.models.torch_side.thin import Unreadable, perform, thinned

Do = Callable[[Step, tuple[Any, ...], dict[str, Any]], list[Tensor]]


@dataclass(frozen=True)
class Program:
    """The steps that make one target tensor."""

    recording: Recording
    made: Ref

    @property
    def spec(self) -> TensorSpec:
        """Of the tensor that is made."""
        return TensorSpec(self.recording.shape(self.made), dtype_name(self.recording.dtype(self.made)))

    @property
    def sources(self) -> tuple[str, ...]:
        """The source tensors that go into it, in the order in which they are first used."""
        return self._sources

    @property
    def key(self) -> str:
        """Equal for programs that differ in nothing but the names of their sources and in ``selected``."""
        return self._key

    @property
    def selected(self) -> tuple[tuple[int, int], ...]:
        """Of a single source, the axes of which the program takes one index before anything else, and which."""
        return tuple(self._selections.values())

    @cached_property
    def _sources(self) -> tuple[str, ...]:
        used = [ref.step for i in self._steps for ref in self.recording.steps[i].refs] + [self.made.step]
        return tuple(name for i in dict.fromkeys(used) if (name := self.recording.steps[i].source))

    @cached_property
    def _key(self) -> str:
        steps, number = self.recording.steps, {name: i for i, name in enumerate(self.sources)}
        places = {s: i for i, s in enumerate(self._steps)}

        def told(leaf: Any) -> Any:
            return ("ref", places[leaf.step], leaf.output) if isinstance(leaf, Ref) else leaf

        lines = []
        for i in self._steps:
            step = steps[i]
            given = number[step.source] if step.source else "" if step.constant is None else digest(step.constant)
            kept = step.args[:2] if i in self._selections else step.args
            args = tree_map(told, (kept, step.kwargs))
            lines.append(repr((str(step.op), args, step.shapes, step.dtypes, given)))
        text = "\n".join([*lines, repr(told(self.made))])
        return hashlib.sha256(text.encode()).hexdigest()

    def run(self, read: Callable[[str], Array]) -> Array:
        """The tensor that these source tensors make. They are left as they are."""

        def do(step: Step, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
            made = step.op(*args, **kwargs)
            return [made] if isinstance(made, Tensor) else list(made)

        return to_numpy(self._evaluate(do, lambda name: to_torch(read(name)), lambda constant: constant))

    def spread(self, label: Callable[[int], Spread], *, exact: bool) -> Spread:
        """What labels become, one for each of ``sources``; with ``exact`` computed in float64 throughout, whatever the
        function rounds to. Raises Unreadable."""
        number = {name: i for i, name in enumerate(self.sources)}

        def do(step: Step, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
            if exact:
                args, kwargs = _promoted(step, args, kwargs)
            return perform(step.op, args, kwargs, step.shapes)

        def source(name: str) -> Tensor:
            given = label(number[name])
            return to_torch(given.base).expand(given.shape)

        try:
            made = self._evaluate(do, source, lambda constant: _exact(constant) if exact else constant)
        except RuntimeError as cause:
            raise Unreadable(str(cause).splitlines()[0]) from cause
        return Spread(to_numpy(thinned(made)), tuple(made.shape))

    @property
    def stacked(self) -> int | None:
        """An axis whose slices were put together, each from tensors of its own; None where none is seen."""
        return stacked_axis(self.recording, self.made)

    def slice(self, axis: int, index: int) -> Program:
        """What makes one slice of the tensor, without that axis."""
        return Program(self.recording, pick(self.recording, self.made, axis, index))

    @cached_property
    def _selections(self) -> dict[int, tuple[int, int]]:
        """The steps that select, with the axis of the source and the index."""
        steps, found = self.recording.steps, dict[int, tuple[int, int]]()
        at = [i for i in self._steps if steps[i].source]
        if len(at) != 1:
            return found
        (source,) = at
        axes = list(range(len(steps[source].shapes[0])))
        takers = self._takers(source)
        while len(takers) == 1 and str(steps[takers[0]].op) == "aten.select.int":
            _, dim, index = steps[takers[0]].args
            axis = axes.pop(dim)
            found[takers[0]] = axis, index % steps[source].shapes[0][axis]
            takers = self._takers(takers[0])
        return found

    def _takers(self, wanted: int) -> list[int]:
        return [i for i in self._steps if any(ref.step == wanted for ref in self.recording.steps[i].refs)]

    @cached_property
    def _steps(self) -> list[int]:
        return self.recording.closure(self.made)

    def _evaluate(self, do: Do, source: Callable[[str], Tensor], constant: Callable[[Tensor], Tensor]) -> Tensor:
        steps, made = self.recording.steps, dict[int, list[Tensor]]()
        last = {ref.step: i for i in self._steps for ref in steps[i].refs}
        for i in self._steps:
            step = steps[i]
            if step.source:
                made[i] = [source(step.source)]
            elif step.constant is not None:
                made[i] = [constant(step.constant)]
            else:
                args, kwargs = tree_map_only(Ref, lambda ref: made[ref.step][ref.output], (step.args, step.kwargs))
                made[i] = do(step, args, kwargs)
                del args, kwargs
            for used in {ref.step for ref in step.refs}:
                if last[used] == i and used != self.made.step:
                    del made[used]
        return made[self.made.step][self.made.output]


def recorded(function: Function, specs: Mapping[str, TensorSpec]) -> dict[str, Program]:
    """What makes each target of a conversion. It is recorded twice: MappingError where the two differ, as they do where
    it draws random numbers; Unrecordable where it needs values."""
    found, again = (_programs(record(function, specs)) for _ in range(2))
    for name, program in found.items():
        if name not in again or again[name].key != program.key:
            raise undetermined(name)
    return found


def _programs(recording: Recording) -> dict[str, Program]:
    return {name: Program(recording, ref) for name, ref in recording.targets.items()}


def _promoted(step: Step, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Every floating-point dtype that an op is given, as float64."""
    if str(step.op) == "aten.view.dtype":
        raise Unreadable("the bits of a tensor are taken for another dtype")

    def wide(leaf: Any) -> Any:
        return torch.float64 if isinstance(leaf, torch.dtype) and leaf.is_floating_point else leaf

    return tree_map(wide, (args, kwargs))


def _exact(constant: Tensor) -> Tensor:
    return constant.double() if constant.is_floating_point() else constant
