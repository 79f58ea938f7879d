"""The choices of a proposal, settled by evidence: the target's own tensors where it has some, else by running."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product
from typing import Literal

from ckptdbg.errors import MappingError
from ckptdbg.mapping import Mapping as TensorMapping
from ckptdbg.mapping.proposal import Proposal, propose
from ckptdbg.mapping.proposal.written import printable
from ckptdbg.proposers.standing import Stand
from ckptdbg.result import Result
from ckptdbg.session import Session

How = Literal["tensors", "running", "no effect", "open"]
Score = Callable[[TensorMapping], int]
# Alternatives of one place are tried in all combinations up to this many: at most 5 scales with 3 rotary orders and 2
# orders of heads.
_MOST_TOGETHER = 64
# A place that could not be settled before its neighbours were is tried again.
_MOST_PASSES = 3


@dataclass(frozen=True)
class Decision:
    """How one choice was settled."""

    choice: str
    taken: str
    how: How
    also: tuple[str, ...] = ()
    """Alternatives that do as well: the evidence cannot tell them apart."""
    others: tuple[tuple[str, int], ...] = ()
    """What the other alternatives leave wrong: tensors, or places that diverge."""


@dataclass(frozen=True)
class Decided:
    """A proposal after the evidence."""

    proposal: Proposal
    mapping: TensorMapping
    """What won, with the repairs that the diagnosis found where the choices did not do."""
    result: Result
    decisions: tuple[Decision, ...]
    repaired: tuple[str, ...]
    """Repairs beyond the choices, in words."""
    on_another_seed: bool
    """Whether it holds on other tokens too; False as well where there are no tokens to draw."""
    runs: int


def propose_for(session: Session) -> Proposal:
    """Propose for the two models of a session, from their specs alone, and give the session the proposed mapping.

    Raises MappingError where some target tensor has no source: such a model cannot be filled.
    """
    config = session.source.config or session.loaded_target.config or {}
    proposal = propose(session.source.specs, session.loaded_target.specs, config)
    if proposal.draft.unexplained:
        missing = [str(f) for f in proposal.draft.unexplained]
        hint = "write an entry for it by hand: `ckptdbg mapping propose CONFIG -o FILE` gives the others"
        raise MappingError(f"nothing makes {', '.join(missing[:3])}, so the target cannot be run", hint=hint)
    vars(session)["unbound_mapping"] = proposal.mapping
    return proposal


def decide(session: Session, proposal: Proposal) -> Decided:
    """Settle every choice that the evidence settles. ``session`` has the proposed mapping (``propose_for``)."""
    stand = Stand(session, session.progress)
    by_tensors = session.config.target.path is not None
    score: Score = stand.wrong_tensors if by_tensors else stand.places
    settled = _settled(proposal, score, (lambda _: set()) if by_tensors else stand.suspects)
    decisions = tuple(_decisions(settled, score, "tensors" if by_tensors else "running"))
    won = stand.candidate(settled.mapping)
    result = won.compare()
    mapping, repaired = settled.mapping, ()
    if result.verdict != "equivalent" and won.diagnosis.mended:
        mapping = won.diagnosis.mapping
        repaired = tuple(f.repair.change for f in result.findings if f.repair is not None and f.repair.verified)
        won = stand.candidate(mapping)
        result = won.compare()
    again = _holds_again(stand, mapping) if result.verdict == "equivalent" else False
    return Decided(settled, mapping, result, decisions, repaired, again, stand.runs)


def _settled(proposal: Proposal, score: Score, suspects: Callable[[TensorMapping], set[str]]) -> Proposal:
    """The best alternatives, place after place; of equally good ones the likeliest. ``suspects`` gives the entries that
    may be at fault under a mapping: their choices are tried first."""
    best = score(proposal.mapping)
    for _ in range(_MOST_PASSES):
        before = best
        for members in _places(proposal, suspects):
            if best == 0:
                return proposal
            for candidate in _candidates(proposal, members):
                found = score(candidate.mapping)
                if found < best:
                    proposal, best = candidate, found
                if best == 0:
                    break
        if best == before:
            break
    return proposal


def _places(proposal: Proposal, suspects: Callable[[TensorMapping], set[str]]) -> Iterator[list[int]]:
    """Indices of the choices that show together: those of entries under suspicion first, the fewest combinations
    first."""
    groups: dict[str, list[int]] = {}
    for i, choice in enumerate(proposal.choices):
        if len(choice.alternatives) > 1:
            groups.setdefault(choice.place, []).append(i)
    named = suspects(proposal.mapping)

    def order(members: list[int]) -> tuple[bool, int]:
        chosen = [proposal.choices[i] for i in members]
        return not any(named & set(c.items) for c in chosen), math.prod(len(c.alternatives) for c in chosen)

    yield from sorted(groups.values(), key=order)


def _candidates(proposal: Proposal, members: Sequence[int]) -> Iterator[Proposal]:
    """All combinations of the alternatives of some choices, those that change least first."""
    options = product(*(range(len(proposal.choices[i].alternatives)) for i in members))
    ordered = sorted(options, key=lambda taken: (sum(t > 0 for t in taken), sum(taken)))
    for taken in islice(ordered, _MOST_TOGETHER):
        chosen = dict(zip(members, taken, strict=True))
        yield proposal.settled([chosen.get(i, t) for i, t in enumerate(proposal.taken)])


def _decisions(proposal: Proposal, score: Score, how: How) -> Iterator[Decision]:
    """Every choice with what each of its other alternatives would leave wrong, all else as it was settled."""
    best = score(proposal.mapping)
    for choice, taken in zip(proposal.choices, proposal.taken, strict=True):
        found = [
            (other.text, score(proposal.taking(choice.name, i).mapping))
            for i, other in enumerate(choice.alternatives)
            if i != taken
        ]
        also = tuple(text for text, left in found if left <= best)
        said: How = "open" if not found or best else "no effect" if len(also) == len(found) else how
        yield Decision(choice.name, choice.alternatives[taken].text, said, also, tuple(found))


def _holds_again(stand: Stand, mapping: TensorMapping) -> bool:
    """Whether nothing diverges on other tokens either."""
    session = stand.session
    if not any(name in session.inputs for name in ("input_ids", "decoder_input_ids")):
        return False
    other = stand.candidate(mapping, seed=session.config.probe.seed + 1)
    return other.comparison.output.free.divergent is False and not any(
        s.isolated.divergent for s in other.comparison.sites
    )


def with_notes(decided: Decided) -> str:
    """The mapping that won as a file, with how each choice was settled above it."""
    by = f"{decided.runs} runs of both models" if decided.runs else "the target's tensors"
    again = ", on a second seed too" if decided.on_another_seed else ""
    lines = [f"Proposed from names and shapes, settled by {by}: {decided.result.verdict}{again}"]
    for d in decided.decisions:
        tail = f"; as good: {'; '.join(d.also)}" if d.also else ""
        lines.append(f"{d.choice}: {d.taken} ({d.how}{tail})")
    lines += [f"repaired: {change}" for change in decided.repaired]
    body = decided.mapping.text
    start = body.index("\nversion: 1\n") + 1  # behind the comments of the proposal, each of one line
    return "".join(f"# {printable(line)}\n" for line in lines) + body[start:]
