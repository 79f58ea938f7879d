"""One round of a diagnosis: one comparison, its causes, and the edits that mend what can be mended."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ckptdbg.compare.comparison import Comparison
from ckptdbg.compare.replay import Replay, TargetReplay
from ckptdbg.diagnose.apart import Apart
from ckptdbg.diagnose.definitions.behind import Varied, behind, behind_named, behind_proved, behind_settings
from ckptdbg.diagnose.definitions.causes import Causes, Definitions, Proved
from ckptdbg.diagnose.definitions.fields import field_differences, settings_of
from ckptdbg.diagnose.definitions.readings import Rows
from ckptdbg.diagnose.findings import Solved, by_template, find
from ckptdbg.diagnose.regions import Place, merged, turn
from ckptdbg.diagnose.search import Mend, Outcome, search
from ckptdbg.diagnose.static import Evidence, exchange_partners
from ckptdbg.diagnose.suspects import site_name, suspects_of
from ckptdbg.diagnose.trial import Bench
from ckptdbg.result import Finding

if TYPE_CHECKING:
    from ckptdbg.session import Session


class Round:
    """What one comparison leads to: ``findings``, and once they were made ``mends``."""

    def __init__(self, session: Session, moved: Mapping[str, Rows], proved: Proved) -> None:
        """``moved`` are rows of target tensors that lie where the target looks for them: no longer a difference.
        ``proved`` in earlier rounds; what is proved in this one is added."""
        self.session, self.comparison = session, session.comparison
        self.evidence = _apart_from(session.evidence, moved)
        self.why = replace(definitions(session, self.comparison, moved), proved=proved)
        self.mends: list[Mend] = []
        self.settings: dict[str, Any] = {}
        """Of the source: what it was set to where an edit mends a place beside a definition."""
        self.read: set[str] = set()
        """Sites at which the two models use other rows of a table, which can be moved."""
        self.groups: dict[str, set[str]] = {}
        """By the site of a finding, the sites of all its places."""
        self._replay = source_replay(session, self.comparison)
        self._moved = moved
        self._bench = self._bench_of(self.comparison)

    def findings(self) -> list[Finding]:
        """All that is found, repairs looked for."""
        return find(self.comparison, self.evidence, self.session.mapping, self._solve)

    def _solve(self, places: list[Place]) -> list[Solved]:
        """All of them at once where they are made of the same; else most of them, and the others apart where what
        explains those does not explain them: an entry may be wrong in one layer of a template that differs in all."""
        outcome = self._known(places)
        if outcome is None and places[0].port != "out":
            most, *others = sorted(self._by_suspects(places), key=len, reverse=True)
            if others:
                return self._apart(most, others)
            outcome = self._sought(places)
        return self._with_the_rest(*self._named(places, outcome))

    def _apart(self, most: list[Place], others: list[list[Place]]) -> list[Solved]:
        places = self._in_turn([most, *others])
        _, outcome = self._named(most, self._at(most))
        whole = self._everywhere(outcome, places)
        if whole is not None:
            return self._with_the_rest(*self._named(places, whole))
        alike = [part for part in others if self._also(outcome, part) is not None]
        first = self._in_turn([most, *alike])
        found = [(first, self._also(outcome, first) or outcome)]
        found += [(part, self._at(part)) for part in others if part not in alike]
        if not any(_settled(o) for _, o in found):
            return [self._named(places, outcome)]
        return [solved for part in found for solved in self._with_the_rest(*self._named(*part))]

    def _in_turn(self, parts: Iterable[list[Place]]) -> list[Place]:
        return sorted((p for part in parts for p in part), key=lambda p: turn(self.comparison, p))

    def _everywhere(self, outcome: Outcome | None, places: list[Place]) -> Outcome | None:
        """What explains some places, as it explains all; of edits that do as well there, the first that does so."""
        mend = None if outcome is None else outcome.mend
        if outcome is None or mend is None or mend not in self.mends:
            return self._also(outcome, places)
        for edits in (mend.edits, *mend.also):
            rest = tuple(other for other in (mend.edits, *mend.also) if other is not edits)
            found = self._also(replace(outcome, mend=replace(mend, edits=edits, also=rest)), places)
            if found is not None and found.mend is not None:
                self.mends[self.mends.index(mend)] = found.mend
                return found
        return None

    def _also(self, outcome: Outcome | None, places: list[Place]) -> Outcome | None:
        """What explains some places, as it explains these; None where it does not."""
        if outcome is None or not _settled(outcome):
            return None
        if outcome.mend is None:
            causes = self.why.again(places)
            return None if causes is None else replace(outcome, causes=causes)
        mend = outcome.mend.at(places)
        if mend is None:
            return None
        plainly = mend.bench is self._bench
        return replace(outcome, mend=mend, causes=self._factor(mend, places) if plainly else outcome.causes)

    def _with_the_rest(self, places: list[Place], outcome: Outcome | None) -> list[Solved]:
        """What explains these places, and what explains later ones on their streams that it leaves unexplained."""
        beyond = () if outcome is None else outcome.causes.beyond
        if not beyond:
            return [(places, outcome)]
        explained = [replace(p, merged=tuple(q for q in p.merged if q not in beyond)) for p in places]
        rest = by_template(self.comparison, merged(self.comparison, beyond))
        return [(explained, outcome), *(solved for group in rest for solved in self._solve(group))]

    def _named(self, places: list[Place], outcome: Outcome | None) -> Solved:
        sites = {site_name(self.comparison, p) for p in places}
        self.groups.setdefault(site_name(self.comparison, places[0]), set()).update(sites)
        if outcome is not None:
            self.why.proved.add(outcome.causes)
        return places, outcome

    def _by_suspects(self, places: Sequence[Place]) -> list[list[Place]]:
        found: dict[frozenset[str], list[Place]] = defaultdict(list)
        for place in places:
            suspects = suspects_of(self.comparison, place)
            found[frozenset(s.entry.name for s in suspects if not s.values_only)].append(place)
        return list(found.values())

    def _at(self, places: list[Place]) -> Outcome | None:
        """What explains these places together; None where no edit can."""
        known = self._known(places)
        return known if known is not None or places[0].port == "out" else self._sought(places)

    def _known(self, places: list[Place]) -> Outcome | None:
        """What explains these places before any edit is tried."""
        before = len(self.why.rows)
        known = self.why.of(places) if places[0].port == "out" else self.why.known(places)
        if len(self.why.rows) > before:
            self.read.add(site_name(self.comparison, places[0]))
        return Outcome(None, (), 0, causes=known) if known is not None and known.proved else None

    def _sought(self, places: list[Place]) -> Outcome:
        again = self._mended_already(places) or self._explained_already(places)
        again = again or self._first(behind_proved(self.why, places), places)
        if again is not None:
            return again
        self.session.progress(f"trying repairs for {len(places)} places")
        alone: list[Causes | None] = []

        def otherwise() -> Collection[str] | None:
            alone.append(self.why.alone(places))
            return None if alone[0] is None else alone[0].unseen

        outcome = self._searched(self._bench, places, otherwise)
        if outcome.mend is not None:
            fewer = self._with_fewer_edits(outcome.mend, places)
            if fewer is not None:
                return fewer
            self.mends.append(outcome.mend)
            return replace(outcome, causes=self._factor(outcome.mend, places))
        explained = alone[0] if alone else self.why.alone(places)
        outcome = replace(outcome, causes=self.why.else_of(places) if explained is None else explained)
        if outcome.causes.proved is not None:
            return outcome
        beside = self.why.beside_scales(places)
        if beside is None:
            return self._first(behind(self.why, places), places) or outcome
        setting, causes = beside
        varied = behind_settings(self.why, [setting])
        found = None if varied is None else self._beside(varied, places)
        if found is not None and found.mend is not None:
            return found
        return replace(outcome, causes=causes) if found is not None and found.complete else outcome

    def _factor(self, mend: Mend, places: list[Place]) -> Causes:
        return self.why.factor(places) if any(edit.changes_factor for edit in mend.edits) else Causes()

    def _mended_already(self, places: list[Place]) -> Outcome | None:
        """What mends other places of this round mends these too: of layers that changed places the stream after one of
        them differs, and agrees after both."""
        if not self.mends or self._bench.quiet(places):
            return None
        found = (mend.at(places) for mend in self.mends)
        mend = next((mend for mend in found if mend is not None), None)
        return None if mend is None else Outcome(mend, (), 1)

    def _explained_already(self, places: list[Place]) -> Outcome | None:
        """What the models were seen to define differently elsewhere, or here before something was mended."""
        causes = self.why.again(places)
        return None if causes is None else Outcome(None, (), 0, causes=causes)

    def _with_fewer_edits(self, mend: Mend, places: list[Place]) -> Outcome | None:
        """What takes fewer edits with the source as the target's configuration says, of several one of which is a
        factor: a factor in a model's code can be made up for in the mapping."""
        if len(mend.edits) < 2 or not any(edit.changes_factor for edit in mend.edits):
            return None
        for varied in behind_named(self.why, places):
            found = self._searched_beside(varied, places)
            if found.mend is not None and len(found.mend.edits) < len(mend.edits):
                return self._kept(varied, found.mend, found)
        return None

    def _first(self, variations: Iterable[Varied], places: list[Place]) -> Outcome | None:
        """The first of them in which the places are mended."""
        found = (self._beside(varied, places) for varied in variations)
        return next((outcome for outcome in found if outcome.mend is not None), None)

    def _beside(self, varied: Varied, places: list[Place]) -> Outcome:
        """What mends these places where a definition that differs there does not show."""
        outcome = self._searched_beside(varied, places)
        return outcome if outcome.mend is None else self._kept(varied, outcome.mend, outcome)

    def _searched_beside(self, varied: Varied, places: list[Place]) -> Outcome:
        with source_set(self.session, varied.settings):
            return self._searched(self._bench_of(varied.comparison), places)

    def _kept(self, varied: Varied, mend: Mend, outcome: Outcome) -> Outcome:
        self.mends.append(mend)
        self.settings.update(varied.settings)
        return replace(outcome, causes=Causes(evidence=(varied.words,)))

    def _bench_of(self, comparison: Comparison) -> Bench:
        return Bench(comparison, self.session.mapping, self.session.progress, self._moved)

    def _searched(
        self, bench: Bench, places: list[Place], otherwise: Callable[[], Collection[str] | None] = lambda: None
    ) -> Outcome:
        session, comparison = self.session, self.comparison
        suspects = suspects_of(comparison, places[0])
        partners = exchange_partners(comparison, self.evidence, session.mapping, places)
        apart = None if self._replay is None else Apart(bench.comparison, self._replay)
        mapping, sizes, unused = session.unbound_mapping, session.sizes, session.unused_sources
        return search(bench, places, suspects, mapping, sizes, unused, partners, apart, otherwise)


def source_set(session: Session, settings: Mapping[str, Any]) -> AbstractContextManager[None]:
    """The source has these settings in here."""
    return session.source.side.knobs.turned(settings) if settings else nullcontext()  # type: ignore[attr-defined]


def _apart_from(evidence: Evidence, tensors: Collection[str]) -> Evidence:
    return replace(evidence, tensors=[d for d in evidence.tensors if d.tensor not in tensors])


def _settled(outcome: Outcome | None) -> bool:
    return outcome is not None and (outcome.mend is not None or outcome.causes.proved is not None)


def definitions(session: Session, comparison: Comparison, moved: Collection[str] = ()) -> Definitions:
    """What the two models define differently is looked for with the source where it can be run here and set, else with
    the target."""
    target = session.target
    config, options = session.config.source, session.config.target.options
    knobs = getattr(getattr(target, "side", None), "knobs", None)
    theirs = settings_of(session.model_config, config.options)
    differences = field_differences(theirs, settings_of(target.config, options, knobs))
    replay = source_replay(session, comparison)
    if replay is None or getattr(replay.side, "knobs", None) is None:
        replay = None if knobs is None else TargetReplay(comparison.rerun, comparison.plants)
    return Definitions(comparison, replay, differences, session.sizes, moved)


def source_replay(session: Session, comparison: Comparison) -> Replay | None:
    """Runs the source again with its own values planted; None where it ran elsewhere."""
    if session.stored is not None:
        return None
    everywhere = frozenset(range(len(comparison.source.view.graph.anchors)))
    ins, outs = comparison.pairing.offered() if comparison.alike else (everywhere, everywhere)
    return Replay(session.source.side, session.inputs, session.source_exact, comparison.source.runs, ins, outs)
