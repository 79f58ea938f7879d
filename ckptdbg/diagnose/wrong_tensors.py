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
            others = f" (and so did {pairs} more of these entries)" if pairs else ""
            return f"{first.how}{others}; worst in {first.tensor} at {worst}. Convert or load both again."
        others = f" (and {more} more of this entry)" if more else ""
        return (
            f"{first.tensor}{others} is not what the mapping makes of the source: {first.how}; worst at {worst}. "
            "Convert or load this tensor again."
        )

    def _listed(self) -> list[str]:
        # where the sentence tells each tensor by itself nothing is said of it again
        told = len({d.how for d in self.differences}) == 1 or self.differences[0].exchanged
        lines = [
            f"{d.tensor}: {'' if told else f'{d.how}; '}{d.wrong} of {d.size} elements beyond rounding of the stored "
            "dtype"
            for d in self.differences[:_MOST_LISTED]
        ]
        rest = len(self.differences) - len(lines)
        return [*lines, f"and {rest} more tensors"] if rest else lines


def wrong_tensors(differences: Sequence[TensorDifference], mapping: BoundMapping) -> list[WrongTensors]:
    """Differences, each with those that have the same cause: tensors of one entry of which the same is said; two
    entries that hold each other's tensors, or one that holds another's, in whatever layers; layers that hold other
    layers' tensors, in all entries in which they are the same layers."""
    owners = {d.tensor: _owner(d, mapping) for d in differences}
    moved = _moved_layers(mapping, owners)
    groups: dict[tuple, list[TensorDifference]] = defaultdict(list)
    for d in differences:
        own, other = mapping.entry_of_target[d.tensor], owners[d.tensor]
        if other is None:
            # a number of elements says nothing of another tensor's elements
            groups[own.name, d.tensor if d.how[0].isdigit() else d.how].append(d)
        elif _is_moved(own, other):
            groups["layers", *moved[_template(own, d.tensor)].items()].append(d)
        else:
            pair = (own.name, other.name)
            groups["entries", *(sorted(pair) if d.exchanged else pair)].append(d)
    found = []
    for group in groups.values():
        entries = tuple(mapping.entry_of_target[d.tensor] for d in group)
        # where one sentence says it all it names the tensors
        several = len({d.how for d in group}) > 1
        layers = moved.get(_template(entries[0], group[0].tensor), {}) if several else {}
        found.append(WrongTensors(tuple(group), entries, layers))
    return found


def _owner(difference: TensorDifference, mapping: BoundMapping) -> BoundEntry | None:
    """The instance that makes what stands in another tensor's place, where that is a whole tensor."""
    piece, owner = difference.piece, difference.owner
    return None if owner is None or owner.lane or piece.lane else mapping.entry_of_target.get(owner.tensor)


def _is_moved(own: BoundEntry, other: BoundEntry) -> bool:
    return own.name == other.name and own.layer != other.layer


def _template(entry: BoundEntry, tensor: str) -> tuple[str, int]:
    """The same for a target of an entry in all its layers."""
    return entry.name, entry.targets.index(tensor)


def _moved_layers(
    mapping: BoundMapping, owners: Mapping[str, BoundEntry | None]
) -> dict[tuple[str, int], dict[str, str]]:
    """By target of an entry, the layer whose tensor stands in each layer."""
    found: dict[tuple[str, int], dict[str, str]] = defaultdict(dict)
    for tensor, other in owners.items():
        own = mapping.entry_of_target[tensor]
        if other is not None and _is_moved(own, other):
            found[_template(own, tensor)][own.layer or ""] = other.layer or ""
    return found


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
