"""Comparisons in which a definition does not show, for a fault of the mapping that hides behind it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, product
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
    if not isinstance(why.replay, Replay) or places[0].port == "out":
        return
    named = why.experiments.named_candidates(places)
    for chosen in islice(product(*named), _MOST_READINGS) if named else ():
        yield from behind_settings(why, chosen)
    yield from _without_scales(why, why.replay, places)


def behind_proved(why: Definitions, places: Sequence[Place]) -> Iterator[Varied]:
    """As was proved at other places: with a source that is set so, each setting by itself; where scales are applied at
    another point there, with those here alike in all elements on both sides."""
    if not isinstance(why.replay, Replay):
        return
    for chosen in why.established:
        yield from behind_settings(why, [chosen])
    if why.order_differs:
        yield from _without_scales(why, why.replay, places)


def _without_scales(why: Definitions, replay: Replay, places: Sequence[Place]) -> Iterator[Varied]:
    level = without_scales(why.comparison, replay, places)
    if level is not None:
        said = f"it mends the place where all elements of {' and '.join(level.entries)} are alike on both sides"
        yield Varied(said, level.comparison)


def behind_settings(why: Definitions, chosen: Sequence[Candidate]) -> Iterator[Varied]:
    """With a source that is set so; nothing where it cannot be run so."""
    runs = why.experiments.runs_with(joined(chosen))
    if runs is not None:
        source = why.comparison.source
        varied = replace(source, runs=replace(source.runs, isolated=runs))
        words = "; ".join(f"{c.meaning.name}: {c.before} in the source, {c.after} in the target" for c in chosen)
        said = f"it mends the place once the models define the same, which they do not: {words}"
        yield Varied(said, replace(why.comparison, source=varied), joined(chosen).changes)
