"""The search for a repair of one kind of place: single edits, exchanges, then two edits at once.

Layers are used as parallel benches: one run tries another candidate in every layer of the template, and what
survives there is confirmed in all layers together.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from ckptdbg.compare.noise import SUSPECT
from ckptdbg.diagnose import pairs
from ckptdbg.diagnose.apart import Apart
from ckptdbg.diagnose.definitions.causes import Causes
from ckptdbg.diagnose.edit import VALUES, Edit
from ckptdbg.diagnose.grammar import edits
from ckptdbg.diagnose.regions import Place
from ckptdbg.diagnose.sources import exchanges
from ckptdbg.diagnose.trial import Attempt, Bench
from ckptdbg.mapping import BoundEntry
from ckptdbg.mapping import Mapping as TensorMapping

# Pairs beyond this are not tried: on 2 cores a run of a small model takes some 20 ms, and 400 pairs take seconds.
_MOST_PAIRS = 400
# Of two edits of different kinds, in one entry and over two.
_MOST_MIXED = 200
# Edits of one suspect, judged apart from the others, that are tried with every edit of another.
_MOST_APART = 8


@dataclass(frozen=True)
class Mend:
    """Edits that bring every place of a template to noise."""

    edits: tuple[Edit, ...]
    before: float
    after: float
    also: tuple[tuple[Edit, ...], ...] = ()
    """Other edits that do as well: the evidence cannot tell them apart."""
    beside: str = ""
    """What was done that a definition which differs does not show, as part of a sentence."""
    bench: Bench = field(kw_only=True, repr=False)
    """Where they were tried."""

    @property
    def cost(self) -> int:
        return sum(e.cost for e in self.edits)

    def at(self, places: Sequence[Place]) -> Mend | None:
        """The same edits at these places; None where one of these needs none, where they do not mend all, or where they
        spoil what agrees elsewhere."""
        if min(self.bench.ratios([Attempt(place, ()) for place in places])) < SUSPECT:
            return None
        after = self._left(self.edits, places)
        if after is None:
            return None
        also = tuple(edits for edits in self.also if self._left(edits, places) is not None)
        return replace(self, before=max(p.ratio for p in places), after=after, also=also)

    def _left(self, edits: tuple[Edit, ...], places: Sequence[Place]) -> float | None:
        after = max(self.bench.ratios([Attempt(place, edits) for place in places]))
        return after if after < SUSPECT and not self.bench.breaks(edits, places) else None


@dataclass(frozen=True)
class Outcome:
    """What a search found, and which families of edits it excluded."""

    mend: Mend | None
    excluded: tuple[str, ...]
    tried: int
    complete: bool = True
    """Whether the whole grammar was tried; where it was not, nothing is excluded."""
    causes: Causes = field(default_factory=Causes)
    """What the models define differently, where no edit mends the place."""


@dataclass(frozen=True)
class Suspect:
    """An entry that may be at fault at a place."""

    entry: BoundEntry
    values_only: bool = False
    """Its layout is seen to be right elsewhere; a scale may still be wrong (a norm hides it there), and so may the
    order of what is stacked, which leaves some in their places."""

    def allows(self, edit: Edit) -> bool:
        """Whether an edit of it is worth trying."""
        return not self.values_only or edit.family in VALUES or edit.lanes is not None


def search(
    bench: Bench,
    places: Sequence[Place],
    suspects: Sequence[Suspect],
    mapping: TensorMapping,
    sizes: Mapping[str, int],
    unused: Mapping[str, tuple[int, ...]],
    partners: Sequence[BoundEntry] = (),
    apart: Apart | None = None,
    otherwise: Callable[[], Collection[str] | None] = lambda: None,
    at_once: int = 2,
) -> Outcome:
    """Look for edits of ``suspects`` (strongest first) that mend all ``places`` of a template. ``partners`` are entries
    elsewhere that one of them may have been exchanged with. ``apart`` judges one suspect without the others, where the
    source can be run. ``otherwise`` is asked before pairs are tried that nothing points to: where something else than
    the mapping explains the places, the only entries whose edits are still worth trying. With one edit ``at_once`` no
    pairs are tried."""
    bench.rest()
    if bench.quiet(places):
        return Outcome(None, (), 0)
    singles = {}
    for s in suspects:
        found = [(e,) for e in edits(s.entry, mapping, sizes, unused) if s.allows(e)]
        singles[s.entry.name] = _distinct(bench, places[0], found)
    touched = {s.entry.name for s in suspects}
    full = [s.entry for s in suspects if not s.values_only]
    exchanged = exchanges([*full, *partners], mapping)
    left: dict[int, float] = {}

    def rounds() -> Iterator[Sequence[tuple[Edit, ...]]]:
        """From the least change on; what comes later is put together only if it is needed."""
        yield [*exchanged, *(c for found in singles.values() for c in found)]
        if at_once < 2:
            return
        yield _pairs_apart(bench, places, singles, apart)
        yield pairs.led(singles, exchanged, left)
        yield pairs.beside_exchanges(exchanges(full, mapping), singles)[:_MOST_MIXED]
        with bench.paused():
            among = otherwise()
        open_ones = [s for s in suspects if among is None or s.entry.name in among]
        if open_ones:
            yield from _pairs_unled(bench, places[0], open_ones, singles, mapping, sizes)

    tried, before, sizes_of_rounds = 0, bench.runs, []
    for candidates in rounds():
        mends = _mending(bench, places, candidates, touched, None if sizes_of_rounds else left)
        tried += len(candidates)
        sizes_of_rounds.append(len(candidates))
        kept = [m for m in mends if not bench.breaks(m.edits, places)]
        if mends and not kept:
            return Outcome(None, tuple(_breaking(m) for m in mends), tried)
        if kept:
            best, *others = sorted(kept, key=lambda m: (m.cost, len(m.edits), *_turns(bench, places[0], m)))
            also = tuple(m.edits for m in others)
            return Outcome(replace(best, also=also), (), tried)
    if bench.exhausted:
        return Outcome(None, (), bench.runs - before, complete=False)
    return Outcome(None, (*_singles_excluded(singles), *_others_excluded(sizes_of_rounds[1:])), tried)


def _turns(bench: Bench, place: Place, mend: Mend) -> list[int]:
    """When what the edited entries make runs, among what feeds a place: of a scale that may as well be the query's or
    the key's, the query's is told."""
    labels = bench.comparison.target.labels
    turns = {e.name: feed for feed in sorted(place.feeds, reverse=True) for e in labels[feed].entries}
    return sorted(turns.get(e.entry, len(labels)) for e in mend.edits)


def _breaking(mend: Mend) -> str:
    what = "; ".join(f"{e.entry}: {e.text}" for e in mend.edits)
    return f"{what}: mends it, and spoils what agrees elsewhere"


def _singles_excluded(singles: Mapping[str, Sequence[tuple[Edit, ...]]]) -> list[str]:
    families = dict.fromkeys(e.family for found in singles.values() for c in found for e in c)
    return [f"{family} of {', '.join(singles)}, any one edit" for family in families]


def _others_excluded(counts: Sequence[int]) -> list[str]:
    apart, led, beside, same, other = (*counts, *[0] * 5)[:5]  # not every round need come
    most = f"the first {_MOST_PAIRS}" if same >= _MOST_PAIRS else "all"
    found = [f"{apart} pairs with an edit of one that mends it apart from the others"] if apart else []
    found += [f"{led} pairs with an edit that alone leaves little"] if led else []
    found += [f"{beside} times an exchange of two of them beside an edit of another"] if beside else []
    found += [f"{most} pairs of edits of one family over two of them"] if same else []
    return [*found, f"{other} times two edits of different families, of one of them or of two"] if other else found


def _distinct(bench: Bench, place: Place, candidates: Sequence[tuple[Edit, ...]]) -> list[tuple[Edit, ...]]:
    """Candidates with an effect at the place, one for each effect, the cheapest."""
    found: dict[tuple, tuple[Edit, ...]] = {bench.effect(Attempt(place, ())): ()}
    nothing = {bench.effect(Attempt(place, ()))}
    for candidate in sorted(candidates, key=lambda c: sum(e.cost for e in c)):
        if bench.exhausted:
            break
        effect = bench.effect(Attempt(place, candidate))
        if effect not in nothing:
            found.setdefault(effect, candidate)
    return [c for c in found.values() if c]


def _pairs_apart(
    bench: Bench, places: Sequence[Place], singles: Mapping[str, list[tuple[Edit, ...]]], apart: Apart | None
) -> list[tuple[Edit, ...]]:
    """Edits of one suspect that mend the places where the values of all others are alike in every feature, so that an
    order there does not matter, each with every edit of another."""
    found = []
    for name, candidates in singles.items() if apart is not None else ():
        others = [other for other in singles if other != name]
        level = apart.without(others, places) if apart is not None and others else None
        if level is None:
            continue
        mends = _mending(bench.on(level), places, candidates, {name})
        first = sorted(mends, key=lambda m: m.cost)[:_MOST_APART]
        found += [(*m.edits, *c) for other in others for c in singles[other] for m in first]
    once = {frozenset(map(id, pair)): pair for pair in found}
    return sorted(once.values(), key=lambda pair: sum(e.cost for e in pair))


def _pairs_unled(
    bench: Bench,
    place: Place,
    suspects: Sequence[Suspect],
    singles: Mapping[str, list[tuple[Edit, ...]]],
    mapping: TensorMapping,
    sizes: Mapping[str, int],
) -> Iterator[list[tuple[Edit, ...]]]:
    """Two edits at once that nothing points to: of one family over two suspects, then of different families."""
    moving = [[c for c in singles[s.entry.name] if not s.values_only or c[0].lanes] for s in suspects]
    yield list(islice(pairs.of_one_family(moving), _MOST_PAIRS))
    full = [s.entry for s in suspects if not s.values_only]
    both = (c for e in full for c in pairs.twice(e, singles[e.name], mapping, sizes))
    twice = sorted(both, key=pairs.layouts_last)
    mixed = sorted(pairs.of_two_families([singles[s.entry.name] for s in suspects]), key=pairs.layouts_last)
    yield [*_distinct(bench, place, twice[:_MOST_MIXED]), *mixed[:_MOST_MIXED]]


def _mending(
    bench: Bench,
    places: Sequence[Place],
    candidates: Sequence[tuple[Edit, ...]],
    entries: set[str],
    left: dict[int, float] | None = None,
) -> list[Mend]:
    """Candidates that bring their place to noise, confirmed at all places together. ``left`` is told which part of the
    difference each leaves, by the candidate's ``id``."""
    groups = _groups(bench, places, entries)
    survivors = []
    whole = bench.ratios([Attempt(p, ()) for p in groups[0]]) if left is not None else []
    for i in range(0, len(candidates), len(groups[0])):
        batch = candidates[i : i + len(groups[0])]
        attempts = [Attempt(p, c) for p, c in zip(groups[0], batch, strict=False)]
        if bench.exhausted:
            break
        ratios = bench.ratios(attempts)
        survivors += [c for c, r in zip(batch, ratios, strict=True) if r < SUSPECT]
        if left is not None:
            left.update((id(c), r / w if w else 1.0) for c, r, w in zip(batch, ratios, whole, strict=False))
    before = max(p.ratio for p in places)
    mends = []
    for candidate in survivors:
        after = max(max(bench.ratios([Attempt(p, candidate) for p in group])) for group in groups)
        if after < SUSPECT:
            mends.append(Mend(candidate, before, after, bench=bench))
    return mends


def _groups(bench: Bench, places: Sequence[Place], entries: set[str]) -> list[list[Place]]:
    """Places in groups that share nothing the entries make, so that each can try something else in one run."""
    groups: list[tuple[set[str], list[Place]]] = []
    for place in places:
        touched = bench.tensors(place, entries)
        for seen, members in groups:
            if not seen & touched:
                seen |= touched
                members.append(place)
                break
        else:
            groups.append((touched, [place]))
    return [members for _, members in groups]
