"""Watches one forward pass, operator by operator, and knows what every value is derived from.

A value is *constant*, *parameter-derived* or an *activation*, kept per memory so that views and in-place writes inherit
it. ``Walk`` is the common part; what is done at anchors, meetings and choices is left to its two children (``survey``,
``execute``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from ckptdbg.models.torch_side.choices import Selection, read_selection
from ckptdbg.models.torch_side.contractions import Contraction, decode
from ckptdbg.models.torch_side.layouts import Flat
from ckptdbg.models.torch_side.promote import Jitter, promote, promoted_tensor
from ckptdbg.models.torch_side.rows import Rows
from ckptdbg.models.torch_side.tape import Tape
from ckptdbg.models.torch_side.tensors import Place, is_float, is_lower, op_name, place, storage_id, tensors_in, words

_SHAPE_ONLY = words(
    "zeros_like ones_like empty_like full_like rand_like randn_like new_zeros new_ones new_empty new_full "
    "new_empty_strided empty_permuted"
)
"""Operators that take the shape of a tensor, not its values."""
_NO_ROUNDING = words(
    "_to_copy clone contiguous cat stack index gather index_select lift_fresh scalar_tensor full zeros ones "
    "arange empty tril triu masked_fill where"
)
"""Operators whose results are their arguments' values: jittered once already, or given exactly."""


class Kind(IntEnum):
    CONSTANT = 0
    PARAMETER = 1
    ACTIVATION = 2


@dataclass
class Tag:
    """What is known of one memory."""

    kind: Kind
    feeds: frozenset[int] = frozenset()
    """Anchors whose out reaches it without crossing another anchor."""
    met: frozenset[int] = frozenset()
    """Meetings on those ways."""


class Walk(TorchDispatchMode):
    def __init__(self, tape: Tape, *, promoted: bool = False, jitter: int | None = None) -> None:
        super().__init__()
        self.tape, self.rows = tape, Rows()
        self._promoted = promoted
        self._jitter = None if jitter is None else Jitter(jitter)
        self._tags: dict[int, Tag] = {}
        self._held: dict[int, StorageWeakRef] = {}  # an address is not reused while a weak reference to it exists
        self._outside: dict[Place, tuple[Tensor, Tensor]] = {}

    def start_parameter(self, tensor: Tensor, name: str, *, key: str, names: tuple[str, ...]) -> None:
        self._mark([tensor], Tag(Kind.PARAMETER))
        self.tape.root(tensor, name, key=key, names=names)

    def start_input(self, tensor: Tensor) -> None:
        self._mark([tensor], Tag(Kind.ACTIVATION))
        self.rows.start(tensor)

    def tag(self, tensor: Tensor) -> Tag | None:
        """None for a constant made outside of this forward pass."""
        return self._tags.get(storage_id(tensor))

    def is_activation(self, value: Any) -> bool:
        return self._is(value, Kind.ACTIVATION)

    def is_parameter(self, value: Any) -> bool:
        return self._is(value, Kind.PARAMETER)

    def _is(self, value: Any, kind: Kind) -> bool:
        if not isinstance(value, Tensor):
            return False
        tag = self.tag(value)
        return tag is not None and tag.kind == kind

    # What the children decide.

    def contract(self, name: str, func: Any, args: Any, kwargs: Any, contraction: Contraction) -> tuple[Any, Tag]:
        """Computes an anchor: its result, and the tag of that."""
        raise NotImplementedError

    def choose(self, selection: Selection, feeds: frozenset[int], result: Any) -> Any:
        """A selection among activations: the result to go on with."""
        return result

    def meet(self, name: str, func: Any, args: Any, kwargs: Any, parameters: list[Tensor]) -> frozenset[int]:
        """Parameters meet an activation elsewhere than in an anchor."""
        return frozenset()

    def cast(self, tensor: Tensor, result: Tensor) -> None:
        """A cast to a lower float."""

    # The walk itself.

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = op_name(func), kwargs or {}
        if self._promoted or self._jitter:
            args, kwargs = self._prepared(name, func, args, kwargs)
        tags = [tag for tensor in tensors_in(args, kwargs) if (tag := self.tag(tensor)) is not None]
        kind = max((tag.kind for tag in tags), default=Kind.CONSTANT)
        if kind < Kind.ACTIVATION:
            return self._inactive(name, func, args, kwargs, kind)
        if name in _SHAPE_ONLY:
            result = func(*args, **kwargs)
            self._mark(tensors_in(result), Tag(Kind.CONSTANT))
            return result
        return self._active(name, func, args, kwargs, [tag for tag in tags if tag.kind == Kind.ACTIVATION])

    def _inactive(self, name: str, func: Any, args: Any, kwargs: Any, kind: Kind) -> Any:
        result = func(*args, **kwargs)
        if self._jitter and kind == Kind.CONSTANT and isinstance(result, Tensor) and name not in _NO_ROUNDING:
            memories = {storage_id(tensor) for tensor in tensors_in(args, kwargs)}
            if storage_id(result) not in memories:
                result = self._jitter.computed(result)
        if name == "_to_copy" and is_lower(result.dtype, args[0].dtype) and kind == Kind.PARAMETER:
            self.cast(args[0], result)
        self.tape.note(func, args, kwargs, result)
        self._mark(tensors_in(result), Tag(Kind.CONSTANT if name in _SHAPE_ONLY else kind))
        return result

    def _active(self, name: str, func: Any, args: Any, kwargs: Any, tags: list[Tag]) -> Any:
        contraction = decode(name, args, kwargs, self.is_parameter, self.is_activation)
        if contraction is not None:
            result, tag = self.contract(name, func, args, kwargs, contraction)
            self._mark([result], tag)
            return result
        feeds, met = union(tag.feeds for tag in tags), union(tag.met for tag in tags)
        parameters = [tensor for tensor in tensors_in(args, kwargs) if self.is_parameter(tensor)]
        if parameters:
            met |= self.meet(name, func, args, kwargs, parameters)
        result = func(*args, **kwargs)
        selection = read_selection(name, func, args, kwargs) if feeds else None
        if selection is not None and self.is_activation(selection.scores):
            result = self.choose(selection, feeds, result)
        elif name == "_to_copy" and is_lower(result.dtype, args[0].dtype):
            self.cast(args[0], result)
        self.follow(name, func, args, kwargs, result)
        self._mark(tensors_in(result), Tag(Kind.ACTIVATION, feeds, met))
        return result

    def order(self, tensor: Tensor) -> Tensor | None:
        """What sorts the rows of ``[..., features]`` by token; None unless every token has exactly one row."""
        if tensor.ndim < 2 or not self.is_activation(tensor):
            return None
        (tokens,) = self.rows.matrix(tensor, Flat().split)
        ordered, order = torch.sort(tokens)
        return order if torch.equal(ordered, torch.arange(len(tokens))) else None

    def follow(self, name: str, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        """Tells the tokens of a call's results."""
        self.rows.follow(name, func, args, kwargs, list(tensors_in(result)), self.is_activation)

    def _mark(self, tensors: Any, tag: Tag) -> None:
        for tensor in tensors:
            memory = storage_id(tensor)
            known = self._tags.get(memory)
            if known is None:
                self._tags[memory] = Tag(tag.kind, tag.feeds, tag.met)
                self._held[memory] = StorageWeakRef(tensor.untyped_storage())
            elif known.kind <= tag.kind:  # a view, or a write in place
                known.kind, known.feeds, known.met = tag.kind, known.feeds | tag.feeds, known.met | tag.met

    def _prepared(self, name: str, func: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        if self._jitter and not name.startswith("pow") and any(self.is_activation(t) for t in tensors_in(args, kwargs)):
            scalar = self._jitter.scalar
            args = tuple(scalar(value) if isinstance(value, float) else value for value in args)
            kwargs = {key: scalar(value) if isinstance(value, float) else value for key, value in kwargs.items()}
        return promote(func, args, kwargs, self._prepared_tensor, dtypes=self._promoted)

    def _prepared_tensor(self, tensor: Tensor) -> Tensor:
        if self.tag(tensor) is not None or not is_float(tensor):
            return promoted_tensor(tensor) if self._promoted else tensor
        key = place(tensor)
        if key not in self._outside:  # kept, so that what is written into it is found again
            changed = self._jitter.computed(tensor) if self._jitter else tensor
            self._outside[key] = (tensor, promoted_tensor(changed) if self._promoted else changed)
        return self._outside[key][1]


def union(sets: Iterable[frozenset[int]]) -> frozenset[int]:
    return frozenset().union(*sets)
