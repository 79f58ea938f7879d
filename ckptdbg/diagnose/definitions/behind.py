"""Comparisons in which a definition does not show, for a fault of the mapping that hides behind it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ckptdbg.compare.comparison import Comparison
from ckptdbg.compare.replay import Replay
from ckptdbg.diagnose.definitions.ablation import without_scales
from ckptdbg.diagnose.definitions.candidate import Candidate, joined
from ckptdbg.diagnose.definitions.causes import Definitions
from ckptdbg.diagnose.regions import Place

# A configuration may mean its number as it stands or as a factor, and several of its settings may be read so.
_MOST_READINGS = 2


@dataclass(frozen=True)
class Varied:
    """A comparison with one side set otherwise."""

    words: str
    """What was done, as part of a sentence on a repair."""
    comparison: Comparison
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What the source was set to; empty where parameters were changed on both sides."""


def behind(why: Definitions, places: Sequence[Place]) -> Iterator[Varied]:
    """With a source that is set as the target's configuration says; then with the scales at these places alike in all
    elements on both sides. Nothing where the source cannot be run."""
    if isinstance(why.replay, Replay) and places[0].port != "out":
        yield from behind_named(why, places)
        yield from _without_scales(why, why.replay, places)


def behind_named(why: Definitions, places: Sequence[Place]) -> Iterator[Varied]:
    """With a source that is set as the target's configuration says of what reaches these places."""
    if isinstance(why.replay, Replay):
        yield from _behind_each(why, why.experiments.readings(places)[:_MOST_READINGS])


def behind_proved(why: Definitions, places: Sequence[Place]) -> Iterator[Varied]:
    """As was proved at other places, or in an earlier round: with a source that is set so, each setting by itself that
    reaches these; where scales are applied at another point there, with those here alike in all elements on both
    sides."""
    if not isinstance(why.replay, Replay):
        return
    reaching = (chosen for chosen in why.proved.settings if why.experiments.reaches(chosen, places))
    yield from _behind_each(why, ([chosen] for chosen in reaching))
    if why.proved.scales:
        yield from _without_scales(why, why.replay, places)


def _behind_each(why: Definitions, settings: Iterable[Sequence[Candidate]]) -> Iterator[Varied]:
    found = (behind_settings(why, chosen) for chosen in settings)
    yield from (varied for varied in found if varied is not None)


def _without_scales(why: Definitions, replay: Replay, places: Sequence[Place]) -> Iterator[Varied]:
    level = without_scales(why.comparison, replay, places)
    if level is not None:
        said = f"it mends the place where all elements of {' and '.join(level.entries)} are alike on both sides"
        yield Varied(said, level.comparison)


def behind_settings(why: Definitions, chosen: Sequence[Candidate]) -> Varied | None:
    """With a source that is set so; None where it cannot be run so."""
    runs = why.experiments.runs_with(joined(chosen))
    if runs is None:
        return None
    source = why.comparison.source
    varied = replace(source, runs=replace(source.runs, isolated=runs))
    words = "; ".join(f"{c.meaning.name}: {c.before} in the source, {c.after} in the target" for c in chosen)
    said = f"it mends the place once the models define the same, which they do not: {words}"
    return Varied(said, replace(why.comparison, source=varied), joined(chosen).changes)
