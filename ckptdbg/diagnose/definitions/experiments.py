"""Which settings, tried on one side, leave nothing of a difference: one, or several at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

from ckptdbg.compare.comparison import Comparison
from ckptdbg.compare.replay import Replay, TargetReplay
from ckptdbg.compare.runs import Runs
from ckptdbg.diagnose.definitions.candidate import Candidate, Group, joined
from ckptdbg.diagnose.definitions.candidates import groups
from ckptdbg.diagnose.definitions.fields import FieldDifference
from ckptdbg.diagnose.definitions.meanings import FACTORS
from ckptdbg.diagnose.definitions.trials import UNCHANGED, Proof, Trials
from ckptdbg.diagnose.positions import exact_first_token
from ckptdbg.diagnose.regions import Place

# Fields of a configuration that differ and reach one place, and ways of reading them together; each takes a run.
_MOST_FIELDS = 5
_MOST_COMBINED = 24


@dataclass
class Experiments:
    """What can be tried on the side whose settings can be varied; nothing where ``replay`` is None."""

    comparison: Comparison
    replay: Replay | TargetReplay | None
    differences: Sequence[FieldDifference]
    sizes: Mapping[str, int]
    trials: Trials | None = field(init=False)

    def __post_init__(self) -> None:
        self.trials = None if self.replay is None else Trials(self.comparison, self.replay)

    def proof(self, places: Sequence[Place], wanted: Callable[[Candidate], bool] = lambda _: True) -> Proof | None:
        """The first setting with which the source agrees at all places and all later ones on their streams, among those
        that are wanted; else the first with which it agrees at the places."""
        if self.trials is None or self.replay is None or places[0].port == "out":
            return None
        self.trials.rest()
        partly: Proof | None = None
        for group in self._groups(places):
            candidates = [c for c in group.candidates if wanted(c)]
            if self.trials.exhausted or not candidates:
                continue
            family = group.family if len(candidates) == len(group.candidates) else None
            proof = self.trials.prove(Group(group.meaning, candidates, family), places)
            if proof is not None and not proof.beyond:
                return proof
            partly = partly or proof
        return partly

    def _groups(self, places: Sequence[Place]) -> list[Group]:
        """Everything that can be tried on the side that is varied, the likeliest first."""
        assert self.replay is not None
        named = self.differences
        if isinstance(self.replay, TargetReplay):
            named = [d.turned() for d in named if d.source]
        found = groups(self.replay.side.knobs, named, self.sizes)  # type: ignore[attr-defined]
        return _likeliest_first(found, exact_first_token(self.comparison, places[0]))

    def named(self, places: Sequence[Place]) -> Proof | None:
        """The settings of the target's configuration with which the source agrees at all places, if possible at all
        later ones on their streams too."""
        one = self.proof(places, _named_by_the_target)
        return one if one is not None and not one.beyond else self._together(places) or one

    def _together(self, places: Sequence[Place]) -> Proof | None:
        """Several settings that the target's configuration names, where it takes more than one; none that is not
        needed."""
        trials = self.trials
        if trials is None or places[0].port == "out":
            return None

        def whole(together: Sequence[Candidate]) -> Proof | None:
            found = trials.prove(Group(together[0].meaning, [joined(together)]), places)
            return found if found is not None and not found.beyond else None

        trials.allow()
        several = [reading for reading in self.readings(places) if len(reading) > 1]
        left = [(trials.remaining(joined(r), places[0]), i) for i, r in enumerate(several) if not trials.exhausted]
        ranked = sorted((n, i) for n, i in left if n is not None)
        chosen = several[ranked[0][1]] if ranked else []
        proof = whole(chosen) if chosen else None
        for candidate in [*chosen] if proof is not None else []:
            fewer = [c for c in chosen if c is not candidate]
            simpler = whole(fewer) if len(fewer) > 1 else None
            if simpler is not None:
                chosen, proof = fewer, simpler
        return proof

    def two(self, places: Sequence[Place]) -> Proof | None:
        """Two settings at once, when each by itself was tried."""
        if self.trials is None or places[0].port == "out":
            return None
        self.trials.allow()
        return self.trials.prove_two(self._groups(places), places)

    def readings(self, places: Sequence[Place]) -> list[list[Candidate]]:
        """What the target's configuration says of these places, as it may be meant: of each of its fields one setting
        of the source, then other ways."""
        if self.trials is None:
            return []
        fields = self._meant(places)[:_MOST_FIELDS]
        found = sorted(product(*fields), key=lambda parts: sum(len(part) != 1 for part in parts))
        return [chosen for parts in found[:_MOST_COMBINED] if (chosen := [c for part in parts for c in part])]

    def _meant(self, places: Sequence[Place]) -> list[list[list[Candidate]]]:
        """Of each field of the target's configuration the settings of the source that it may be meant for: one, all of
        them, or none."""
        assert self.trials is not None
        idle = {paths for _, paths in self.trials.idle}
        fields: dict[str, list[list[Candidate]]] = {}
        for group in self._groups(places):
            named = [c for c in group.candidates if _named_by_the_target(c) and frozenset(c.changes) not in idle]
            if named and named[0].given is not None:
                fields.setdefault(named[0].given.target, []).append(named)
        return [
            [*([c] for named in field for c in named), *([[n[0] for n in field]] if len(field) > 1 else []), []]
            for field in fields.values()
        ]

    def reaches(self, candidate: Candidate, places: Sequence[Place]) -> bool:
        """Whether this setting changes anything at the first of these places."""
        left = None if self.trials is None else self.trials.remaining(candidate, places[0])
        return left is not None and left != UNCHANGED

    def confirmed(self, candidate: Candidate, places: Sequence[Place]) -> Proof | None:
        """Whether this setting explains these places."""
        return None if self.trials is None else self.trials.confirmed(candidate, places)

    def runs_with(self, candidate: Candidate) -> Runs | None:
        """The isolated runs of the varied side so set; None where it cannot be run so."""
        return None if self.trials is None else self.trials.runs_with(candidate)


def _named_by_the_target(candidate: Candidate) -> bool:
    """Whether the value comes from the target's configuration. A factor that only one side names may be the mapping's
    business as well, unless it is one on top of what the source has: it is first searched for there."""
    given = candidate.given
    if given is None:
        return False
    return bool(given.source) or candidate.factor or candidate.meaning not in FACTORS


def _likeliest_first(found: Sequence[Group], first_is_exact: bool) -> list[Group]:
    """What differs by configuration stays in front; then what can explain that the first position is right, or that
    it is not."""
    return sorted(
        found, key=lambda g: (not any(c.given for c in g.candidates), g.meaning.mixes_positions != first_is_exact)
    )
