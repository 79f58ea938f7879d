"""A proposed mapping for review: what is paired with what, how, how sure, and what is left to choose."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ckptdbg.mapping.proposal import Choice, Item, Proposal
from ckptdbg.mapping.proposal.choices import settled_order
from ckptdbg.mapping.proposal.settled import SCHEMA
from ckptdbg.mapping.proposal.written import tensors_in, why
from ckptdbg.report.names import count, op, visible

if TYPE_CHECKING:
    from ckptdbg.proposers.decide import Decided, Decision


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


def decided_lines(decided: Decided) -> Iterator[str]:
    """How every choice was settled, what the other alternatives would have left wrong, and the verdict."""
    for decision in decided.decisions:
        yield f"{visible(decision.choice)}: {visible(decision.taken)}"
        yield f"    {_how(decision)}"
    for change in decided.repaired:
        yield f"repaired  {visible(change)}"
    again = ", on a second seed too" if decided.on_another_seed else ""
    yield f"{decided.result.verdict} after {count(decided.runs, 'run')}{again}"


def _how(decision: Decision) -> str:
    if not decision.others:
        return "nothing else is possible"
    if decision.how == "no effect":
        return "the others change nothing that these models compute on this probe"
    worst = ", ".join(f"{visible(text)}: {wrong}" for text, wrong in decision.others)
    unit = "tensors of the target it misses" if decision.how == "tensors" else "places that diverge with it"
    also = f"; as good: {'; '.join(map(visible, decision.also))}" if decision.also else ""
    return f"{'not settled' if decision.how == 'open' else 'settled'} ({unit}: {worst}){also}"


def plan_data(proposal: Proposal, decided: Decided | None = None) -> dict[str, Any]:
    """The plan as data for JSON: entries, choices, what is left over, and how the choices were settled."""
    settled = {} if decided is None else {"decided": _decided_data(decided)}
    return {
        "schema": SCHEMA,
        **settled,
        "entries": [_entry_data(item) for item in proposal.items],
        "choices": [_choice_data(c, t) for c, t in zip(proposal.choices, proposal.taken, strict=True)],
        "unexplained": [str(f) for f in proposal.draft.unexplained],
        "unused": [str(f) for f in proposal.draft.unused],
        "tied": [str(f) for f in proposal.draft.tied],
        "complete": proposal.complete,
        "mapping": proposal.mapping.text,
    }


def _decided_data(decided: Decided) -> dict[str, Any]:
    return {
        "verdict": decided.result.verdict,
        "on_another_seed": decided.on_another_seed,
        "runs": decided.runs,
        "decisions": [dataclasses.asdict(decision) for decision in decided.decisions],
        "repaired": list(decided.repaired),
        "mapping": decided.mapping.text,
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
