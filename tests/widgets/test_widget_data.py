"""What the widgets are given to show, and what is left of them where no widget runs."""

import base64
import math
import re
import threading

import numpy as np
import pytest
from widget_examples import HOSTILE, NAMES, finding, result, site

from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.errors import CkptdbgError
from ckptdbg.mapping import Mapping
from ckptdbg_widgets import (
    ActivationHeatmap,
    DivergenceMap,
    LayerStepper,
    LogitsPanel,
    MappingPanel,
    Stopped,
    Tried,
    TryIt,
    VerdictPanel,
    export,
)
from ckptdbg_widgets.origins import _small
from ckptdbg_widgets.page import page
from ckptdbg_widgets.sites import merged, sites_of, suspect_of

MAPPING = """\
version: 1
variables:
  heads: num_heads
entries:
  - name: embedding
    source: embed.weight
    target: embed/table
  - name: attention.query
    source: layers.{layer}.q.weight
    target: layers_{layer}/query
    ops:
      - rearrange: "(h d) m -> m (h d)"
        h: heads
      - scale: 0.5
  - name: mlp.fused
    source: ["layers.{layer}.gate", "layers.{layer}.up"]
    target: layers_{layer}/fused
    ops:
      - rearrange: "two f m -> (f two) m"
"""


@pytest.fixture
def mapping(tmp_path):
    file = tmp_path / "mapping.yaml"
    file.write_text(MAPPING)
    source = {"embed.weight": TensorSpec((11, 8), "float32")}
    target = {"embed/table": TensorSpec((11, 8), "float32")}
    for layer in range(3):
        source[f"layers.{layer}.q.weight"] = TensorSpec((6, 8), "float32")
        source |= {f"layers.{layer}.{name}": TensorSpec((5, 8), "float32") for name in ("gate", "up")}
        target[f"layers_{layer}/query"] = TensorSpec((8, 6), "float32")
        target[f"layers_{layer}/fused"] = TensorSpec((10, 8), "float32")
    return Mapping.load(file).bind({"num_heads": 3}, source, target)


def test_rows_are_layers_and_what_lies_outside_has_rows_of_its_own():
    data = sites_of(result(layers=3))
    assert [row["name"] for row in data["rows"]] == ["embedding", "0", "1", "2", "head"]
    assert [row["kind"] for row in data["rows"]] == ["outside", "layer", "layer", "layer", "outside"]
    assert [(c["group"], c["leaf"], c["port"]) for c in data["columns"][:3]] == [
        ("attention", "query", "in"),
        ("attention", "query", "out"),
        ("attention", "key", "in"),
    ]
    places = [(s["row"], s["column"]) for s in data["sites"]]
    assert len(set(places)) == len(places)
    assert places[:2] == [(0, 0), (1, 0)]
    assert places[-2:] == [(4, 0), (4, 1)]


def test_layers_of_different_kinds_keep_their_order():
    assert merged(["adf", "abdf", "adef"]) == list("abdef")


def test_what_was_not_measured_and_what_is_not_finite_are_told_apart():
    sites = [
        site("a", "0", "out", 0, 1.5, None),
        site("b", "0", "out", 1, None, None),
        site("c", "0", "out", 2, math.inf, math.nan),
        site("d", "0", "out", 3, None, 2.0, nonfinite="NaN on one side only"),
    ]
    shown = sites_of(result(sites=sites, bad=None))["sites"]
    assert [s["free"]["ratio"] for s in shown] == [1.5, None, "nonfinite", "nonfinite"]
    assert [s["alone"] and s["alone"]["ratio"] for s in shown] == [None, None, "nonfinite", 2.0]


def experts(count):
    parts = [(f"moe/wo[{i}]", port) for i in range(count) for port in ("in", "out")]
    sites = [site("moe.down", "0", port, order, 1.5, 1.5, site=name) for order, (name, port) in enumerate(parts)]
    return result(bad=None, sites=[*sites, site("moe.next", "0", "in", 2 * count, 1.5, 1.5)])


def test_experts_of_a_layer_share_a_cell_and_are_told_apart():
    data = sites_of(experts(3))
    assert {(s["row"], s["column"]) for s in data["sites"][:6:2]} == {(0, 0)}
    assert [(s["group"], s["leaf"]) for s in data["sites"][:6:2]] == [("moe.down", f"[{i}]") for i in range(3)]
    assert [(c["group"], c["leaf"]) for c in data["columns"]] == [("moe", "down"), ("moe", "down"), ("moe", "next")]


def test_the_first_divergence_is_found_by_what_it_is():
    """Its order counts anchors' sites only, so that it is another site's where blocks come before it."""
    given = result()
    wrong = given.first_divergence.model_copy(update={"order": 3})
    data = sites_of(given.model_copy(update={"first_divergence": wrong}))
    assert data["sites"][data["first"]]["name"] == "attention.key"
    assert data["sites"][data["first"]]["layer"] == "1"


def test_a_site_that_a_finding_is_about_leads_to_the_suspect():
    given = result()
    by = {(s.entry, s.layer, s.port): suspect_of(given, s) for s in given.sites}
    assert by["attention.key", "1", "out"] == "attention.query", "the finding blames the query for it"
    assert by["attention.key", "2", "out"] == "attention.key", "another layer is none of its business"
    assert by["attention.key", "1", "in"] == "attention.key"


def test_maps_and_steppers_start_at_the_first_divergence_and_follow_another_result():
    divergences, stepper = DivergenceMap(result()), LayerStepper(result())
    first = sites_of(result())["first"]
    assert divergences.selected == {"site": "decoder/layers_1/attention.key", "port": "out", "order": first}
    assert stepper.position == first
    assert stepper.site.entry == "attention.key"
    stepper.position = 10**6
    assert stepper.position == len(result().sites) - 1
    for widget in (divergences, stepper):
        widget.show(result(bad=None))
    assert divergences.selected is None
    assert stepper.position == 0


@pytest.mark.parametrize("make", [DivergenceMap, LayerStepper, VerdictPanel], ids=lambda make: make.__name__)
def test_a_widget_leaves_text_where_it_cannot_run(make):
    view, still = make(result()).outputs()
    assert "application/vnd.jupyter.widget-view+json" in view
    assert view["text/plain"] == make.__name__
    assert still.keys() == {"text/html", "text/plain"}
    assert "attention.key" in still["text/plain"]
    assert "attention.key" in still["text/html"]


def test_a_map_and_a_heatmap_leave_a_picture(tmp_path):
    for widget in (DivergenceMap(result()), ActivationHeatmap(np.eye(4, 6), np.eye(4, 6))):
        _, still = widget.outputs()
        (picture,) = re.findall(r'src="data:image/png;base64,([^"]+)"', still["text/html"])
        assert base64.b64decode(picture).startswith(b"\x89PNG")
        assert widget.to_png(tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(CkptdbgError, match="nothing that can be drawn"):
        VerdictPanel(result()).to_png(tmp_path / "no.png")


def test_the_widget_is_displayed_before_its_still_is_drawn(monkeypatch):
    done = []
    monkeypatch.setattr("ckptdbg_widgets.shown.display", lambda bundle, raw: done.append(sorted(bundle)[0]))
    monkeypatch.setattr(DivergenceMap, "png", lambda self: done.append("drawn"))
    DivergenceMap(result())._ipython_display_()
    assert done == ["application/vnd.jupyter.widget-view+json", "drawn", "text/html"]


@pytest.mark.parametrize("make", [DivergenceMap, VerdictPanel], ids=lambda make: make.__name__)
def test_no_name_becomes_markup_in_a_still(make):
    _, still = make(result(names=(HOSTILE,), bad=(1, HOSTILE))).outputs()
    assert HOSTILE in still["text/plain"]
    assert HOSTILE not in still["text/html"]


def test_the_values_are_sent_once_in_float32_and_a_small_difference_keeps_its_digits():
    rng = np.random.default_rng(0)
    source = rng.standard_normal((3, 5))
    target = source + 1e-12
    widget = ActivationHeatmap(source, target, noise=1e-13, title="x")
    np.testing.assert_array_equal(np.frombuffer(widget.source, "<f4").reshape(3, 5), source.astype(np.float32))
    np.testing.assert_allclose(np.frombuffer(widget.difference, "<f4"), 1e-12, rtol=1e-3)
    assert ActivationHeatmap(source.astype(np.float32), target.astype(np.float32)).difference == b""
    assert "10 x noise" in widget.plain()


def test_matrices_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"two matrices of one shape, found \(3, 4\) and \(4, 3\)"):
        ActivationHeatmap(np.zeros((3, 4)), np.zeros((4, 3)))
    with pytest.raises(ValueError, match="4 features cannot be divided into 3 heads"):
        ActivationHeatmap(np.zeros((3, 4)), np.zeros((3, 4)), heads=3)


def picture(origin, side):
    raw = np.frombuffer(base64.b64decode(origin[side]), np.uint8)
    return raw.reshape(origin["rows"], origin["columns"]).astype(int)


def test_the_pictures_of_an_entry_show_what_its_ops_do(mapping):
    panel = MappingPanel(result(), mapping)
    by_name = {entry["name"]: entry for entry in panel.data["entries"]}
    before, after, scaled = by_name["attention.query"]["steps"]
    assert (np.diff(picture(before["picture"], "by_row"), axis=0) > 0).all(), "rows grow downwards"
    assert (np.diff(picture(after["picture"], "by_row"), axis=1) > 0).all(), "transposed: to the right"
    assert scaled["picture"] is None
    assert scaled["still"], "a scale moves nothing"
    fused = by_name["mlp.fused"]["steps"][-1]["picture"]
    rows = picture(fused, "by_row")[:, 0]
    assert (rows[::2] < 128).all(), "the first source on every other row"
    assert (rows[1::2] >= 128).all()


@pytest.mark.parametrize("size", [64, 4096])
def test_interleaved_pairs_stay_a_comb_in_a_small_picture(size):
    places = np.repeat(np.linspace(0, 1, size, dtype=np.float32)[:, None], 60, axis=1)
    combed = places.reshape(2, size // 2, 60).swapaxes(0, 1).reshape(size, 60)
    steps = [np.abs(np.diff(_small(matrix)[:, 0].astype(int))) for matrix in (places, combed)]
    assert np.median(steps[0]) < 10
    assert np.median(steps[1]) > 100, "from half to half"


def test_what_a_repair_does_is_shown_beside_what_is(mapping, tmp_path):
    given = Mapping.loads(MAPPING, file=str(tmp_path / "mapping.yaml"))
    other = given.with_ops("attention.query", [{"rearrange": "(h two d) m -> m (h d two)", "h": 3, "two": 2}])
    specs = [{}, {}]
    for entry in mapping.entries:
        specs[0] |= dict(zip(entry.sources, entry.source_specs, strict=True))
        specs[1] |= dict(zip(entry.targets, entry.target_specs, strict=True))
    mended = other.bind({"num_heads": 3}, *specs)
    entries = {entry["name"]: entry for entry in MappingPanel(result(), mapping, mended).data["entries"]}
    before, after = (entries["attention.query"][name][1]["picture"] for name in ("steps", "mended"))
    assert picture(before, "by_row").shape == picture(after, "by_row").shape
    assert entries["embedding"]["mended"] is None, "the same both ways is shown once"


def test_an_entry_is_shown_where_it_is_used_and_suspects_come_first(mapping):
    panel = MappingPanel(result(bad=(1, "attention.key")), mapping)
    assert panel.entry == "attention.query"
    assert [entry["name"] for entry in panel.data["entries"]] == ["attention.query", "embedding", "mlp.fused"]
    query = panel.data["entries"][0]
    assert (query["where"], query["layer"], query["count"]) == ("0 to 2", "1", 3)
    assert query["sources"] == ["layers.1.q.weight  6 × 8"]
    assert query["findings"][0]["repair"]["lines"][0][0] in "-+ "
    panel.select("embedding")
    assert "embed.weight" in panel.plain()


def test_logits_are_compared_token_by_token():
    rng = np.random.default_rng(0)
    source = rng.standard_normal((2, 3, 17)).astype(np.float32)
    target = source.copy()
    target[1, 2] = np.roll(source[1, 2], 1)
    target[0, 1, 4] = np.nan
    panel = LogitsPanel(None, source, target, ids=np.arange(6).reshape(2, 3), decode=lambda token: f"<{token}>")
    data = panel.data
    p, q = (np.exp(x[1, 2]) / np.exp(x[1, 2]).sum() for x in (source.astype(float), target.astype(float)))
    assert data["kl"][5] == pytest.approx(float((p * np.log(p / q)).sum()))
    assert data["kl"][0] == pytest.approx(0, abs=1e-12)
    assert data["kl"][1] is None
    assert panel.position == 1, "what is not finite is worst"
    assert data["tables"]["5"]["source"][0] == (f"<{source[1, 2].argmax()}>", pytest.approx(float(p.max())))
    assert data["text"] == [f"<{i}>" for i in range(6)]


def press(panel, **message):
    panel._heard(panel, message, [])
    panel.wait(10)


def test_a_repair_is_tried_applied_and_taken_back():
    called = []
    panel = TryIt(result(), ["head"])
    press(panel, verb="try", what=1)
    assert called == [], "nothing is called before it is given"
    panel.on_try(lambda what, ops, at: called.append((what, ops, at)) or Tried(2.5e5, 0.7, True, ("fine",)))
    panel.on_apply(lambda: called.append("apply"))
    panel.on_undo(lambda: called.append("undo"))
    panel.on_write(lambda path: called.append(path) or path)
    assert panel.data["entries"] == ["attention.query", "head"]
    press(panel, verb="try", what=1)
    assert panel.tried == {"what": "finding 1", "before": "2.5e+05", "after": "0.7", "mended": True, "lines": ["fine"]}
    press(panel, verb="apply")
    assert (panel.applied, panel.tried) == (1, None)
    press(panel, verb="write", path="fixed.yaml")
    assert panel.message == {"kind": "done", "text": "wrote fixed.yaml"}
    press(panel, verb="undo")
    press(panel, verb="try", what="head", ops="{scale: 2}", at="last")
    assert called == [(1, "", "all"), "apply", "fixed.yaml", "undo", ("head", "{scale: 2}", "last")]
    assert (panel.applied, panel.busy, panel.progress) == (0, False, {})


def test_what_goes_wrong_is_shown_and_the_panel_stays_usable():
    panel = TryIt(result())

    def fail(what, ops, at):
        raise CkptdbgError("the ops do not parse", hint="write {scale: 2}")

    panel.on_try(fail)
    press(panel, verb="try", what="x", ops="?")
    assert panel.message["kind"] == "failed"
    assert "the ops do not parse" in panel.message["text"]
    assert not panel.busy


def test_stop_ends_the_work_at_its_next_step():
    panel = TryIt(result())
    started = threading.Event()
    seen = []

    def long(what, ops, at):
        for step in range(1000):
            panel.step(f"step {step}", step / 1000)
            seen.append((panel.busy, dict(panel.progress)))
            started.set()
            threading.Event().wait(0.01)
        return Tried(1.0, 1.0, True)

    panel.on_try(long)
    panel._heard(panel, {"verb": "try", "what": 1}, [])
    assert started.wait(10)
    panel.interrupt = True
    panel.wait(10)
    assert seen[0] == (True, {"text": "step 0", "share": 0.0})
    assert len(seen) < 1000
    assert panel.message["kind"] == "stopped"
    assert not panel.busy
    panel.interrupt = True
    with pytest.raises(Stopped):
        panel.step("more")


def test_a_page_says_each_thing_once_and_no_name_ends_its_script():
    given = result(names=(HOSTILE, *NAMES), bad=(1, HOSTILE))
    text = page("x", [DivergenceMap(given), LayerStepper(given)])
    assert text.count("decoder/layers_1/attention.key") < 5, "the sites of both widgets are one value"
    assert text.count("</script>") == 2
    assert HOSTILE not in text


def test_every_verdict_can_be_exported(tmp_path, mapping):
    for verdict in ("divergent", "definition-differs", "cannot-tell", "precision-floor", "equivalent"):
        given = result(verdict=verdict) if verdict == "divergent" else result(verdict=verdict, bad=None)
        text = export(given, tmp_path / "page.html", mapping=mapping).read_text("utf-8")
        assert "ckptdbg-data" in text
    empty = result(bad=None, sites=[], findings=[finding(site("a", None, "out", 0, 1.0, 1.0))])
    assert export(empty, tmp_path / "empty.html").exists()
