"""The causes of a difference that no mapping mends, the likeliest first: proved where an experiment or a reading of
both models proves them, else as what fits the evidence."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ckptdbg.compare.comparison import Comparison
from ckptdbg.compare.replay import Replay, TargetReplay
from ckptdbg.diagnose.definitions.ablation import agree_when_uniform, without_scales
from ckptdbg.diagnose.definitions.candidate import Candidate
from ckptdbg.diagnose.definitions.experiments import Experiments
from ckptdbg.diagnose.definitions.fields import FieldDifference
from ckptdbg.diagnose.definitions.meanings import FACTORS, ORDER, ROUTER_NORM, Meaning
from ckptdbg.diagnose.definitions.observations import Observation, observe
from ckptdbg.diagnose.definitions.readings import Rows, read_off
from ckptdbg.diagnose.definitions.routers import normalised_on_one_side
from ckptdbg.diagnose.definitions.trials import Proof
from ckptdbg.diagnose.positions import exact_first_token
from ckptdbg.diagnose.regions import OUTPUT, Place, with_merged
from ckptdbg.result import Definition

_MOST_LISTED = 5
_FITS = "fits the evidence: "


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
    beyond: tuple[Place, ...] = ()
    """Later places on the same stream that what is proved does not explain."""
    setting: Candidate | None = None
    """What explains it, where that is a setting."""
    differs: Definition | None = None
    """What is proved, in words that can be compared."""
    unseen: tuple[str, ...] = ()
    """Entries whose edits may explain it as well: where the proof was made, none of theirs shows."""

    @property
    def likeliest(self) -> str:
        """What fits best where nothing is proved, as a sentence of its own; empty where nothing fits."""
        fits = [line.removeprefix(_FITS) for line in self.evidence if line.startswith(_FITS)]
        return f" What fits the evidence best: {fits[0]}." if fits and self.proved is None else ""


@dataclass
class Proved:
    """What two models were seen to define differently, at whatever places and in whatever round."""

    settings: list[Candidate] = field(default_factory=list)
    scales: set[str] = field(default_factory=set)
    """Entries of scales that are applied at another point, of which no edit explains it."""

    def add(self, causes: Causes) -> None:
        """Causes that were told of places."""
        self.scales |= set(causes.unseen)
        if causes.setting is not None and _key(causes.setting) not in map(_key, self.settings):
            self.settings.append(causes.setting)


@dataclass
class Definitions:
    """Looks for what two models define differently. ``replay`` runs the side whose settings can be varied: the source,
    else the target; None where neither has any (it ran elsewhere, or is no torch model): then only the evidence
    speaks."""

    comparison: Comparison
    replay: Replay | TargetReplay | None
    differences: Sequence[FieldDifference]
    sizes: Mapping[str, int]
    moved: Collection[str] = ()
    """Target tensors whose rows were moved to where the target looks for them: no longer a difference."""
    rows: dict[str, Rows] = field(default_factory=dict)
    """By target tensor, the rows in which the two models were seen to differ, at whatever places."""
    proved: Proved = field(default_factory=Proved)
    experiments: Experiments = field(init=False)

    def __post_init__(self) -> None:
        self.experiments = Experiments(self.comparison, self.replay, self.differences, self.sizes)

    def known(self, places: Sequence[Place]) -> Causes | None:
        """The cause where it can be read off the two models, where the target's configuration names another value than
        the source's and the source, run with it, agrees at all places, or where an experiment on both sides tells it:
        found before anything else is tried."""
        read = self._read(places)  # of these places alone: what is read at later ones is no reason for these
        if read is not None:
            return read
        proof = self.experiments.named(places)
        if proof is not None:
            return self._proved(proof, places)
        if isinstance(self.replay, Replay):
            routed = normalised_on_one_side(self.comparison, self.replay, places[0])
            if routed is not None:
                return self._normalised(*routed)
        return None

    def unexplained(self, places: Sequence[Place]) -> list[Place]:
        """What of these places and later ones on their streams neither settings of the target's configuration nor an
        experiment on both sides explains."""
        proof = self.experiments.named(places)
        if proof is not None:
            return list(proof.beyond)
        explained = isinstance(self.replay, Replay) and (
            agree_when_uniform(self.comparison, self.replay, places) is not None
            or normalised_on_one_side(self.comparison, self.replay, places[0]) is not None
        )
        return [] if explained else with_merged(places)

    def of(self, places: Sequence[Place]) -> Causes:
        """Everything that can be said of these places."""
        return self.alone(places) or self.else_of(places)

    def alone(self, places: Sequence[Place]) -> Causes | None:
        """One thing that the models define differently, wherever no configuration names it; None where none is
        proved."""
        order = self._order(places)  # two runs, where settings take dozens
        if order is not None:
            return order
        proof = self.experiments.proof(places)
        return None if proof is None else self._proved(proof, places)

    def else_of(self, places: Sequence[Place]) -> Causes:
        """What can be said of these places where no one thing is proved."""
        read = self._read(with_merged(places))
        if read is not None:
            return read
        proof = self.experiments.two(places)
        if proof is not None:
            return self._proved(proof, places)
        seen = observe(self.comparison, places[0], self.sizes)
        return Causes(evidence=(*(o.text for o in seen), *self._fitting(seen, places[0])), excluded=self._excluded())

    def again(self, places: Sequence[Place]) -> Causes | None:
        """What was proved at other places, or at these in an earlier round, where it explains them."""
        found = [self.experiments.confirmed(setting, places) for setting in self.proved.settings]
        fitting = [p for p in found if p is not None and (not p.beyond or p.candidate.given is not None)]
        if fitting:
            return self._proved(min(fitting, key=lambda proof: len(proof.beyond)), places)
        order = self._order(places) if self.proved.scales else None
        return order if order is not None and self.proved.scales >= set(order.unseen) else None

    def beside_scales(self, places: Sequence[Place]) -> tuple[Candidate, Causes] | None:
        """A setting with which the source agrees once the scales in the region are alike in all elements on both sides,
        and what follows where no edit of the mapping mends the place with it set: the scales are applied at another
        point too."""
        if not isinstance(self.replay, Replay) or places[0].port != "in" or places[0].consumers[0] == OUTPUT:
            return None
        level = without_scales(self.comparison, self.replay, places)
        if level is None:
            return None
        there = Definitions(level.comparison, level.replay, self.differences, self.sizes)
        proof = there.experiments.proof(places)
        if proof is None or proof.beyond:
            return None
        found, names = there._proved(proof, places), " and ".join(level.entries)
        assert found.proved is not None
        scales = (
            f"The scales of {names} are applied at another point than in the source, or in an order that was not tried."
        )
        sentence = f"{scales} With all elements of these scales alike on both sides more is seen. {found.proved}"
        return proof.candidate, replace(found, proved=sentence, setting=None, differs=None)

    def factor(self, places: Sequence[Place]) -> Causes:
        """Whether a factor in a model's code would explain these places as well as the one in the mapping that mends
        them: the evidence cannot tell the two apart."""
        proof = self.experiments.proof(places, lambda candidate: candidate.meaning in FACTORS)
        if proof is None or proof.beyond:
            return Causes()
        chosen = proof.candidate
        varied = "target" if isinstance(self.replay, TargetReplay) else "source"
        text = f"{chosen.meaning.name} as {chosen.after} instead of {chosen.before} in the {varied}'s code does as well"
        return Causes(meaning=chosen.meaning, evidence=(text,))

    def _read(self, places: Sequence[Place]) -> Causes | None:
        for reading in read_off(self.comparison, places, self.moved):
            self.rows |= reading.rows
            rest = "What else may be wrong here shows when this is mended."
            sentence = f"{_capital(reading.meaning.name)} differs: {reading.sentence}. {rest}"
            return Causes(
                sentence,
                reading.meaning,
                self._named(reading.meaning),
                differs=Definition(name=reading.meaning.name, target=reading.sentence),
            )
        return None

    def _proved(self, proof: Proof, places: Sequence[Place]) -> Causes:
        chosen, whole = proof.candidate, [p for p in with_merged(places) if p not in proof.beyond]
        own = f" ({chosen.given.source})" if chosen.given is not None and chosen.given.source else ""
        said = f" ({chosen.given.target})" if chosen.given is not None else ""
        varied, other = ("target", "source") if isinstance(self.replay, TargetReplay) else ("source", "target")
        before = max(p.ratio for p in whole)
        where = "the place" if len(whole) == 1 else f"all {len(whole)} places"
        verb = "differ" if " and " in chosen.meaning.name else "differs"
        sentence = (
            f"{_capital(chosen.meaning.name)} {verb}: {chosen.before} in the {varied}{own}, {chosen.after} in the "
            f"{other}{said}. Run with {chosen.after}, the {varied} agrees with the {other} at {where} (ratio "
            f"{before:.3g} before, {proof.after:.2g} after): the tensors are as mapped, it is the target's definition "
            "that is to be changed."
        )
        named = self._named(chosen.meaning)
        values = {varied: chosen.before, other: chosen.after}
        differs = Definition(name=chosen.meaning.name, source=values["source"], target=values["target"])
        return Causes(sentence, chosen.meaning, named, beyond=proof.beyond, setting=chosen, differs=differs)

    def _order(self, places: Sequence[Place]) -> Causes | None:
        if not isinstance(self.replay, Replay):
            return None
        uniform = agree_when_uniform(self.comparison, self.replay, places)
        if uniform is None:
            return None
        entries, ratio = uniform
        names = " and ".join(entries)
        sentence = (
            f"The scales of {names} are applied at another point than in the source, as before the rotation and after "
            f"it: with all elements of these scales alike on both sides the two models agree here (ratio {ratio:.2g})."
        )
        differs = Definition(name=ORDER.name)
        return Causes(sentence, ORDER, self._named(ORDER), differs=differs, unseen=tuple(entries))

    def _normalised(self, by: str, ratio: float) -> Causes:
        other = "source" if by == "target" else "target"
        sentence = (
            f"{_capital(ROUTER_NORM.name)} differs: in the {by} the weights of a token's chosen experts add up to one, "
            f"in the {other} they do not. With the scores of the others left out on both sides the two models agree "
            f"here (ratio {ratio:.2g})."
        )
        values = {by: "they add up to one", other: "they do not"}
        differs = Definition(name=ROUTER_NORM.name, source=values["source"], target=values["target"])
        return Causes(sentence, ROUTER_NORM, self._named(ROUTER_NORM), differs=differs)

    def _named(self, meaning: Meaning) -> tuple[str, ...]:
        """The configurations' own words on a cause that is proved, then other fields in which they differ."""
        own = [d for d in self.differences if d.meaning.name in meaning.name.split(" and ")]
        rest = [d for d in self.differences if d not in own]
        return (*(f"configurations: {d}" for d in own), *(f"also differs: {d}" for d in rest))

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
        silent = self.experiments.trials.without_effect if self.experiments.trials is not None else []
        ranked = sorted((m for m in scores if m not in silent), key=lambda m: -scores[m])
        words = {d.meaning: str(d) for d in self.differences}
        return [f"{_FITS}{words.get(m, m.name)}" for m in ranked[:_MOST_LISTED]]

    def _excluded(self) -> tuple[str, ...]:
        """What the experiments say is not the cause."""
        if self.experiments.trials is None:
            return ()
        tried: dict[str, list[str]] = {}
        for candidate in self.experiments.trials.in_vain:
            tried.setdefault(candidate.meaning.name, []).append(candidate.after)
        silent = dict.fromkeys(m.name for m in self.experiments.trials.without_effect if m.name not in tried)
        lines = [
            f"{name}, {', '.join(list(dict.fromkeys(values))[:_MOST_LISTED])} tried: no agreement either"
            for name, values in tried.items()
        ]
        return (*lines, *(f"{name}: another value changes nothing here" for name in silent))


def _key(setting: Candidate) -> tuple[str, frozenset[str], str]:
    return setting.meaning.name, frozenset(setting.changes), setting.after


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
