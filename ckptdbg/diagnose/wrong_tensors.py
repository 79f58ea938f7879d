"""Which wrong tensors have one cause, and the finding that tells it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ckptdbg.diagnose.suspects import references
from ckptdbg.diagnose.tensors import TensorDifference
from ckptdbg.mapping import BoundEntry, BoundMapping
from ckptdbg.result import Finding, Repair

_MOST_LISTED = 8


@dataclass(frozen=True)
class WrongTensors:
    """Differences that are one finding."""

    differences: tuple[TensorDifference, ...]
    entries: tuple[BoundEntry, ...]
    """Of each difference, the instance that makes the tensor."""
    layers: Mapping[str, str]
    """Where whole layers of an entry moved: by layer, the one that its tensors belong to."""

    @property
    def tensors(self) -> list[str]:
        return [d.tensor for d in self.differences]

    def finding(self, site: str | None) -> Finding:
        """``site`` is where they show first, None where they do not."""
        return Finding(
            kind="tensor",
            cause="checkpoint",
            effect="diverges",
            entries=references(self.entries),
            layers=[],
            site=site or self.tensors[0],
            ratio=None,
            explanation=self._sentence(),
            repair=_made_again(self.entries),
            evidence=[
                *self._listed(),
                *([] if site else ["no compared site shows it: this probe does not exercise the wrong elements"]),
            ],
        )

    def _sentence(self) -> str:
        first, more = self.differences[0], len(self.differences) - 1
        worst = f"[{', '.join(map(str, first.first))}]: {first.found:.6g} where {first.expected:.6g} is due"
        if self.layers:
            names = _few([e.name for e in references(self.entries)], 3)
            moved = _few([f"layer {layer} what layer {other} should" for layer, other in self.layers.items()])
            return (
                f"Layers of {names} hold what other layers should: {moved}; worst in {first.tensor} at {worst}. "
                "Convert or load these tensors again."
            )
        if first.exchanged:
            pairs = len({d.how for d in self.differences}) - 1
            others = f" (and so did {pairs} more {'pairs' if pairs > 1 else 'pair'} of tensors)" if pairs else ""
            again = "these tensors" if pairs else "both"
            return f"{first.how}{others}; worst in {first.tensor} at {worst}. Convert or load {again} again."
        others = f" (and {more} more of this entry)" if more else ""
        return (
            f"{first.tensor}{others} is not what the mapping makes of the source: {first.how}; worst at {worst}. "
            "Convert or load this tensor again."
        )

    def _listed(self) -> list[str]:
        # what the sentence tells of the one or the two that it is about is not said again
        told = len({d.how for d in self.differences}) == 1
        what = ["" if told else f"{_holds(d)}; " for d in self.differences]
        lines = [
            f"{d.tensor}: {said}{d.wrong} of {d.size} elements beyond rounding of the stored dtype"
            for d, said in zip(self.differences[:_MOST_LISTED], what, strict=False)
        ]
        if len(self.layers) > _MOST_LISTED:
            lines.insert(0, f"by layer, whose it holds: {', '.join(f'{a}: {b}' for a, b in self.layers.items())}")
        rest = len(self.differences) - _MOST_LISTED
        return [*lines, f"and {rest} more, which `ckptdbg verify` lists"] if rest > 0 else lines


def wrong_tensors(differences: Sequence[TensorDifference], mapping: BoundMapping) -> list[WrongTensors]:
    """Differences, each with those that have the same cause: tensors of one entry of which the same is said; two
    entries that hold each other's tensors, or one that holds another's, in whatever layers; layers that hold other
    layers' tensors, in all entries in which they are the same layers. Of a tensor that holds several layers, or several
    experts, only what is said of it counts."""
    layers = _layers(differences, mapping)
    groups: dict[tuple, list[TensorDifference]] = defaultdict(list)
    for difference in differences:
        groups[_cause(difference, mapping, layers)].append(difference)
    found = []
    for group in groups.values():
        entries = tuple(mapping.entry_of_target[d.tensor] for d in group)
        moved = _moved(group[0], mapping)
        # where one sentence says it all it names the tensors
        several = moved is not None and len({d.how for d in group}) > 1
        found.append(WrongTensors(tuple(group), entries, layers[moved.template] if moved and several else {}))
    return found


@dataclass(frozen=True)
class _Moved:
    """The tensor of one layer of an entry, in another layer."""

    template: tuple[str, int]
    """The entry, and which of its targets."""
    own: str
    other: str


def _cause(
    difference: TensorDifference, mapping: BoundMapping, layers: Mapping[tuple[str, int], Mapping[str, str]]
) -> tuple:
    """The same for differences that have one cause."""
    own, other = mapping.entry_of_target[difference.tensor], _owner(difference, mapping)
    moved = _moved(difference, mapping)
    if moved is not None:
        return "layers", *layers[moved.template].items()
    if other is not None:
        pair = (own.name, other.name)
        return "entries", difference.exchanged, *(sorted(pair) if difference.exchanged else pair)
    # a number of elements says nothing of another tensor's elements
    how = difference.tensor if difference.how[0].isdigit() else difference.how
    return "" if difference.exchanged else own.name, how


def _layers(differences: Sequence[TensorDifference], mapping: BoundMapping) -> dict[tuple[str, int], dict[str, str]]:
    """By target of an entry, the layer whose tensor stands in each layer."""
    found: dict[tuple[str, int], dict[str, str]] = defaultdict(dict)
    for moved in (_moved(d, mapping) for d in differences):
        if moved is not None:
            found[moved.template][moved.own] = moved.other
    return found


def _moved(difference: TensorDifference, mapping: BoundMapping) -> _Moved | None:
    own, other, owner = mapping.entry_of_target[difference.tensor], _owner(difference, mapping), difference.owner
    if owner is None or other is None or own.layer is None or other.layer is None or own.layer == other.layer:
        return None
    templates = [(e.name, e.targets.index(t)) for e, t in ((own, difference.tensor), (other, owner.tensor))]
    return _Moved(templates[0], own.layer, other.layer) if templates[0] == templates[1] else None


def _owner(difference: TensorDifference, mapping: BoundMapping) -> BoundEntry | None:
    """The instance that makes what stands in another tensor's place, where that is a whole tensor."""
    piece, owner = difference.piece, difference.owner
    return None if owner is None or owner.lane or piece.lane else mapping.entry_of_target.get(owner.tensor)


def _holds(difference: TensorDifference) -> str:
    return f"it holds what {difference.owner} should" if difference.exchanged else difference.how


def _few(words: Sequence[str], most: int = _MOST_LISTED) -> str:
    more = len(words) - most
    return ", ".join(words[:most]) + (f" and {more} more" if more > 0 else "")


def _made_again(entries: Sequence[BoundEntry]) -> Repair:
    """For a wrong tensor of the checkpoint the repair is the tensor, never an edit of the mapping."""
    change = "make the tensor again from the source; the mapping stays"
    each = {entry.name: [op.data() for op in entry.ops] for entry in entries}
    first, *rest = (
        Repair(entry=name, change=change, ops_before=ops, ops_after=ops, verified=False) for name, ops in each.items()
    )
    return first.model_copy(update={"together": rest})
