"""A proposal: the draft with its choices settled one way or another, as a mapping, as a table, as JSON."""

from __future__ import annotations

from collections.abc import Mapping as Dict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.errors import MappingError
from ckptdbg.mapping.bound import BoundMapping
from ckptdbg.mapping.file import Mapping
from ckptdbg.mapping.proposal.choices import Choice, changed, choices_of
from ckptdbg.mapping.proposal.plan import Draft, Item, draft
from ckptdbg.mapping.proposal.written import mapping_text


@dataclass(frozen=True)
class Proposal:
    """What is proposed."""

    draft: Draft
    choices: tuple[Choice, ...]
    taken: tuple[int, ...]
    """Of every choice the alternative that stands in the mapping."""
    source: Dict[str, TensorSpec] = field(repr=False)
    target: Dict[str, TensorSpec] = field(repr=False)
    config: Dict[str, Any] = field(repr=False)
    notes: tuple[str, ...] = ()

    @cached_property
    def items(self) -> tuple[Item, ...]:
        """The entries with all choices settled."""
        wanted: dict[str, list[tuple[str, Any]]] = {}
        for choice, taken in zip(self.choices, self.taken, strict=True):
            for name, key, value in choice.alternatives[taken].changes:
                wanted.setdefault(name, []).append((key, value))
        return tuple(changed(item, wanted.get(item.name, ())) for item in self.draft.items)

    @cached_property
    def mapping(self) -> Mapping:
        """The proposed mapping."""
        settled = list(zip(self.choices, self.taken, strict=True))
        return Mapping.loads(mapping_text(self.draft, self.items, self.notes, settled), file="<proposed>")

    def bound(self) -> BoundMapping:
        """The mapping with its tensors: whatever is proposed binds."""
        return self.mapping.bind(self.config, self.source, self.target)

    @property
    def complete(self) -> bool:
        """Whether every parameter of both sides is paired."""
        return not self.draft.unexplained and not self.draft.unused

    @property
    def left_out(self) -> list[str]:
        """Source tensors that no entry needs to use: tables, and heads that are the embedding."""
        return [*self.draft.tables, *(name for family in self.draft.tied for name in family.names)]

    def taking(self, choice: str, alternative: int) -> Proposal:
        """The same with another alternative of one choice."""
        at = [c.name for c in self.choices].index(choice)
        return replace(self, taken=(*self.taken[:at], alternative, *self.taken[at + 1 :]))

    def settled(self, taken: Sequence[int]) -> Proposal:
        return replace(self, taken=tuple(taken))


def propose(
    source: Dict[str, TensorSpec], target: Dict[str, TensorSpec], config: Dict[str, Any] | None = None
) -> Proposal:
    """Propose a mapping from names, shapes and the source's config alone. Raises MappingError where a side has no
    tensors, or where no shape of one side agrees with any of the other."""
    found = draft(source, target, config or {})
    if not found.items:
        hint = "are these two checkpoints of one model?"
        raise MappingError("no target tensor can be made of source tensors: no shapes agree", hint=hint)
    choices = tuple(choices_of(found))
    notes = (
        "Proposed from names and shapes alone: read it before you use it. A choice is something they do not tell.",
    )
    proposal = Proposal(found, choices, (0,) * len(choices), source, target, config or {}, notes)
    proposal.bound()
    return proposal
