"""A proposed mapping for review: what is paired with what, how, how sure, and what is left to choose."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ckptdbg.mapping.proposal import Choice, Item, Proposal
from ckptdbg.mapping.proposal.choices import settled_order
from ckptdbg.mapping.proposal.written import tensors_in, why
from ckptdbg.report.names import count, op, visible


def lines(proposal: Proposal) -> Iterator[str]:
    """The plan as text, one entry after the other, then the choices, then what is left over."""
    for item in proposal.items:
        yield from _entry(item)
    if proposal.choices:
        yield ""
        yield "left to choose"
    for number, (choice, taken) in enumerate(zip(proposal.choices, proposal.taken, strict=True), 1):
        yield f"{number:3}. {visible(choice.name)}: {visible(choice.question)}"
        for i, alternative in enumerate(choice.alternatives):
            yield f"       {'*' if i == taken else '-'} {visible(alternative.text)}"
    yield ""
    for what, families in (("nothing makes", proposal.draft.unexplained), ("nobody uses", proposal.draft.unused)):
        for family in families:
            yield f"{what}  {visible(family)} {family.shape}"
    for family in proposal.draft.tied:
        yield f"left out     {visible(family)}: the target has no head, so it is taken to be the embedding"
    made, missing = tensors_in(proposal.items), sum(len(f.names) for f in proposal.draft.unexplained)
    open_choices = sum(len(c.alternatives) > 1 for c in proposal.choices)
    paired = f"{made} of {made + missing} target tensors in {count(len(proposal.items), 'entry')}"
    yield f"{paired}; {count(open_choices, 'choice')} open"


def _entry(item: Item) -> Iterator[str]:
    sources, targets = settled_order(item)
    for target in targets:
        yield f"{visible(target)} {target.shape}"
    for source in sources:
        yield f"  from {visible(source)} {source.shape}"
    for step in item.recipe.ops():
        yield f"    {op(step)}"
    yield f"  {visible(why(item))}"


def plan_data(proposal: Proposal) -> dict[str, Any]:
    """The plan as data for JSON: entries, choices, and what is left over."""
    return {
        "schema": "ckptdbg.proposal/1",
        "entries": [_entry_data(item) for item in proposal.items],
        "choices": [_choice_data(c, t) for c, t in zip(proposal.choices, proposal.taken, strict=True)],
        "unexplained": [str(f) for f in proposal.draft.unexplained],
        "unused": [str(f) for f in proposal.draft.unused],
        "tied": [str(f) for f in proposal.draft.tied],
        "complete": proposal.complete,
        "mapping": proposal.mapping.text,
    }


def _entry_data(item: Item) -> dict[str, Any]:
    sources, targets = settled_order(item)
    return {
        "name": item.name,
        "sources": [str(f) for f in sources],
        "targets": [str(f) for f in targets],
        "shapes": {"sources": [list(f.shape) for f in sources], "targets": [list(f.shape) for f in targets]},
        "ops": item.recipe.ops(),
        "sure": item.sure,
        "likeness": round(item.likeness, 3),
        "rivals": [str(f) for f in item.rivals],
    }


def _choice_data(choice: Choice, taken: int) -> dict[str, Any]:
    return {
        "name": choice.name,
        "question": choice.question,
        "alternatives": [a.text for a in choice.alternatives],
        "taken": taken,
        "entries": list(choice.items),
    }
