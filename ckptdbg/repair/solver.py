"""What explains places that differ: something that the models define differently, or edits of the mapping."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ckptdbg.compare.comparison import Comparison
from ckptdbg.diagnose.apart import Apart
from ckptdbg.diagnose.definitions.behind import Varied, behind, behind_named, behind_proved, behind_settings
from ckptdbg.diagnose.definitions.causes import Causes, Proved
from ckptdbg.diagnose.definitions.readings import Rows
from ckptdbg.diagnose.regions import Place
from ckptdbg.diagnose.search import Mend, Outcome, search
from ckptdbg.diagnose.static import Evidence, exchange_partners
from ckptdbg.diagnose.suspects import site_name, suspects_of
from ckptdbg.diagnose.trial import Bench
from ckptdbg.repair.source import definitions, source_replay, source_set

if TYPE_CHECKING:
    from ckptdbg.session import Session


class Solver:
    """Explains the places of one comparison, one template after another; what it has found is known at the next."""

    def __init__(self, session: Session, evidence: Evidence, moved: Mapping[str, Rows], proved: Proved) -> None:
        """``moved`` are rows of target tensors that lie where the target looks for them; ``proved`` in earlier
        rounds."""
        self.session, self.comparison, self.evidence = session, session.comparison, evidence
        self.why = replace(definitions(session, self.comparison, moved), proved=proved)
        self.mends: list[Mend] = []
        self.settings: dict[str, Any] = {}
        """Of the source: what it was set to where an edit mends a place beside a definition."""
        self.read: set[str] = set()
        """Sites at which the two models use other rows of a table, which can be moved."""
        self._replay = source_replay(session, self.comparison)
        self._moved = moved
        self._bench = self._bench_of(self.comparison)

    def at(self, places: list[Place]) -> Outcome | None:
        """What explains these places together; None where no edit can."""
        known = self.known(places)
        return known if known is not None or places[0].port == "out" else self.sought(places)

    def known(self, places: list[Place]) -> Outcome | None:
        """What explains these places before any edit is tried."""
        before = len(self.why.rows)
        known = self.why.of(places) if places[0].port == "out" else self.why.known(places)
        if len(self.why.rows) > before:
            self.read.add(site_name(self.comparison, places[0]))
        return Outcome(None, (), 0, causes=known) if known is not None and known.proved else None

    def sought(self, places: list[Place]) -> Outcome:
        """What explains these places where nothing does that is known at once: the least change is tried first."""
        self.session.progress(f"trying repairs for {len(places)} places")
        again = (
            self._explained_already(places)
            or self._mended_already(places)
            or self._mended_beside_proved(places)
            or self._mended_beside_named(places)
        )
        if again is not None:
            return again
        alone: list[Causes | None] = []

        def otherwise() -> Collection[str] | None:
            alone.append(self.why.alone(places))
            return None if alone[0] is None else alone[0].unseen

        outcome = self._searched(self._bench, places, otherwise)
        if outcome.mend is not None:
            return self._plainly(outcome, outcome.mend, places)
        explained = alone[0] if alone else self.why.alone(places)
        if explained is not None and explained.unseen and not (alone and outcome.complete):
            untried = f"not every edit of {' and '.join(explained.unseen)} was tried: one may explain it as well"
            explained = replace(explained, evidence=(untried, *explained.evidence), unseen=())
        outcome = replace(outcome, causes=self.why.else_of(places) if explained is None else explained)
        return outcome if outcome.causes.proved is not None else self._mended_beside(outcome, places)

    def _plainly(self, outcome: Outcome, mend: Mend, places: list[Place]) -> Outcome:
        self.mends.append(mend)
        return replace(outcome, mend=mend, causes=self._factor(mend, places))

    def _mended_beside_proved(self, places: list[Place]) -> Outcome | None:
        """What mends these places with the models made alike in what was seen to differ. A setting need not differ in
        every layer: of several edits, those that it takes without are told where they are fewer."""
        for varied in behind_proved(self.why, places):
            found = self._searched_beside(varied, places)
            if found.mend is None:
                continue
            plain = self._searched(self._bench, places) if len(found.mend.edits) > 1 else found
            if plain.mend is not None and len(plain.mend.edits) < len(found.mend.edits):
                return self._plainly(plain, plain.mend, places)
            return self._kept(varied, found.mend, found)
        return None

    def _mended_beside_named(self, places: list[Place]) -> Outcome | None:
        """What one edit or one exchange mends with the source as the target's configuration says of what reaches these
        places. Where that is not so, it costs the single edits once more; where it is, it saves all pairs of edits, of
        which one may be a factor that makes up for the setting. A mend that takes no setting is told without."""
        for varied in behind_named(self.why, places):
            found = self._searched_beside(varied, places, at_once=1)
            if found.mend is None:
                continue
            factor = any(edit.changes_factor for edit in found.mend.edits)
            plain = replace(found.mend, bench=self._bench).at(places)
            if plain is None and factor:  # one factor, not two: a model need not do what its configuration says
                plain = self._searched(self._bench, places, at_once=1).mend
            return self._kept(varied, found.mend, found) if plain is None else self._plainly(found, plain, places)
        return None

    def _mended_beside(self, outcome: Outcome, places: list[Place]) -> Outcome:
        """Edits and a definition that differs, or two definitions, where no edit and no definition alone explains the
        places; else ``outcome``."""
        beside = self.why.beside_scales(places)
        if beside is None:
            return self._first(behind(self.why, places), places) or outcome
        setting, causes = beside
        varied = behind_settings(self.why, [setting])
        found = None if varied is None else self._beside(varied, places)
        if found is not None and found.mend is not None:
            return found
        return replace(outcome, causes=causes) if found is not None and found.complete else outcome

    def everywhere(self, outcome: Outcome | None, places: list[Place]) -> Outcome | None:
        """What explains some places, as it explains all; of edits that do as well there, the first that does so."""
        mend = None if outcome is None else outcome.mend
        own = next((i for i, one in enumerate(self.mends) if one is mend), None)
        if outcome is None or mend is None or own is None:
            return self.also(outcome, places)
        for edits in (mend.edits, *mend.also):
            rest = tuple(other for other in (mend.edits, *mend.also) if other is not edits)
            found = self.also(replace(outcome, mend=replace(mend, edits=edits, also=rest)), places)
            if found is not None and found.mend is not None:
                self.mends[own] = found.mend
                return found
        return None

    def also(self, outcome: Outcome | None, places: list[Place]) -> Outcome | None:
        """What explains some places, as it explains these; None where it does not."""
        if outcome is None or not settled(outcome):
            return None
        if outcome.mend is None:
            causes = self.why.again(places)
            return None if causes is None else replace(outcome, causes=causes)
        mend = outcome.mend.at(places)
        if mend is None:
            return None
        plainly = mend.bench is self._bench
        return replace(outcome, mend=mend, causes=self._factor(mend, places) if plainly else outcome.causes)

    def _factor(self, mend: Mend, places: list[Place]) -> Causes:
        return self.why.factor(places) if any(edit.changes_factor for edit in mend.edits) else Causes()

    def _mended_already(self, places: list[Place]) -> Outcome | None:
        """What mends other places of this round mends these too: of layers that changed places the stream after one of
        them differs, and agrees after both."""
        found = (mend.at(places) for mend in self.mends)
        mend = next((mend for mend in found if mend is not None), None)
        if mend is None:
            return None
        return Outcome(mend, (), 1, causes=Causes(evidence=(mend.beside,) if mend.beside else ()))

    def _explained_already(self, places: list[Place]) -> Outcome | None:
        """What the models were seen to define differently elsewhere, or here before something was mended."""
        causes = self.why.again(places)
        return None if causes is None else Outcome(None, (), 0, causes=causes)

    def _first(self, variations: Iterable[Varied], places: list[Place]) -> Outcome | None:
        """The first of them in which the places are mended."""
        found = (self._beside(varied, places) for varied in variations)
        return next((outcome for outcome in found if outcome.mend is not None), None)

    def _beside(self, varied: Varied, places: list[Place]) -> Outcome:
        """What mends these places where a definition that differs there does not show."""
        outcome = self._searched_beside(varied, places)
        return outcome if outcome.mend is None else self._kept(varied, outcome.mend, outcome)

    def _searched_beside(self, varied: Varied, places: list[Place], at_once: int = 2) -> Outcome:
        with source_set(self.session, varied.settings):
            return self._searched(self._bench_of(varied.comparison), places, at_once=at_once)

    def _kept(self, varied: Varied, mend: Mend, outcome: Outcome) -> Outcome:
        mend = replace(mend, beside=varied.words)
        self.mends.append(mend)
        self.settings.update(varied.settings)
        return replace(outcome, mend=mend, causes=Causes(evidence=(mend.beside,)))

    def _bench_of(self, comparison: Comparison) -> Bench:
        return Bench(comparison, self.session.mapping, self.session.progress, self._moved)

    def _searched(
        self,
        bench: Bench,
        places: list[Place],
        otherwise: Callable[[], Collection[str] | None] = lambda: None,
        at_once: int = 2,
    ) -> Outcome:
        session, comparison = self.session, self.comparison
        suspects = suspects_of(comparison, places[0])
        partners = exchange_partners(comparison, self.evidence, session.mapping, places)
        apart = None if self._replay is None else Apart(bench.comparison, self._replay)
        mapping, sizes, unused = session.unbound_mapping, session.sizes, session.unused_sources
        return search(bench, places, suspects, mapping, sizes, unused, partners, apart, otherwise, at_once)


def settled(outcome: Outcome | None) -> bool:
    """Whether anything is explained."""
    return outcome is not None and (outcome.mend is not None or outcome.causes.proved is not None)
