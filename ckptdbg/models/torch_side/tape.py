"""How parameter-derived values are computed: recorded once, replayed with other parameters.

Values are known by their place in memory (see ``tensors.place``). The tape keeps views and in-place writes as they are,
so a replay aliases exactly as the model does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from ckptdbg.models.torch_side.promote import default_float64, promote, promoted_tensor
from ckptdbg.models.torch_side.tensors import Place, map_leaves, op_name, place, storage_id, tensors_in

_SAME_VALUE = frozenset({"_to_copy", "clone", "contiguous", "alias", "detach", "lift_fresh", "lift"})
"""Operators that give the same values again: runs in different precisions differ in where they occur."""


@dataclass(frozen=True)
class Ref:
    """A value that no input reaches. ``key`` is equal in two runs when it was computed the same way."""

    id: int
    names: tuple[str, ...]
    """Parameters it is computed from."""
    key: int
    storage: int
    """Memory that it lies in."""


@dataclass(frozen=True)
class _Step:
    func: Any
    args: Any
    kwargs: Any
    outs: tuple[int, ...]
    reads: tuple[int, ...]
    storages: frozenset[int]
    """Memory that the results lie in: what the step writes or looks at."""
    read_storages: frozenset[int]


@dataclass
class Tape:
    """``recording=False`` keeps names and keys only, no steps."""

    recording: bool = True
    _ids: Iterator[int] = field(default_factory=count)
    _refs: dict[Place, Ref] = field(default_factory=dict)
    _roots: dict[int, str | Tensor] = field(default_factory=dict)
    _steps: list[_Step] = field(default_factory=list)
    _writes: dict[int, tuple[tuple[str, ...], int]] = field(default_factory=dict)
    """What was written in place into a memory, for all who see it: parameters and key."""
    _held: dict[int, StorageWeakRef] = field(default_factory=dict)
    """An address is not reused while a weak reference to it exists."""

    def root(self, tensor: Tensor, name: str, *, key: str, names: tuple[str, ...]) -> None:
        """A parameter. ``names`` are all its names, tied ones included; ``key`` is what they have in common."""
        ref = self._new(tensor, names, hash(("parameter", key)))
        self._roots[ref.id] = name

    def ref(self, tensor: Tensor) -> Ref:
        """The value at this place; one that is not known is a constant from outside."""
        known = self._refs.get(place(tensor))
        if known is not None:
            names, key = self._writes.get(known.storage, ((), None))
            return (
                known if key is None else replace(known, names=_joined(known.names, names), key=hash((known.key, key)))
            )
        ref = self._new(tensor, (), hash(("constant", tuple(tensor.shape), str(tensor.dtype))))
        self._roots[ref.id] = tensor
        return ref

    def note(self, func: Any, args: Any, kwargs: Any, outs: Any) -> None:
        """A call without activations."""
        results = list(tensors_in(outs))
        if not results:
            return
        read = [self.ref(tensor) for tensor in tensors_in(args, kwargs)]
        names = _joined(*(ref.names for ref in read))
        name = op_name(func)
        key = read[0].key if name in _SAME_VALUE and read else hash((name, self._key(args), self._key(kwargs)))
        stored_args, stored_kwargs = map_leaves(self._stored, args), map_leaves(self._stored, kwargs)
        made = [self._new(out, names, key if index == 0 else hash((key, index))) for index, out in enumerate(results)]
        if func._schema.is_mutable:
            self._note_write(made[0], names, key)
        if self.recording:
            outs, reads = tuple(ref.id for ref in made), tuple(ref.id for ref in read)
            storages, read_storages = (frozenset(ref.storage for ref in refs) for refs in (made, read))
            self._steps.append(_Step(func, stored_args, stored_kwargs, outs, reads, storages, read_storages))

    def _note_write(self, target: Ref, names: tuple[str, ...], key: int) -> None:
        before, history = self._writes.get(target.storage, ((), 0))
        self._writes[target.storage] = (_joined(before, names), hash((history, key)))

    def replay(self, wanted: Sequence[Ref], value_of: Callable[[str], Tensor]) -> list[Tensor]:
        """The values ``wanted``, in float64, for the parameters that ``value_of`` gives."""
        steps = self._needed(wanted)
        last = {ref: index for index, step in enumerate(steps) for ref in (*step.reads, *step.outs)}
        values: dict[int, Tensor] = {}

        def load(ref: int) -> Tensor:
            if ref not in values:
                root = self._roots[ref]
                values[ref] = promoted_tensor(value_of(root) if isinstance(root, str) else root.clone())
            return values[ref]

        keep = {ref.id for ref in wanted}
        with torch.no_grad(), default_float64():
            for index, step in enumerate(steps):
                resolve = lambda leaf: load(leaf.id) if isinstance(leaf, Ref) else leaf  # noqa: E731
                args, kwargs = promote(step.func, map_leaves(resolve, step.args), map_leaves(resolve, step.kwargs))
                for ref, value in zip(step.outs, tensors_in(step.func(*args, **kwargs)), strict=True):
                    values[ref] = value
                for ref in {*step.reads, *step.outs} - keep:
                    if last[ref] == index:
                        values.pop(ref, None)
            return [load(ref.id) for ref in wanted]

    def _needed(self, wanted: Sequence[Ref]) -> list[_Step]:
        """Steps that touch the memory of what is wanted, and what those need in turn."""
        memory = {ref.storage for ref in wanted}
        needed: list[_Step] = []
        for step in reversed(self._steps):
            if step.storages & memory:
                memory |= step.read_storages
                needed.append(step)
        return needed[::-1]

    def _new(self, tensor: Tensor, names: tuple[str, ...], key: int) -> Ref:
        memory = storage_id(tensor)
        ref = Ref(next(self._ids), names, key, memory)
        self._refs[place(tensor)] = ref
        if memory not in self._held:
            self._held[memory] = StorageWeakRef(tensor.untyped_storage())
        return ref

    def _stored(self, leaf: Any) -> Any:
        return self.ref(leaf) if isinstance(leaf, Tensor) else leaf

    def _key(self, tree: Any) -> int:
        """Structural: a dtype is left out, because promotion changes it."""

        def leaf(value: Any) -> Any:
            if isinstance(value, Tensor):
                return self.ref(value).key
            return None if isinstance(value, torch.dtype | float) else str(value)

        return hash(str(map_leaves(leaf, tree)))


def _joined(*names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for some in names for name in some))
