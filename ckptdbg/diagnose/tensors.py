"""Static evidence on values: every target tensor against what the mapping makes of the source, within its stored
dtype. Tensors are looked at one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ckptdbg.checkpoint.dtypes import as_dtype
from ckptdbg.diagnose.elements import Deviation, deviation, rounding, roundoff, same_bits, wrong_elements
from ckptdbg.diagnose.fingerprints import Fingerprints, Piece, lane_text, pieces
from ckptdbg.diagnose.resemblance import confined, how, is_many
from ckptdbg.mapping import BoundEntry, BoundMapping
from ckptdbg.mapping.entry import compute_dtype
from ckptdbg.mapping.made import origin
from ckptdbg.mapping.ops.values import Cast

Array = NDArray[Any]
Status = Literal["equal", "rounded", "differs"]


@dataclass(frozen=True)
class TensorDifference:
    """A target tensor that is not what the mapping says it should be."""

    tensor: str
    wrong: int
    """Elements outside rounding of the stored dtype."""
    size: int
    first: tuple[int, ...]
    """Index of the worst element."""
    found: float
    expected: float
    how: str
    """One phrase: what the tensor is instead, as far as its own values tell."""
    origin: str | None = None
    """The source element behind the worst one, ``name[index]``; None for padding."""
    piece: Piece = field(kw_only=True)
    """The tensor, or the index of its stacked axes outside of which nothing is wrong."""
    owner: Piece | None = None
    """The other piece whose due values stand here, in their own order."""
    exchanged: bool = False
    """Whether this piece's due values stand in the other one: ``how`` says the same of both."""


@dataclass(frozen=True)
class Due:
    """Target tensors as they should be."""

    mapping: BoundMapping
    made: Mapping[str, Array]
    """In float64, not rounded; gone through in order, and some asked for again by name."""
    stored: Mapping[str, str]
    """Of each, the dtype that the target has it in."""
    sizes: Mapping[str, int]
    """Numbers that a factor may come from, by name."""
    written: Mapping[str, Array] | None = None
    """As a conversion would write them: what is so to the last bit needs no closer look."""

    def entry(self, tensor: str) -> BoundEntry | None:
        """The entry that makes it."""
        return self.mapping.entry_of_target.get(tensor)

    def dtype(self, tensor: str) -> str:
        """What it may be rounded to: as it is stored; or coarser, where the mapping itself says so or computes in less
        than it is stored in."""
        entry = self.entry(tensor)
        ops = entry.ops if entry is not None else ()
        said = [op.dtype for op in ops if isinstance(op, Cast)]
        if entry is not None and any(op.elementwise for op in ops):
            said.append(compute_dtype([np.empty(0, as_dtype(spec.dtype)) for spec in entry.source_specs]).name)
        return max((self.stored[tensor], *said), key=roundoff)

    def exact(self, tensor: str) -> bool:
        """Whether nothing is rounded on the way: it is only moved, into a dtype that holds all its values."""
        entry, stored = self.entry(tensor), as_dtype(self.stored[tensor])
        if entry is None or any(op.elementwise for op in entry.ops):
            return False
        given = [as_dtype(spec.dtype) for spec in entry.source_specs]
        return all(kind == stored or (kind.kind not in "iu" and np.can_cast(kind, stored)) for kind in given)


def compare_tensors(due: Due, read: Callable[[str], Array]) -> list[TensorDifference]:
    """Differences between what is due and what ``read`` gives."""
    return explain(due, read, [name for name, found in walk_tensors(due, read) if found.wrong])


def walk_tensors(
    due: Due, read: Callable[[str], Array], names: Iterable[str] | None = None
) -> Iterator[tuple[str, Deviation]]:
    """Each target tensor against what is due."""
    for name in due.made if names is None else names:
        actual = np.asarray(read(name))
        yield name, _as_written(due, name, actual) or deviation(np.asarray(due.made[name]), actual, due.dtype(name))


def _as_written(due: Due, name: str, actual: Array) -> Deviation | None:
    """The deviation of a tensor that is to the last bit what a conversion would write; None for any other."""
    if due.written is None or not same_bits(np.asarray(due.written[name]), actual):
        return None
    if due.exact(name):
        return Deviation(0, actual.size, True, (), 0.0, 0.0)
    return rounding(np.asarray(due.made[name]), actual)


def explain(due: Due, read: Callable[[str], Array], wrong: Sequence[str]) -> list[TensorDifference]:
    """What the wrong tensors are instead, in their order."""
    prints = Fingerprints(due.made, due.entry, due.dtype)
    with np.errstate(all="ignore"):  # NaN and infinite values show in the phrases
        found = [_explained(due, prints, name, np.asarray(read(name)).astype(np.float64)) for name in wrong]
    return _exchanged(found)


def _exchanged(found: Sequence[TensorDifference]) -> list[TensorDifference]:
    """Of two pieces that hold each other's values the same is said, in one order."""
    owners = {d.piece: d.owner for d in found}
    turn = {piece: i for i, piece in enumerate(owners)}
    told = []
    for d in found:
        if d.owner is not None and owners.get(d.owner) == d.piece:
            first, second = sorted((d.piece, d.owner), key=lambda piece: turn[piece])
            how = f"{first} and {second} changed places: each holds what the other should"
            d = replace(d, how=how, exchanged=True)
        told.append(d)
    return told


def status_of(found: Deviation) -> Status:
    """A deviation in one word."""
    return "differs" if found.wrong else "equal" if found.equal else "rounded"


def _explained(due: Due, prints: Fingerprints, name: str, actual: Array) -> TensorDifference:
    expected, dtype, entry = np.asarray(due.made[name]), due.dtype(name), due.entry(name)
    wrong = wrong_elements(expected, actual, dtype)
    measured = deviation(expected, actual, dtype)
    phrase, piece, owner = _told(due, prints, name, (expected, actual, wrong))
    place = origin(entry, name, measured.worst) if entry is not None else None
    return TensorDifference(
        tensor=name,
        wrong=measured.wrong,
        size=measured.size,
        first=measured.worst,
        found=measured.found,
        expected=measured.expected,
        how=phrase,
        origin=f"{place[0]}[{', '.join(map(str, place[1]))}]" if place else None,
        piece=piece,
        owner=owner,
    )


def _told(
    due: Due, prints: Fingerprints, name: str, values: tuple[Array, Array, Array]
) -> tuple[str, Piece, Piece | None]:
    """The phrase, what of the tensor it is about, and the piece that the values belong to where they are another's."""
    expected, actual, wrong = values
    dtype, entry = due.dtype(name), due.entry(name)
    lane = confined(wrong)
    stacked = {axis for piece in pieces(name, entry, expected.shape) for axis, _ in piece.lane}
    own = Piece(name, tuple(item for item in lane if item[0] in stacked))
    if is_many(wrong):
        other = prints.owner(own, own.of(actual), dtype)
        if other is not None:
            at = f" (in [{lane_text(own.lane)}] alone)" if own.lane else ""
            return f"it holds what {other[0]} should{other[1]}{at}", own, None if other[1] else other[0]
    piece = Piece(name, lane)
    kept = [axis for axis in range(expected.ndim) if axis not in dict(lane)]
    names = {kept.index(axis): text for axis, text in _axis_names(entry, expected.ndim).items() if axis in kept}
    phrase = how(piece.of(expected), piece.of(actual), piece.of(wrong), dtype, names, due.sizes)
    return phrase + (f" (in [{lane_text(lane)}] alone)" if lane else ""), piece, None


def _axis_names(entry: BoundEntry | None, rank: int) -> dict[int, str]:
    stacks = entry.stacks if entry is not None else ()
    return {stack.axis % rank: stack.over for stack in stacks if stack.side == "target"}
