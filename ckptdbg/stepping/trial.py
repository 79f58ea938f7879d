"""What a repair would do: the target runs again under it, and every place is measured anew."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptdbg.report.changes import changes
from ckptdbg.report.names import visible
from ckptdbg.result import Repair
from ckptdbg.stepping.change import Change, between, listed
from ckptdbg.stepping.edits import Edited
from ckptdbg.stepping.printed import Printed, moved
from ckptdbg.stepping.stops import Stop, all_stops

if TYPE_CHECKING:
    from ckptdbg.session import Session


@dataclass(frozen=True, eq=False, repr=False)
class Trial(Printed):
    """A repair that was run on this probe. Nothing is changed until it is applied."""

    repairs: tuple[Repair, ...]
    free: tuple[Change, ...]
    """Every place free running, the output last."""
    alone: tuple[Change, ...]
    """Every place on the source's own values, the output last."""
    edited: Edited = field(repr=False)
    session: Session = field(repr=False)
    """The comparison under the repair."""

    @property
    def mended(self) -> bool:
        """Whether nothing diverges any more."""
        return not any(c.diverges for c in (*self.free, *self.alone))

    @property
    def output(self) -> Change:
        return self.free[-1]

    def lines(self) -> list[str]:
        found = []
        for repair in self.repairs:
            found.append(f"tried on {visible(repair.entry)}: {visible(repair.change)}")
            found += [f"  {sign} {visible(text)}" for sign, text in changes(repair) if sign != " "]
        for how, all_ in (("alone", self.alone), ("free running", self.free)):
            found += listed(f"at noise now, {how}", (c for c in all_ if c.recovered))
            found += listed(f"diverge now, {how}", (c for c in all_ if c.broken))
            found += listed(f"still diverge, {how}", (c for c in all_ if c.diverged and c.diverges))
        found.append(f"  output  {moved(self.output.before, self.output.after)}  {self._verdict()}")
        if not all(repair.verified for repair in self.repairs):
            why = "the source ran elsewhere" if self.session.stored is not None else "`ckptdbg compare` does that"
            found.append(f"  not verified on other tokens: {why}")
        return found

    def _verdict(self) -> str:
        if self.mended:
            return "at noise, and so is every place: `apply` keeps it"
        return "still diverges" if self.output.diverges else "at noise, but not every place is"


def run_trial(session: Session, stops: tuple[Stop, ...], base: Session, edited: Edited) -> Trial:
    """Compare again under ``edited``. ``session`` has the comparison before it, with its ``stops``; ``base`` the models
    as they were loaded. The source is not run again and nothing is compiled."""
    other = base.repaired(edited.mapping, dict(edited.patches))
    other.progress = lambda step: base.progress(step)
    after = all_stops(other.comparison)
    return Trial(
        edited.repairs,
        between(stops, after, alone=False),
        between(stops, after, alone=True),
        edited,
        other,
    )
