"""What a plant or a repair changes: the same places measured before and after."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ckptdbg.compare.sites import Judged
from ckptdbg.report.names import visible
from ckptdbg.stepping.printed import moved
from ckptdbg.stepping.stops import Stop

_LISTED = 8
"""Places named one by one; the rest is counted."""


@dataclass(frozen=True)
class Change:
    """One place before and after, free running or alone."""

    name: str
    layer: str | None
    order: int
    """Place in ``Result.sites`` as it was before."""
    before: float
    """Ratio of error to noise, in working precision."""
    after: float
    diverged: bool
    diverges: bool

    @property
    def recovered(self) -> bool:
        return self.diverged and not self.diverges

    @property
    def broken(self) -> bool:
        return self.diverges and not self.diverged

    def __str__(self) -> str:
        layer = f"layer {visible(self.layer)}  " if self.layer is not None else ""
        return f"{layer}{self.name}  {moved(self.before, self.after)}"


def change(stop: Stop, before: Judged, after: Judged) -> Change:
    """One place under two runs."""
    ratios = before.working.ratio, after.working.ratio
    return Change(stop.name, stop.row.layer, stop.order, *ratios, before.divergent, after.divergent)


def between(before: Sequence[Stop], after: Sequence[Stop], *, alone: bool) -> tuple[Change, ...]:
    """Places that both comparisons judged."""
    later = {stop.key: stop for stop in after}
    found = []
    for stop in before:
        other = later.get(stop.key)
        pair = (stop.alone, other.alone if other else None) if alone else (stop.free, other.free if other else None)
        if pair[0] is not None and pair[1] is not None:
            found.append(change(stop, pair[0], pair[1]))
    return tuple(found)


def listed(title: str, changes: Iterable[Change]) -> Iterator[str]:
    """The farthest from noise first, then how many more there are."""
    ranked = sorted(changes, key=lambda c: -max(c.before, c.after))
    if ranked:
        yield f"  {title}: {len(ranked)}"
        yield from (f"    {change}" for change in sorted(ranked[:_LISTED], key=lambda c: c.order))
        if len(ranked) > _LISTED:
            yield f"    and {len(ranked) - _LISTED} nearer to noise"
