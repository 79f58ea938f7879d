"""One round of a diagnosis: one comparison, its causes, and the edits that mend what can be mended."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptdbg.diagnose.definitions.causes import Proved
from ckptdbg.diagnose.definitions.readings import Rows
from ckptdbg.diagnose.findings import Solved, by_template, find
from ckptdbg.diagnose.regions import Place, merged, turn
from ckptdbg.diagnose.search import Outcome
from ckptdbg.diagnose.static import Evidence
from ckptdbg.diagnose.suspects import entries_of, place_labels, site_name
from ckptdbg.repair.solver import Solver, settled
from ckptdbg.result import Finding

if TYPE_CHECKING:
    from ckptdbg.session import Session


class Round:
    """What one comparison leads to: ``findings``, and once they were made what ``solver`` found to mend."""

    def __init__(self, session: Session, moved: Mapping[str, Rows], proved: Proved) -> None:
        """``moved`` are rows of target tensors that lie where the target looks for them: no longer a difference.
        ``proved`` in earlier rounds; what is proved in this one is added."""
        self.session, self.comparison = session, session.comparison
        self.evidence = _apart_from(session.evidence, moved)
        self.solver = Solver(session, self.evidence, moved, proved)
        self.groups: dict[str, set[str]] = {}
        """By the site of a finding, the sites of all its places."""

    def findings(self) -> list[Finding]:
        """All that is found, repairs looked for."""
        return find(self.comparison, self.evidence, self.session.mapping, self._solve, self._told)

    def _solve(self, places: list[Place]) -> list[Solved]:
        """All of them at once where they are made of the same; else most of them, and the others apart where what
        explains those does not explain them: an entry may be wrong in one layer of a template that differs in all."""
        outcome = self.solver.known(places)
        if outcome is None and places[0].port != "out":
            most, *others = sorted(self._by_entries(places), key=len, reverse=True)
            if others:
                return self._apart(most, others)
            outcome = self.solver.sought(places)
        return self._with_the_rest(*self._named(places, outcome))

    def _apart(self, most: list[Place], others: list[list[Place]]) -> list[Solved]:
        places = self._in_turn([most, *others])
        _, outcome = self._named(most, self.solver.at(most))
        whole = self.solver.everywhere(outcome, places)
        if whole is not None:
            return self._with_the_rest(*self._named(places, whole))
        alike = [part for part in others if self.solver.also(outcome, part) is not None]
        joined = self.solver.also(outcome, self._in_turn([most, *alike])) if alike else None
        found = [(most, outcome)] if joined is None else [(self._in_turn([most, *alike]), joined)]
        found += [(part, self.solver.at(part)) for part in others if joined is None or part not in alike]
        if not any(settled(o) for _, o in found):
            return [self._named(places, _of_all(found, places[0]))]
        return [solved for part in found for solved in self._with_the_rest(*self._named(*part))]

    def _in_turn(self, parts: Iterable[list[Place]]) -> list[Place]:
        return sorted((p for part in parts for p in part), key=lambda p: turn(self.comparison, p))

    def _with_the_rest(self, places: list[Place], outcome: Outcome | None) -> list[Solved]:
        """What explains these places, and what explains later ones on their streams that it leaves unexplained."""
        beyond = () if outcome is None else outcome.causes.beyond
        if not beyond:
            return [(places, outcome)]
        explained = [replace(p, merged=tuple(q for q in p.merged if q not in beyond)) for p in places]
        rest = by_template(self.comparison, merged(self.comparison, beyond))
        return [(explained, outcome), *(solved for group in rest for solved in self._solve(group))]

    def _named(self, places: list[Place], outcome: Outcome | None) -> Solved:
        self._told(site_name(self.comparison, places[0]), places)
        if outcome is not None:
            self.solver.why.proved.add(outcome.causes)
        return places, outcome

    def _told(self, site: str, places: Sequence[Place]) -> None:
        self.groups.setdefault(site, set()).update(site_name(self.comparison, p) for p in places)

    def _by_entries(self, places: Sequence[Place]) -> list[list[Place]]:
        found: dict[frozenset[str], list[Place]] = defaultdict(list)
        for place in places:
            found[frozenset(e.name for e in entries_of(place_labels(self.comparison, place)))].append(place)
        return list(found.values())


def _apart_from(evidence: Evidence, tensors: Collection[str]) -> Evidence:
    return replace(evidence, tensors=[d for d in evidence.tensors if d.tensor not in tensors])


def _of_all(found: Sequence[Solved], first: Place) -> Outcome | None:
    """One outcome of places that were searched apart, nothing of which is explained: as it is told of the first."""
    outcomes = [outcome for _, outcome in found if outcome is not None]
    own = next((outcome for part, outcome in found if first in part), None)
    if own is None:
        return None
    excluded = tuple(dict.fromkeys(line for outcome in outcomes for line in outcome.excluded))
    complete = all(outcome.complete for outcome in outcomes)
    return replace(own, excluded=excluded, tried=sum(outcome.tried for outcome in outcomes), complete=complete)
