"""A mapping recovered from two checkpoints: which source tensors made each target tensor, and how, by their values."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from collections.abc import Mapping as Dict
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.errors import MappingError
from ckptdbg.mapping.check.axes import mixed_axes
from ckptdbg.mapping.check.subject import read_subject
from ckptdbg.mapping.file import Mapping
from ckptdbg.mapping.recovery.explain import Found, applied, explain
from ckptdbg.mapping.recovery.going_on import went_on
from ckptdbg.mapping.recovery.hashing import Hashed, pieces
from ckptdbg.mapping.recovery.matching import tensors_in
from ckptdbg.mapping.recovery.siblings import like_siblings, odd_ones
from ckptdbg.mapping.recovery.sources import Originals, Rounded
from ckptdbg.mapping.recovery.trained import by_name, related
from ckptdbg.mapping.tracing.families import Made
from ckptdbg.mapping.tracing.joining import Joiner, Places, Recipe, Unfactored
from ckptdbg.mapping.tracing.numerics import Values, with_cast
from ckptdbg.mapping.tracing.spread import Spread
from ckptdbg.mapping.tracing.writing import Untraced, mapping_text, numbers_of, sizes_of

Array = NDArray[Any]
Read = Callable[[str], Array]
# A wrong element leaves most of a tensor as it was; where more differs, the tensor is called something else.
_MOST_WRONG = 0.5


NO_VALUES = (
    "no source tensor has its values: corrupt, trained further, newly initialised, or changed in a way not tried "
    "(quantised, parts scaled differently)"
)


@dataclass(frozen=True)
class Unexplained:
    """What of a target tensor no source tensor explains."""

    target: str
    wrong: int
    """How many of its elements are not what the others say; all of them where nothing was found."""
    size: int
    at: tuple[int, ...] | None
    """Where one of them is."""
    reason: str
    correlation: float | None = None
    """Of its values with what they would be if it were made as its siblings are, or by its name."""


@dataclass(frozen=True)
class Recovered:
    """What was found."""

    mapping: Mapping
    unexplained: tuple[Unexplained, ...]
    """Tensors, or elements of them, that come from nowhere: corrupt, trained further, or newly initialised."""
    odd: tuple[str, ...]
    """Targets that are made in another way than the same tensor of most other layers, in words."""
    mixed: tuple[str, ...]
    """Entries that hold the values of a source tensor with its axes mixed (a reshape where a transposition belongs), in
    words."""
    ambiguous: tuple[str, ...]
    """Targets that several source tensors hold the values of: chosen by name."""
    unused: tuple[str, ...]
    """Source tensors that nothing came from."""


def recover(
    source: Dict[str, TensorSpec],
    read_source: Read,
    target: Dict[str, TensorSpec],
    read_target: Read,
    config: Dict[str, Any] | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Recovered:
    """Explain every tensor of a converted checkpoint by the tensors of its source.

    ``config`` gives sizes and factors their names. Both are read a tensor at a time, the source once for every dtype of
    the target and again where its values are looked at. Raises MappingError where nothing is explained.
    """
    names, order = list(source), {name: i for i, name in enumerate(target)}
    numbers = numbers_of(config or {})
    rounded: dict[str, Rounded] = {}
    originals = Originals(dict(source), read_source)
    made, unexplained, ambiguous = [], [], []
    names_of_sizes = sizes_of(numbers)
    for name, spec in target.items():
        progress(f"recovering {name}")
        if spec.dtype not in rounded:
            rounded[spec.dtype] = Rounded(originals, spec.dtype)
        values = np.asarray(read_target(name))
        recipe, left, guessed = _explained(name, values, rounded[spec.dtype], numbers, names_of_sizes)
        if recipe is not None:
            made.append(Made(name, tuple(names[i] for i in recipe.sources), recipe.ops, recipe.stacks))
        if left is not None:
            unexplained.append(left)
        if guessed:
            ambiguous.append(name)
    odd = tuple(odd_ones(made))
    for i, left in enumerate(unexplained):
        if left.wrong == left.size > 0:
            unexplained[i] = _begun(left, target, read_target, made, source, read_source)
    if not made:
        raise MappingError(
            "no target tensor has the values of any source tensor", hint="are these the two checkpoints?"
        )
    made.sort(key=lambda m: order[m.target])
    used = {s for m in made for s in m.sources}
    unused = tuple(n for n in names if n not in used)
    present = {m.target for m in made}
    left = [Untraced(u.target, u.reason) for u in unexplained if u.target not in present]
    text = mapping_text(made, [*names, *target], unused, left, "the two checkpoints, by their values")
    mapping = Mapping.loads(text, file="<recovered>")
    subject = read_subject(mapping, config or {}, source, target)
    mixed = tuple(f"{remark.entry}: {remark.found}" for remark in mixed_axes(subject))
    return Recovered(mapping, tuple(unexplained), odd, mixed, tuple(ambiguous), unused)


def _begun(
    left: Unexplained,
    target: Dict[str, TensorSpec],
    read_target: Read,
    made: list[Made],
    source: Dict[str, TensorSpec],
    read_source: Read,
) -> Unexplained:
    """A tensor of no source values with what it may have been before it was trained further, which goes into ``made``:
    as its siblings are made, else by its name where its values go with that."""
    name, spec = left.target, target[left.target]
    values = np.asarray(read_target(name))
    usual = like_siblings(name, spec, made, source, target)
    if usual is not None:
        found = related(usual, source, read_source, spec, values)
    else:
        tried = [related(m, source, read_source, spec, values) for m in by_name(name, spec, source)]
        found = max(tried, key=lambda r: abs(r.correlation), default=None)
    if found is None or not values.any():
        return left if usual is None else _with_usual(left, usual, made, left.reason)
    reason = f"no source tensor has its values, {found.words}" if left.reason == NO_VALUES else left.reason
    left = dataclasses.replace(left, correlation=found.correlation)
    if usual is not None:
        return _with_usual(left, usual, made, reason)
    if not found.close:
        return dataclasses.replace(left, reason=reason)
    made.append(found.made)
    return dataclasses.replace(left, reason=f"{reason}; in the mapping it is made as it began, by its name")


def _with_usual(left: Unexplained, usual: Made, made: list[Made], reason: str) -> Unexplained:
    made.append(usual)
    return dataclasses.replace(left, reason=f"{reason}; in the mapping it is made as its siblings are")


def _explained(
    name: str,
    values: Array,
    sources: Rounded,
    numbers: dict[str, float],
    sizes: dict[int, str],
) -> tuple[Recipe | None, Unexplained | None, bool]:
    """How a target is made, what of it is not explained, and whether names decided between equal tensors."""

    def nothing(reason: str) -> tuple[None, Unexplained, bool]:
        return None, Unexplained(name, values.size, values.size, None, reason), False

    if not values.size:
        return nothing("it has no elements that could tell")
    found = explain(values, sources, name, numbers)
    sources.hashes.forget()
    if found is None and not Hashed(values).any():
        return nothing("zeros: it was never loaded")
    if found is None:
        return nothing(NO_VALUES)
    try:
        recipe, wrong = _recipe(values, found, sources.originals, sizes)
    except Unfactored as cause:
        return nothing(str(cause))
    left = None
    if wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        reason = "elements that are not what the rest of the tensor says"
        left = Unexplained(name, int(wrong.sum()), values.size, at, reason)
    return recipe, left, found.ambiguous


def _recipe(values: Array, found: Found, originals: Originals, sizes: dict[int, str]) -> tuple[Recipe, Array]:
    """The recipe of a target, and which of its elements are not what it says."""
    ordinal, index = went_on(found.map, values, originals)
    wrong = _wrong(values, ordinal, index, found, originals)
    if wrong.mean() > _MOST_WRONG:
        raise Unfactored("most of its values are those of no source tensor")
    # what its ops are is known, so that no values need to be shown
    shape, one = values.shape, (1,) * values.ndim
    scale, shift = (Spread(np.full(one, of), shape) for of in (found.scale, found.shift))
    of = Spread(ordinal[(slice(0, 1),) * values.ndim], shape) if not any(ordinal.strides) else Spread.dense(ordinal)
    places = Places(of, (Spread.dense(index),), scale, shift, (), ())

    def written(tensor: int, _: Places) -> Values:
        return Values(with_cast(found.written, values.dtype, originals.dtypes[tensor]))

    return Joiner(originals.shapes, sizes, written).recipe(places), wrong


def _wrong(values: Array, ordinal: Array, index: Array, found: Found, originals: Originals) -> Array:
    """Which elements are not what the source's values behind them become; 0 where there are none behind."""
    used = tensors_in(ordinal)
    # float32, as the mapping computes; whole numbers are only moved
    wide = any(originals.dtypes[i] == np.float64 or originals.dtypes[i].kind in "iu" for i in used)
    kind = np.float64 if wide else np.float32

    def differs(source: Array, at: Array, own: Array) -> Array:
        due = applied(found.ops, source[at].astype(kind), values.dtype)
        return (due != own) & ~((due != due) & (own != own))  # NaN in both is no difference

    wrong = np.asarray(values != 0)
    where_of: dict[int, list[Any]] = {i: [] for i in used}
    for where, piece in pieces(ordinal):
        for i in tensors_in(piece):
            where_of[i].append(where)
    for i in used:  # a tensor at a time: each is read once
        source = originals.values(i).reshape(-1)
        for where in where_of[i]:
            here = ordinal[where] == i
            wrong[where][here] = differs(source, index[where][here], values[where][here])
    return wrong
