"""A cursor over the recorded run of both models, and what can be tried from where it stands.

Every verb returns a record; state changes only once a verb has finished, so one that is interrupted leaves everything
as it was. Models are run in one thread at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptdbg.errors import CkptdbgError
from ckptdbg.repair import Diagnosis
from ckptdbg.result import Finding
from ckptdbg.stepping.edits import At, Edited, repaired, typed
from ckptdbg.stepping.plant import Planted, plant
from ckptdbg.stepping.position import Position, position
from ckptdbg.stepping.shown import Shown, shown
from ckptdbg.stepping.stops import Stop, all_stops, divergences, layer_starts
from ckptdbg.stepping.trial import Trial, run_trial

if TYPE_CHECKING:
    from ckptdbg.session import Session


@dataclass(frozen=True)
class State:
    """One comparison: as it was opened, or under the repairs applied since."""

    session: Session
    edited: Edited

    @cached_property
    def stops(self) -> tuple[Stop, ...]:
        """Everywhere the cursor can stand."""
        return all_stops(self.session.comparison)


class Stepper:
    """The debugger's verbs. Made by ``session.stepper``; nothing runs before the first verb."""

    def __init__(self, session: Session) -> None:
        self._base = session
        self._applied: tuple[State, ...] = ()
        self._at: Stop | None = None
        self._trial: Trial | None = None
        self._lock = threading.RLock()

    @cached_property
    def _opened(self) -> State:
        return State(self._base, Edited(self._base.unbound_mapping, {}, ()))

    @property
    def _state(self) -> State:
        return self._applied[-1] if self._applied else self._opened

    @property
    def session(self) -> Session:
        """The comparison under the repairs applied so far."""
        return self._state.session

    @property
    def stops(self) -> tuple[Stop, ...]:
        """Everywhere the cursor can stand, in execution order: the rows of ``Result.sites``."""
        state = self._state
        if "stops" in vars(state):  # measured before: to look around is possible while models run
            return state.stops
        with self._alone("comparing the models"):
            return state.stops

    @property
    def trial(self) -> Trial | None:
        """What was tried last and is not applied."""
        return self._trial

    @property
    def applied(self) -> int:
        """How many repairs are applied, and can be undone."""
        return len(self._applied)

    @property
    def findings(self) -> list[Finding]:
        """What is wrong with the models as they were opened; ``try_`` counts them from 1."""
        with self._alone("looking for causes"):
            return self._base.diagnosis.findings

    # Moving.

    def where(self) -> Position:
        """Where the cursor stands; at first before the first site."""
        return self._position(self._here())

    def step(self) -> Position:
        """To the next site."""
        return self._move(self.stops, "this is the last site")

    def next(self) -> Position:
        """To the first site of the next layer."""
        return self._move(layer_starts(self.stops), "there is no layer after this")

    def back(self) -> Position:
        """To the site before."""
        earlier = [stop for stop in self.stops if stop.order < self._here().order]
        if not earlier:
            return self._position(self._here(), "this is the first site")
        return self._go(earlier[-1])

    def continue_(self) -> Position:
        """To the next divergence: where the models first part, and each piece that diverges on the source's own
        values. Without one, to the output."""
        ahead = [stop for stop in divergences(self.stops) if stop.order > self._order]
        return self._go(ahead[0]) if ahead else self._go(self.stops[-1], "no divergence lies ahead")

    cont = continue_

    def goto(self, order: int) -> Position:
        """To one row of ``Result.sites``, counted from 0. Raises CkptdbgError where there is none."""
        if not 0 <= order < len(self.stops):
            raise CkptdbgError("no such site", found=order, expected=f"0 to {len(self.stops) - 1}")
        return self._go(self.stops[order])

    # Looking.

    def show(self, *, alone: bool = False) -> Shown:
        """The values here, source carried into the target's layout. ``alone`` shows this piece on the source's own
        values instead of free running."""
        return shown(self.session.comparison, self._here(), alone=alone)

    # Trying.

    def plant(self, *, layers: bool = False) -> Planted:
        """Put the source's values in here and run the target on. ``layers`` plants at the same entry's site of every
        layer. Raises CkptdbgError where nothing can be planted."""
        with self._alone("running on from a plant"):
            here = self._here()
            chosen = [stop for stop in self.stops if _alike(stop, here)] if layers else [here]
            return plant(self.session.comparison, self.stops, chosen, self._base.progress)

    def try_(self, what: int | str, ops: str | dict[str, Any] | list[Any] | None = None, at: At = "all") -> Trial:
        """What a repair would do: that of a finding (its number in the report), or ``ops`` for an entry, in place of
        its own (``at="all"``), before them (``first``) or behind them (``last``).

        Runs the whole target again; nothing is applied. Raises CkptdbgError for a finding without a repair,
        MappingError for ops that do not parse or do not fit.
        """
        with self._alone("trying a repair"):
            state = self._state
            if isinstance(what, int):
                edited = repaired(state.session, state.edited, what, self._base.diagnosis)
            else:
                edited = typed(state.session, state.edited, what, [] if ops is None else ops, at)
            self._trial = run_trial(state.session, state.stops, self._base, edited)
            return self._trial

    def apply(self) -> Position:
        """Go on under what was tried last. Raises CkptdbgError where nothing was tried."""
        if self._trial is None:
            raise CkptdbgError("nothing was tried yet", hint="try a finding's repair, or ops for an entry")
        fresh = State(self._trial.session, self._trial.edited)
        self._moved_to((*self._applied, fresh))
        return self._position(self._here(), f"applied: {self.applied} in all")

    def undo(self) -> Position:
        """Take back the last repair that was applied. Raises CkptdbgError where there is none."""
        if not self.applied:
            raise CkptdbgError("nothing is applied, so there is nothing to undo")
        self._moved_to(self._applied[:-1])
        return self._position(self._here(), f"undone: {self.applied} still applied")

    def write(self, path: str | Path) -> Path:
        """Write the mapping with all applied repairs to a new file. Raises CkptdbgError where the mapping is as it was,
        MappingError for a file that is there already."""
        mapping = self._state.edited.mapping
        written = Diagnosis([], mapping, mapping.text != self._base.unbound_mapping.text).write(Path(path))
        if written is None:
            raise CkptdbgError(
                "the mapping is as it was: there is nothing to write",
                hint="apply a repair first; a tensor of the checkpoint is made again by converting it again",
            )
        return written

    @property
    def _order(self) -> int:
        return -1 if self._at is None else self._at.order

    def _here(self) -> Stop:
        return self._at or self.stops[0]

    def _move(self, among: Sequence[Stop], otherwise: str) -> Position:
        ahead = [stop for stop in among if stop.order > self._order]
        return self._go(ahead[0]) if ahead else self._position(self._here(), otherwise)

    def _go(self, stop: Stop, note: str = "") -> Position:
        self._at = stop
        return self._position(stop, note)

    def _position(self, stop: Stop, note: str = "") -> Position:
        return position(self.session.comparison, self.stops, stop, note)

    def _moved_to(self, applied: tuple[State, ...]) -> None:
        """Change the comparison under the cursor; it stays where it was, as far as there is such a place."""
        stops, at = (applied[-1] if applied else self._opened).stops, self._at
        if at is not None:
            at = next((s for s in stops if s.key == at.key), stops[min(at.order, len(stops) - 1)])
        self._applied, self._at, self._trial = applied, at, None

    @contextmanager
    def _alone(self, what: str) -> Iterator[None]:
        """Models are run by one thread at a time; another is told so at once."""
        if not self._lock.acquire(blocking=False):
            raise CkptdbgError(f"something else is running: {what} has to wait", hint="wait for it, or stop it")
        try:
            self._base.progress(what)
            yield
        finally:
            self._lock.release()


def _alike(stop: Stop, here: Stop) -> bool:
    """The same port of the same entry, in whatever layer."""
    return (stop.row.entry, stop.row.port) == (here.row.entry, here.row.port) and stop.row.entry is not None
