"""One suspect at a time: a comparison in which what the others pass on is the same in every feature.

Of two entries that are wrong together neither alone mends the place, and there are too many pairs to try them all. But
an order of features does not matter where all features are alike: with the key's values replaced by one number per
token, in the source and in the target, the scores depend on the query's order only.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ckptdbg.compare.carry import plants
from ckptdbg.compare.comparison import Comparison
from ckptdbg.compare.replay import Replay, TargetReplay
from ckptdbg.compare.runs import Runs
from ckptdbg.diagnose.regions import Place
from ckptdbg.models.records import Record

Array = NDArray[np.floating]


@dataclass(frozen=True)
class Apart:
    """Makes such comparisons. ``replay`` runs the source with other planted values."""

    comparison: Comparison
    replay: Replay

    def without(self, entries: Collection[str], places: Sequence[Place]) -> Comparison | None:
        """The comparison with the values of these entries' anchors, as they feed these places, alike in every feature;
        None where none of them feeds a place by values of its own. Nothing is compiled anew."""
        labels = self.comparison.target.labels
        feeds = sorted({f for place in places for f in place.feeds})
        chosen = [f for f in feeds if (made_by := {e.name for e in labels[f].entries}) and made_by <= set(entries)]
        records = self._levelled(chosen)
        return None if records is None else self._planted(records)

    def _levelled(self, feeders: Sequence[int]) -> tuple[Record, ...] | None:
        """The source's records, what these target anchors take from them alike in every feature."""
        records = list(self.comparison.source.runs.free.working.records)
        changed = False
        for feeder in feeders:
            found = self.comparison.pairing.outputs[feeder]
            for anchor, index in found.offers if found is not None else ():
                features = np.unique(index[index >= 0])
                if features.size > 1:
                    values = np.array(records[anchor].output)
                    values[:, features] = _one_per_row(values[:, features])
                    records[anchor] = replace(records[anchor], output=values)
                    changed = True
        return tuple(records) if changed else None

    def _planted(self, records: tuple[Record, ...]) -> Comparison:
        comparison, given = self.comparison, self.comparison.source.runs
        free = replace(given.free, working=replace(given.free.working, records=records))
        varied = replace(given, free=free)
        isolated = replace(self.replay, source=varied).runs()
        source = replace(
            comparison.source, runs=replace(varied, isolated=Runs(free.working, isolated.promoted, isolated.jittered))
        )
        rows = [record.rows for record in comparison.free.working.records]
        put = plants(comparison.pairing, rows, records, comparison.gauges, given.padded)
        runs = TargetReplay(comparison.rerun, put).runs()
        return replace(comparison, source=source, plants=put, isolated=runs)


def _one_per_row(values: Array) -> Array:
    """``[rows, 1]``: as large as the row's values are, with the sign of the first."""
    return np.sqrt(np.mean(np.square(values), 1, keepdims=True)) * np.where(values[:, :1] < 0, -1, 1)
