"""All windows over one stepper, without a browser: what is chosen in one shows in the others, repairs turn it quiet."""

from __future__ import annotations

import sys
import threading

import numpy as np
import pytest

from ckptdbg.errors import CkptdbgError
from ckptdbg.stepping.stepper import Stepper


@pytest.fixture
def dashboard(on_torch):
    vars(on_torch)["stepper"] = Stepper(on_torch)
    return on_torch.debug()


def press(dashboard, **message):
    """What the browser sends when a button of the try-out panel is pressed; its work done."""
    dashboard.try_it._heard(None, message, [])
    dashboard.try_it.wait(120)
    assert not dashboard.try_it.busy
    return dashboard.try_it.message


def at(dashboard):
    """Where each window is: they must agree."""
    site = dashboard.layers.site
    assert dashboard.map.selected == {"site": site.site, "port": site.port, "order": site.order}
    assert dashboard.stepper.where().order == site.order
    assert dashboard.heatmap.values.title.startswith(f"{site.site} {site.port}")
    assert f"[{site.order + 1} of " in dashboard.place.value
    return site


def divergent(dashboard):
    return [s.order for s in dashboard.result.sites if s.ratio > dashboard.result.noise.divergent]


def test_it_opens_at_the_first_divergence(dashboard):
    assert at(dashboard).site == "layers.0.feed_forward.w2.weight"
    assert dashboard.mapping.entry == "mlp.gate_up"  # the suspect, not the entry of the site itself


def test_a_cell_of_the_map_moves_every_window(dashboard):
    site = dashboard.result.sites[4]
    dashboard.map.selected = {"site": site.site, "port": site.port, "order": site.order}
    assert at(dashboard) == site
    assert dashboard.mapping.entry == site.entry
    shown = dashboard.stepper.show()
    np.testing.assert_array_equal(dashboard.heatmap.values.source, shown.source)
    np.testing.assert_array_equal(dashboard.heatmap.values.target, shown.target)


def test_the_layer_stepper_and_a_finding_move_every_window(dashboard):
    dashboard.layers.position = 6
    assert at(dashboard).order == 6
    dashboard.verdict.finding = 1
    assert at(dashboard).site == "layers.0.feed_forward.w2.weight"
    assert dashboard.mapping.entry == "mlp.gate_up"


def test_trying_changes_nothing_applying_turns_it_quiet_and_undo_takes_it_back(dashboard, tmp_path):
    before = divergent(dashboard)
    assert before
    assert press(dashboard, verb="try", what=1)["kind"] == "done"
    assert dashboard.try_it.tried["mended"]
    assert divergent(dashboard) == before
    assert press(dashboard, verb="apply")["kind"] == "done"
    assert dashboard.try_it.applied == dashboard.stepper.applied == 1
    assert divergent(dashboard) == []
    assert dashboard.map.result.verdict == "equivalent"
    assert at(dashboard).ratio < 10
    assert press(dashboard, verb="write", path=str(tmp_path / "mended.yaml"))["kind"] == "done"
    assert (tmp_path / "mended.yaml").is_file()
    assert press(dashboard, verb="undo")["kind"] == "done"
    assert divergent(dashboard) == before


def test_what_a_cell_did_is_shown_after_refresh(dashboard):
    dashboard.session.try_(1)
    dashboard.session.apply()
    dashboard.refresh()
    assert (dashboard.try_it.applied, divergent(dashboard)) == (1, [])


def test_an_error_is_shown_in_the_panel(dashboard):
    message = press(dashboard, verb="try", what="mlp.down", ops="{scal: 2}", at="all")
    assert message["kind"] == "failed"
    assert "unknown op scal; did you mean scale?" in message["text"]


def test_places_can_be_looked_at_while_models_run_and_stop_is_heard(dashboard, monkeypatch):
    side = dashboard.comparison.rerun.side
    begun, go_on, run = threading.Event(), threading.Event(), side.run

    def slowly(*args, **kwargs):
        begun.set()
        assert go_on.wait(60)
        return run(*args, **kwargs)

    monkeypatch.setattr(side, "run", slowly)
    stop = dashboard.work.children[0].layout
    assert stop.display == "none"
    dashboard._plant(False)
    assert begun.wait(60)
    assert stop.display is None
    dashboard.layers.position = 3
    assert at(dashboard).order == 3
    # a second piece of work is refused in words, and the first is not disturbed
    assert (
        "something else is running" in press(dashboard, verb="try", what="mlp.down", ops="{scale: 2}", at="all")["text"]
    )
    dashboard.work.stop()
    go_on.set()
    dashboard.work.wait(60)
    assert dashboard.work.said == "stopped: nothing was changed"
    assert stop.display == "none"
    assert dashboard.said.value == ""
    dashboard._plant(True)
    dashboard.work.wait(60)
    assert "planted the source&#x27;s values" in dashboard.said.value


def test_the_page_is_exported(dashboard, tmp_path):
    dashboard.path.value = str(tmp_path / "page.html")
    dashboard._export()
    dashboard.work.wait(120)
    assert dashboard.work.said.startswith("wrote ")
    assert "<!doctype html>" in (tmp_path / "page.html").read_text()[:20]


def test_without_a_browser_there_are_words_and_a_picture(dashboard):
    view, still = dashboard.outputs()
    assert "application/vnd.jupyter.widget-view+json" in view
    assert "data:image/png;base64,iVBOR" in still["text/html"]
    assert "mlp.down" in still["text/plain"]


def test_without_the_notebook_extra_it_says_what_to_install(on_torch, monkeypatch):
    monkeypatch.setitem(sys.modules, "ckptdbg_widgets.dashboard", None)
    monkeypatch.setitem(sys.modules, "anywidget", None)
    for name in [name for name in sys.modules if name.startswith("ckptdbg_widgets")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(CkptdbgError, match=r'the widgets are not installed here.*pip install "ckptdbg\[notebook\]"'):
        on_torch.debug()
