"""All windows of the debugger over one session: choosing a place in one shows it in the others.

What runs models runs on a thread of its own, one at a time (the stepper sees to that), so the notebook goes on
answering: places can be looked at while a repair is tried, and "stop" is heard.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import ipywidgets

from ckptdbg.result import Site
from ckptdbg_widgets.activation_heatmap import ActivationHeatmap
from ckptdbg_widgets.divergence_map import DivergenceMap
from ckptdbg_widgets.export import export
from ckptdbg_widgets.layer_stepper import LayerStepper
from ckptdbg_widgets.logits_panel import LogitsPanel
from ckptdbg_widgets.mapping_panel import MappingPanel
from ckptdbg_widgets.shown import Shown
from ckptdbg_widgets.sites import key_of, suspect_of
from ckptdbg_widgets.try_it import Tried, TryIt
from ckptdbg_widgets.values import values_at
from ckptdbg_widgets.verdict_panel import VerdictPanel
from ckptdbg_widgets.work import Work

if TYPE_CHECKING:
    from ckptdbg.session import Session


class Dashboard(Shown, ipywidgets.VBox):
    """The debugger's windows. Made by ``session.debug()``; the models are compared first.

    ``stepper`` is the session's own: verbs called in a cell and choices made here move one cursor (``refresh`` shows
    what a cell did).
    """

    def __init__(self, session: Session) -> None:
        """Raises CkptdbgError where the models cannot be compared."""
        self.session, self.stepper = session, session.stepper
        self.result = session.compare()
        self.comparison = session.comparison
        self.verdict, self.map = VerdictPanel(self.result), DivergenceMap(self.result)
        self.layers = LayerStepper(self.result)
        self.mapping = MappingPanel(self.result, session.mapping)
        self.heatmap = ActivationHeatmap.at(self.comparison, self._sites()[0])
        self.logits = self._logits()
        self.try_it = TryIt(self.result, list(dict.fromkeys(entry.name for entry in session.mapping.entries)))
        self.place, self.said, self.work = ipywidgets.HTML(), ipywidgets.HTML(), Work()
        self._moving = False
        super().__init__([
            self.verdict, self.map, self.layers, self.place, self.heatmap, self._buttons(), self.work, self.said,
            _folding("mapping", self.mapping), _folding("try it", self.try_it),
            _folding("predictions", self.logits, opened=False),
        ])  # fmt: skip
        self._connect()
        self.goto(self.layers.position)

    def goto(self, order: int) -> None:
        """Show one row of ``Result.sites`` in every window."""
        position = self.stepper.goto(order)
        site = self._sites()[order]
        self.place.value = position._repr_html_()
        self.heatmap.show(values_at(self.comparison, site))
        self.mapping.select(suspect_of(self.result, site))
        with self._own_change():
            self.map.selected, self.layers.position = key_of(site), order

    def refresh(self) -> None:
        """Show the comparison under the repairs applied so far, as after ``apply`` or ``undo`` in a cell."""
        self._renew()
        self.try_it.applied = self.stepper.applied

    def plain(self) -> str:
        """What the windows show, in words."""
        return f"{self.map.plain()}\n\n{self.stepper.where()}\n\n{self.heatmap.plain()}"

    def png(self) -> bytes | None:
        """The map, which says most."""
        return self.map.png()

    # Wiring.

    def _connect(self) -> None:
        self.map.observe(lambda change: self._chosen((change.new or {}).get("order")), "selected")
        self.layers.observe(lambda change: self._chosen(change.new), "position")
        self.verdict.observe(lambda change: self._finding(change.new), "finding")
        self.try_it.on_try(self._try)
        self.try_it.on_apply(lambda: self._changed(self.stepper.apply))
        self.try_it.on_undo(lambda: self._changed(self.stepper.undo))
        self.try_it.on_write(self.stepper.write)

    def _chosen(self, order: int | None) -> None:
        if order is not None and not self._moving:
            self.goto(order)

    def _finding(self, number: int) -> None:
        """To the place of a finding, and the entry it names first."""
        if not 1 <= number <= len(self.result.findings):
            return
        finding = self.result.findings[number - 1]
        orders = [s.order for s in self.result.sites if finding.site in (f"{s.site} {s.port}", s.site)]
        if orders:
            self.goto(orders[0])
        if finding.entries:
            self.mapping.select(finding.entries[0].name)

    @contextmanager
    def _own_change(self) -> Iterator[None]:
        """What the windows are set to here is no choice of a person's."""
        before, self._moving = self._moving, True
        try:
            yield
        finally:
            self._moving = before

    # Work.

    def _buttons(self) -> ipywidgets.HBox:
        def button(name: str, tip: str, verb: Callable[[], Any]) -> ipywidgets.Button:
            made = ipywidgets.Button(description=name, tooltip=tip, layout={"width": "auto"})
            made.on_click(lambda _: verb())
            return made

        self.path = ipywidgets.Text("ckptdbg-page.html", description="page")
        return ipywidgets.HBox([
            button("to the next divergence", "move on in execution order", self._continue),
            button("plant here", "put the source's values in here and run on", lambda: self._plant(False)),
            button("plant in every layer", "the same at this site of every layer", lambda: self._plant(True)),
            self.path,
            button("export", "write these windows as one page that opens without a kernel", self._export),
        ])  # fmt: skip

    def _continue(self) -> None:
        position = self.stepper.continue_()
        self.goto(position.order)
        self.work.say(position.note)

    def _plant(self, layers: bool) -> None:
        def work() -> Any:
            with self._progress(self.work.step):
                return self.stepper.plant(layers=layers)

        self.work.begin(work, lambda planted: setattr(self.said, "value", planted._repr_html_()))

    def _export(self) -> None:
        ids = self.session.inputs.get("input_ids")
        about = {"comparison": self.comparison, "mapping": self.stepper.session.mapping, "ids": ids}
        path = self.path.value
        self.work.begin(lambda: export(self.result, path, **about), lambda found: self.work.say(f"wrote {found}"))

    def _try(self, what: int | str, ops: str, at: Any) -> Tried:
        with self._progress(self.try_it.step):
            trial = self.stepper.try_(what, ops, at)
        return Tried(trial.output.before, trial.output.after, trial.mended, tuple(trial.lines()))

    def _changed(self, verb: Callable[[], Any]) -> None:
        verb()
        self._renew()

    @contextmanager
    def _progress(self, step: Callable[[str], None]) -> Iterator[None]:
        before, self.session.progress = self.session.progress, step
        try:
            yield
        finally:
            self.session.progress = before

    # Showing.

    def _renew(self) -> None:
        """Every window on the stepper's comparison; what can be tried stays as it was found at first."""
        now = self.stepper.session
        opened = now is self.session
        self.result = self.session.compare() if opened else now.compare(repair=False)
        self.comparison = now.comparison
        at = self.stepper.where().order
        with self._own_change():
            for window in (self.verdict, self.map, self.layers):
                window.show(self.result)
            self.mapping.show(self.result, now.mapping)
        fresh = self._logits()
        self.logits.data, self.logits.position = fresh.data, fresh.position
        fresh.close()
        self.said.value = ""
        self.goto(at)

    def _logits(self) -> LogitsPanel:
        return LogitsPanel.of(self.comparison, self.result, ids=self.session.inputs.get("input_ids"))

    def _sites(self) -> list[Site]:
        return sorted(self.result.sites, key=lambda site: site.order)


def _folding(title: str, window: ipywidgets.Widget, opened: bool = True) -> ipywidgets.Accordion:
    """A window that is in the way can be shut; each on its own, since several are looked at together."""
    return ipywidgets.Accordion([window], titles=[title], selected_index=0 if opened else None)
