"""The causes of a difference that no mapping mends, the likeliest first: proved where an experiment or a reading of
both models proves them, else as what fits the evidence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ckptdbg.compare.comparison import Comparison
from ckptdbg.compare.replay import Replay
from ckptdbg.diagnose.definitions.ablation import agree_when_uniform
from ckptdbg.diagnose.definitions.candidates import Group, groups
from ckptdbg.diagnose.definitions.fields import FieldDifference
from ckptdbg.diagnose.definitions.meanings import FACTORS, ORDER, Meaning
from ckptdbg.diagnose.definitions.observations import Observation, observe
from ckptdbg.diagnose.definitions.readings import read_off
from ckptdbg.diagnose.definitions.trials import Proof, Trials
from ckptdbg.diagnose.positions import exact_first_token
from ckptdbg.diagnose.regions import Place

_MOST_LISTED = 5


@dataclass(frozen=True)
class Causes:
    """What is known of why the places of one template differ."""

    proved: str | None = None
    """A sentence in the voice of a fact."""
    meaning: Meaning | None = None
    """What is defined differently, where it is proved."""
    evidence: tuple[str, ...] = ()
    """What was seen, then what fits it, the likeliest first."""
    excluded: tuple[str, ...] = ()
    """Settings that were tried and do not explain it."""


@dataclass
class Definitions:
    """Looks for what two models define differently. ``replay`` is None where the source has no settings to vary (it
    ran elsewhere, or is no torch model): then only the evidence speaks."""

    comparison: Comparison
    replay: Replay | None
    differences: Sequence[FieldDifference]
    sizes: Mapping[str, int]
    _trials: Trials | None = field(init=False)

    def __post_init__(self) -> None:
        self._trials = None if self.replay is None else Trials(self.comparison, self.replay)

    def known(self, places: Sequence[Place]) -> Causes | None:
        """The cause where it can be read off the two models, or where the target's configuration names another value
        than the source's and the source, run with it, agrees at all places: found before anything else is tried."""
        read = self._read(places)
        if read is not None:
            return read
        # a factor that only one side names may be the mapping's business as well: first it is searched there
        named = {d.meaning for d in self.differences if d.source or d.meaning not in FACTORS}
        proof = self.proof(places, lambda group: group.meaning in named, given=True)
        return None if proof is None else self._proved(proof, places)

    def of(self, places: Sequence[Place]) -> Causes:
        """Everything that can be said of these places."""
        read = self._read(places)
        if read is not None:
            return read
        proof = self.proof(places)
        if proof is not None:
            return self._proved(proof, places)
        if self.replay is not None:
            uniform = agree_when_uniform(self.comparison, self.replay, places[0])
            if uniform is not None:
                return self._applied_elsewhere(*uniform)
        seen = observe(self.comparison, places[0], self.sizes)
        return Causes(evidence=(*(o.text for o in seen), *self._fitting(seen, places[0])), excluded=self._excluded())

    def _read(self, places: Sequence[Place]) -> Causes | None:
        for meaning, sentence in read_off(self.comparison, _with_merged(places)):
            return Causes(f"{_capital(meaning.name)} differs: {sentence}.", meaning, self._named(meaning))
        return None

    def proof(
        self, places: Sequence[Place], wanted: Callable[[Group], bool] = lambda _: True, given: bool = False
    ) -> Proof | None:
        """The first setting with which the source agrees at all places. ``given``: with values of the target's
        configuration only."""
        if self._trials is None or self.replay is None or places[0].port == "out":
            return None
        self._trials.rest()
        found = groups(self.replay.side.knobs, self.differences, self.sizes)  # type: ignore[attr-defined]
        for group in _likeliest_first(found, exact_first_token(self.comparison, places[0])):
            if not wanted(group) or self._trials.exhausted:
                continue
            if given:
                group = Group(group.meaning, [c for c in group.candidates if c.given is not None])
            proof = self._trials.prove(group, _with_merged(places))
            if proof is not None:
                return proof
        return None

    def _proved(self, proof: Proof, places: Sequence[Place]) -> Causes:
        chosen, whole = proof.candidate, _with_merged(places)
        own = f" ({chosen.given.source})" if chosen.given is not None and chosen.given.source else ""
        said = f", which its {chosen.given.target} says" if chosen.given is not None else ""
        before = max(p.ratio for p in whole)
        where = "the place" if len(whole) == 1 else f"all {len(whole)} places"
        sentence = (
            f"{_capital(chosen.meaning.name)} differs: {chosen.before} in the source{own}, {chosen.after} in the "
            f"target{said}. Run with {chosen.after}, the source agrees with the target at {where} (ratio {before:.3g} "
            f"before, {proof.after:.2g} after): the tensors are as mapped, the target's definition is to be changed."
        )
        return Causes(sentence, chosen.meaning, self._named(chosen.meaning))

    def _applied_elsewhere(self, entries: list[str], ratio: float) -> Causes:
        names = " and ".join(entries)
        sentence = (
            f"The scales of {names} are applied at another point than in the source, as before the rotation and after "
            f"it: with all elements of these scales alike on both sides the two models agree here (ratio {ratio:.2g})."
        )
        return Causes(sentence, ORDER, self._named(ORDER))

    def _named(self, meaning: Meaning) -> tuple[str, ...]:
        """The configurations' own words on a cause that is proved, then other fields in which they differ."""
        own = [f"configurations: {d}" for d in self.differences if d.meaning is meaning]
        return (*own, *(f"also differs, not the cause here: {d}" for d in self.differences if d.meaning is not meaning))

    def _fitting(self, seen: Sequence[Observation], place: Place) -> list[str]:
        """Causes that are not excluded, the likeliest first, in the voice of a guess."""
        first_is_exact = exact_first_token(self.comparison, place)
        scores: dict[Meaning, int] = {}
        for difference in self.differences:
            if first_is_exact or not difference.meaning.mixes_positions or place.port == "output":
                scores[difference.meaning] = 4 if difference.source else 3
        for observation in seen:
            for meaning in observation.fits:
                scores[meaning] = scores.get(meaning, 0) + 2
        silent = self._trials.without_effect if self._trials is not None else []
        ranked = sorted((m for m in scores if m not in silent), key=lambda m: -scores[m])
        words = {d.meaning: str(d) for d in self.differences}
        return [f"fits the evidence: {words.get(m, m.name)}" for m in ranked[:_MOST_LISTED]]

    def _excluded(self) -> tuple[str, ...]:
        """What the experiments say is not the cause."""
        if self._trials is None:
            return ()
        tried: dict[str, list[str]] = {}
        for candidate in self._trials.in_vain:
            tried.setdefault(candidate.meaning.name, []).append(candidate.after)
        silent = dict.fromkeys(m.name for m in self._trials.without_effect if m.name not in tried)
        lines = [
            f"{name}, {', '.join(list(dict.fromkeys(values))[:_MOST_LISTED])} tried: the source does not agree either"
            for name, values in tried.items()
        ]
        return (*lines, *(f"{name}: another value in the source changes nothing here" for name in silent))


def _with_merged(places: Sequence[Place]) -> list[Place]:
    return [q for p in places for q in (p, *p.merged)]


def _likeliest_first(found: Sequence[Group], first_is_exact: bool) -> list[Group]:
    """What differs by configuration stays in front; then what can explain that the first position is right, or that
    it is not."""
    return sorted(
        found, key=lambda g: (not any(c.given for c in g.candidates), g.meaning.mixes_positions != first_is_exact)
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
