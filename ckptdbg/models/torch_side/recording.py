"""A conversion function recorded once, on tensors that have shapes and no values: which ops make each target tensor.

What is recorded is functional: writes in place are turned into ops that return a new tensor, so a target is what its
own ops make and nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.func import functionalize
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_map_only

from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.errors import LoaderError, MappingError
from ckptdbg.models.torch_side.border import to_numpy

aten = torch.ops.aten
Function = Callable[[dict[str, Tensor]], Iterable[tuple[str, Any]]]
_ALIASES = ("aten.lift_fresh.default", "aten.detach.default", "aten.alias.default")
"""Ops that give the same tensor back."""


class Unrecordable(LoaderError):
    """The function looks at values, which a recording has not."""


@dataclass(frozen=True)
class Ref:
    """The tensor that a step makes, by its place among them."""

    step: int
    output: int = 0


@dataclass(frozen=True)
class Step:
    """One op. ``args`` and ``kwargs`` hold refs where it takes tensors; ``shapes`` and ``dtypes`` are its outputs'."""

    op: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[torch.dtype, ...]
    source: str = ""
    """The source tensor, where this is one."""
    constant: Tensor | None = None
    """A tensor that the function brought along."""

    @cached_property
    def refs(self) -> list[Ref]:
        """The tensors it takes."""
        return [leaf for leaf in tree_flatten((self.args, self.kwargs))[0] if isinstance(leaf, Ref)]


@dataclass
class Recording:
    """Every step of a function, in order, and what makes each target."""

    steps: list[Step] = field(default_factory=list)
    targets: dict[str, Ref] = field(default_factory=dict)

    def add(self, step: Step) -> Ref:
        """One step more."""
        self.steps.append(step)
        return Ref(len(self.steps) - 1)

    def shape(self, ref: Ref) -> tuple[int, ...]:
        """Of what a step makes."""
        return self.steps[ref.step].shapes[ref.output]

    def dtype(self, ref: Ref) -> torch.dtype:
        """Of what a step makes."""
        return self.steps[ref.step].dtypes[ref.output]

    def closure(self, ref: Ref) -> list[int]:
        """The steps that a tensor needs, in order."""
        wanted, waiting = {ref.step}, [ref.step]
        while waiting:
            for other in self.steps[waiting.pop()].refs:
                if other.step not in wanted:
                    wanted.add(other.step)
                    waiting.append(other.step)
        return sorted(wanted)


def record(function: Function, specs: Mapping[str, TensorSpec]) -> Recording:
    """Run ``function`` on tensors of these shapes and dtypes that hold nothing; it gives names and tensors. Raises
    Unrecordable where it asks for a value, MappingError where it draws random numbers."""
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake:
        given = {n: torch.empty(s.shape, dtype=getattr(torch, s.dtype)) for n, s in specs.items()}
    recorder = _Recorder()
    for name, tensor in given.items():
        recorder.note_source(name, tensor)
    with ExitStack() as stack:
        for context in (_NoValues(), fake, recorder, torch.no_grad()):
            stack.enter_context(context)
        made = functionalize(lambda tensors: dict(function(tensors)))(dict(given))
    recorder.recording.targets = {name: recorder.ref(value) for name, value in made.items()}
    return recorder.recording


class _NoValues(TorchFunctionMode):
    """A tensor without values has none to give to NumPy."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in ("numpy", "__array__", "data_ptr", "untyped_storage", "storage", "tolist"):
            raise Unrecordable(f"the conversion takes a tensor's values ({name})")
        return func(*args, **(kwargs or {}))


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.recording = Recording()
        self._refs: dict[int, Ref] = {}
        self._kept: list[Tensor] = []  # an id is one tensor's only while that tensor lives

    def note_source(self, name: str, tensor: Tensor) -> None:
        step = Step(None, (), {}, (tuple(tensor.shape),), (tensor.dtype,), source=name)
        self._note(tensor, self.recording.add(step))

    def ref(self, value: Tensor) -> Ref:
        """Of a tensor seen before, or of one that the function brought along."""
        if id(value) in self._refs:
            return self._refs[id(value)]
        if isinstance(value, FakeTensor):
            raise Unrecordable("the conversion makes a tensor in a way that no op tells")
        with _disable_current_modes():
            constant = value.detach().clone()  # the function may go on to change it
        step = Step(None, (), {}, (tuple(value.shape),), (value.dtype,), constant=constant)
        ref = self.recording.add(step)
        self._note(value, ref)
        return ref

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = str(func)
        try:
            out = func(*args, **kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException) as cause:
            raise Unrecordable(f"the conversion looks at values ({name})") from cause
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise MappingError(
                f"the conversion draws random numbers ({name})",
                hint="it must depend on the tensors alone",
            )
        outs = [leaf for leaf in tree_flatten(out)[0] if isinstance(leaf, Tensor)]
        if not outs:
            return out
        same = _same(name, args, outs[0])
        if same is not None:
            self._note(outs[0], self.ref(same))
            return out
        if name == "aten.copy.default":
            self._note(outs[0], self._copied(args[1], outs[0]))
            return out
        refs, named = tree_map_only(Tensor, self.ref, (tuple(args), dict(kwargs)))
        shapes, dtypes = tuple(tuple(o.shape) for o in outs), tuple(o.dtype for o in outs)
        ref = self.recording.add(Step(func, refs, named, shapes, dtypes))
        for place, tensor in enumerate(outs):
            self._note(tensor, Ref(ref.step, place))
        return out

    def _copied(self, written: Tensor, made: Tensor) -> Ref:
        """What is written over a tensor: nothing of that tensor is left but its shape and dtype."""
        ref, shape, dtype = self.ref(written), tuple(written.shape), made.dtype
        if written.dtype != dtype:
            ref = self.recording.add(Step(aten._to_copy.default, (ref,), {"dtype": dtype}, (shape,), (dtype,)))
        if shape != tuple(made.shape):
            shape = tuple(made.shape)
            ref = self.recording.add(Step(aten.expand.default, (ref, list(shape)), {}, (shape,), (dtype,)))
        return ref

    def _note(self, tensor: Tensor, ref: Ref) -> None:
        self._kept.append(tensor)
        self._refs[id(tensor)] = ref


def _same(name: str, args: tuple[Any, ...], made: Tensor) -> Tensor | None:
    """The tensor that an op gives back as it is."""
    if name in _ALIASES:
        return args[0]
    if name == "aten.slice.Tensor" and made.shape == args[0].shape:
        return args[0]
    if name == "aten.slice_scatter.default" and made.shape == args[1].shape:
        return args[1]
    return None


def digest(tensor: Tensor) -> str:
    """A constant's values as text."""
    return hashlib.sha256(to_numpy(tensor).tobytes()).hexdigest()
