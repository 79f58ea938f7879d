"""The debugger's verbs as methods of a session."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptdbg.errors import CkptdbgError

if TYPE_CHECKING:
    from ckptdbg.stepping.edits import At
    from ckptdbg.stepping.plant import Planted
    from ckptdbg.stepping.position import Position
    from ckptdbg.stepping.shown import Shown
    from ckptdbg.stepping.stepper import Stepper
    from ckptdbg.stepping.trial import Trial


class Verbs:
    """``session.step()`` and the like; each says what ``session.stepper`` says."""

    @cached_property
    def stepper(self) -> Stepper:
        """The one cursor over this session's recorded run."""
        from ckptdbg.stepping.stepper import Stepper

        return Stepper(self)  # type: ignore[arg-type]

    def step(self) -> Position:
        """To the next site."""
        return self.stepper.step()

    def next(self) -> Position:
        """To the first site of the next layer."""
        return self.stepper.next()

    def back(self) -> Position:
        """To the site before."""
        return self.stepper.back()

    def continue_(self) -> Position:
        """To the next divergence."""
        return self.stepper.continue_()

    cont = continue_

    def where(self) -> Position:
        """Where the cursor stands: site, layer, entry, code on both sides, region."""
        return self.stepper.where()

    def show(self, *, alone: bool = False) -> Shown:
        """The values here: source, target, difference."""
        return self.stepper.show(alone=alone)

    def plant(self, *, layers: bool = False) -> Planted:
        """Put the source's values in here and run on: what recovers?"""
        return self.stepper.plant(layers=layers)

    def try_(self, what: int | str, ops: str | dict[str, Any] | list[Any] | None = None, at: At = "all") -> Trial:
        """What the repair of a finding (its number), or other ops for an entry, would do."""
        return self.stepper.try_(what, ops, at)

    def apply(self) -> Position:
        """Go on under what was tried last."""
        return self.stepper.apply()

    def undo(self) -> Position:
        """Take back the last repair that was applied."""
        return self.stepper.undo()

    def write(self, path: str | Path) -> Path:
        """Write the mapping with all applied repairs to a new file."""
        return self.stepper.write(path)

    def debug(self) -> Any:
        """All widgets over this session, joined, for a notebook. Raises CkptdbgError without the notebook extra."""
        try:
            from ckptdbg_widgets.dashboard import Dashboard  # type: ignore[import-not-found]
        except ModuleNotFoundError as cause:
            if (cause.name or "").partition(".")[0] not in ("anywidget", "ipywidgets", "traitlets", "ckptdbg_widgets"):
                raise
            raise CkptdbgError(
                "the widgets are not installed here", found=f"no {cause.name}", hint='pip install "ckptdbg[notebook]"'
            ) from cause
        return Dashboard(self)  # type: ignore[arg-type]
