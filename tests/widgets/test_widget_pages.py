"""The widgets in a real browser, on pages from disk: keys, pointer, what is drawn, and nothing fetched."""

import base64
import io

import numpy as np
import pytest
from PIL import Image
from widget_examples import HOSTILE, NAMES, finding, result, site

from ckptdbg.report.entries import EntryView, Step
from ckptdbg.result import Logits, Result
from ckptdbg_widgets import (
    ActivationHeatmap,
    DivergenceMap,
    LayerStepper,
    LogitsPanel,
    MappingPanel,
    TryIt,
    VerdictPanel,
    export,
)
from ckptdbg_widgets.page import page
from ckptdbg_widgets.sites import sites_of

YELLOW = (253, 231, 37)
"""The upper end of the ratio scale."""
MAP, STEPPER, HEAT = ".ck-map .ck-stage", ".ck-stepper .ck-frame", ".ck-heat .ck-three"


def trait(shown, index, name):
    return shown.evaluate(f"window.shown[{index}][1].get('{name}')")


def text(shown, selector):
    return " ".join(shown.locator(selector).first.inner_text().split())


def walk(shown, *keys):
    for key in keys:
        shown.keyboard.press(key)


def index_of(given, layer, entry, port):
    return next(
        i for i, s in enumerate(sites_of(given)["sites"]) if (s["layer"], s["entry"], s["port"]) == (layer, entry, port)
    )


# The map.


def test_the_map_is_walked_by_keys_alone(opened):
    shown = opened(page("x", [DivergenceMap(result())]))
    shown.keyboard.press("Tab")
    assert "first divergence" in text(shown, ".ck-map .ck-readout")
    assert "e5 × noise !, by itself 2.50e5 !" in text(shown, ".ck-map .ck-readout"), "the sign comes after the unit"
    assert "layer 1 · attention.key out" in text(shown, ".ck-map .ck-readout")
    walk(shown, "ArrowRight", "ArrowRight", "ArrowDown", "Enter")
    assert trait(shown, 0, "selected")["site"] == "decoder/layers_2/attention.value"
    assert "layer 2, attention.value out" in text(shown, ".ck-map [role=status]")
    walk(shown, "f")
    assert "layer 1 · attention.key out" in text(shown, ".ck-map .ck-readout")
    walk(shown, "ArrowUp", "ArrowUp")
    assert "outside the layers · embedding out" in text(shown, ".ck-map .ck-readout")
    walk(shown, "n")
    assert "attention.key out" in text(shown, ".ck-map .ck-readout"), "the next divergence"
    walk(shown, "n")
    assert "no further divergence" in text(shown, ".ck-map [role=status]")


def test_without_isolated_runs_every_divergent_place_is_a_stop(opened):
    shown = opened(page("x", [DivergenceMap(result(alone=False))]))
    shown.locator(MAP).focus()
    walk(shown, "n", "n", "p")
    assert "layer 1 · attention.value in" in text(shown, ".ck-map .ck-readout")


def test_the_pointer_reads_and_a_click_selects(opened):
    shown = opened(page("x", [DivergenceMap(result())]))
    before = trait(shown, 0, "selected")
    place = {"x": 110, "y": shown.locator(MAP).bounding_box()["height"] - 75}
    shown.locator(MAP).hover(position=place)
    read = text(shown, ".ck-map .ck-readout")
    assert "attention.key out" not in read
    assert read.split(" ×")[0] in text(shown, ".ck-map .ck-tip").replace(" × noise", ""), "told at the pointer as well"
    assert trait(shown, 0, "selected") == before, "hovering selects nothing"
    shown.locator(MAP).click(position=place)
    selected = trait(shown, 0, "selected")
    assert selected["site"].split("/")[-1] in read, "what was read is what is selected"
    assert selected["port"] in read
    shown.mouse.move(0, 0)
    assert shown.locator(".ck-map .ck-tip").is_hidden()


def test_a_place_selected_in_python_is_shown(opened):
    given = result()
    widget = DivergenceMap(given)
    shown = opened(page("x", [widget]))
    last = {"site": "head", "port": "out", "order": given.sites[-1].order}
    shown.evaluate("(key) => window.shown[0][1].set('selected', key)", last)
    assert "head out" in text(shown, ".ck-map .ck-readout")


@pytest.mark.parametrize(("layers", "entries", "width"), [(2, 3, 1280), (80, 20, 1280), (32, 7, 520)])
def test_a_map_of_any_size_fits_its_page(opened, layers, entries, width):
    names = tuple(f"group{i % 3}.a_rather_long_name_{i}" for i in range(entries))
    names = tuple(sorted(names))
    shown = opened(page("x", [DivergenceMap(result(layers, names, bad=(1, names[1])))]), width=width)
    box = shown.evaluate("""() => {
      const canvas = document.querySelector(".ck-map canvas");
      return [canvas.clientWidth, canvas.parentElement.clientWidth, canvas.clientHeight, document.body.scrollWidth];
    }""")
    assert box[0] <= box[1]
    assert box[3] <= width, "no sideways scrolling"
    assert box[2] < 1400 if width > 600 else 2000


def pixels(shown, selector):
    """RGB of a canvas, ``[height, width, 3]``."""
    png = shown.evaluate("(selector) => document.querySelector(selector).toDataURL()", selector)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png.split(",")[1]))), int)[..., :3]


def near(image, colour):
    return (np.abs(image - np.array(colour)) <= 8).all(-1)


def test_what_is_not_finite_and_what_was_not_compared_differ_by_more_than_colour(opened):
    """One cell of each kind: a sign on the one, no fill on the other."""

    def inside(nonfinite, ratio):
        sites = [site("a", "0", "out", 0, 1.5, None), site("b", "0", "out", 1, ratio, None, nonfinite=nonfinite)]
        shown = opened(page("x", [DivergenceMap(result(bad=None, sites=sites))]))
        return pixels(shown, ".ck-map canvas")

    filled = near(inside(None, 1.0), (68, 1, 84)).sum()
    crossed, empty = inside("NaN", None), inside(None, None)
    ink, paper = near(crossed, (29, 32, 38)), near(crossed, (255, 255, 255))
    assert ink.sum() > 0.5 * filled / 2, "a cell in the colour of ink"
    rows, columns = np.nonzero(ink)
    cell = paper[rows.min() + 2 : rows.max() - 2, columns.min() : columns.max()]
    assert cell.any(), "with a sign on it"
    assert near(empty, (68, 1, 84)).sum() < 0.6 * filled


# The stepper.


def test_the_stepper_is_driven_like_a_debugger(opened):
    given = result()
    shown = opened(page("x", [LayerStepper(given)]))
    shown.locator(STEPPER).focus()
    assert "layer 1" in text(shown, ".ck-stepper .ck-head")
    assert "first divergence" in text(shown, ".ck-stepper .ck-head")
    walk(shown, "ArrowDown")
    assert trait(shown, 0, "position") == index_of(given, "1", "attention.value", "in")
    walk(shown, "PageDown", "PageDown", "PageDown")
    assert "head" in text(shown, ".ck-stepper .ck-head")
    walk(shown, "PageDown")
    assert "the last layer" in text(shown, ".ck-stepper [role=status]")
    walk(shown, "f", "Enter")
    assert trait(shown, 0, "selected")["site"] == "decoder/layers_1/attention.key"


def test_a_group_folds_and_opens_again_when_stepped_into(opened):
    shown = opened(page("x", [LayerStepper(result())]))
    shown.locator(STEPPER).focus()
    rows = shown.locator(".ck-stepper tr.ck-source")
    assert rows.count() == 2 * len(NAMES)
    walk(shown, "ArrowLeft")
    assert rows.count() == 2 * 3, "the attention sites are folded away"
    fold = shown.locator(".ck-fold").first
    assert fold.get_attribute("aria-expanded") == "false"
    walk(shown, "ArrowRight")
    assert rows.count() == 2 * len(NAMES)


def test_many_experts_are_shut_and_stepped_over(opened):
    parts = [(f"moe/wo[{i}]", port) for i in range(20) for port in ("in", "out")]
    sites = [site("moe.down", "0", port, order, 1.5, 1.5, site=name) for order, (name, port) in enumerate(parts)]
    sites.append(site("moe.next", "0", "in", 40, 1.5, 1.5))
    shown = opened(page("x", [LayerStepper(result(bad=None, sites=sites))]))
    shown.locator(STEPPER).focus()
    rows = shown.locator(".ck-stepper tr.ck-source")
    assert rows.count() == 1, "only what is not in the large group"
    walk(shown, "ArrowDown")
    assert trait(shown, 0, "position") == 40
    walk(shown, "ArrowUp", "ArrowRight")
    assert rows.count() == 41
    walk(shown, "ArrowUp")
    assert trait(shown, 0, "position") == 38, "opened, it is stepped through"


def test_both_sides_stand_above_each_other(opened):
    shown = opened(page("x", [LayerStepper(result())]))
    line = text(shown, ".ck-stepper tr.is-here")
    assert "0.01 1.2 -4 4.5" in line
    assert "0.02 1.2 -4 5" in text(shown, ".ck-stepper tr.is-here + tr.ck-target")
    assert "!" in line, "beyond divergent, told without colour"


# The heatmap.


def planted(values, kind):
    """Another copy with 200 bad cells; those of one row are at least 12 columns apart."""
    rng = np.random.default_rng(1)
    rows, bins = np.unravel_index(rng.choice(128 * 256, 200, replace=False), (128, 256))
    columns = bins * 16 + rng.integers(0, 5, 200)
    bad = values + 1e-6
    bad[rows, columns] = np.nan if kind == "nan" else values[rows, columns] + 1.0
    return bad, rows, columns


@pytest.mark.parametrize("kind", ["nan", "large"])
def test_every_one_of_200_bad_cells_in_128_by_4096_is_visible(opened, kind):
    values = np.random.default_rng(0).standard_normal((128, 4096)).astype(np.float32)
    bad, rows, columns = planted(values, kind)
    shown = opened(page("x", [ActivationHeatmap(values, bad, noise=1e-6)]))
    image = pixels(shown, ".ck-heat figure:nth-child(3) canvas")
    marked = near(image, (255, 59, 48) if kind == "nan" else YELLOW)
    height, width = marked.shape
    at = ((rows + 0.5) / 128 * height).astype(int), columns * width // 4096
    assert len(set(zip(*at, strict=True))) == marked[at].sum() == 200
    assert marked.sum() <= 200 * np.ceil(height / 128), "and nothing else is marked"
    # The same picture by every n-th cell loses most of them: the check can fail.
    sampled = np.zeros((128, 4096), bool)
    sampled[rows, columns] = True
    assert sampled[:, (np.arange(width) * 4096) // width].sum() < 60


def test_hover_reads_the_exact_values_of_the_worst_cell_below(opened):
    values = np.zeros((16, 4096), np.float32)
    other = values.copy()
    other[3, 2000] = 0.125
    shown = opened(page("x", [ActivationHeatmap(values, other, noise=0.001)]))
    stage = shown.locator(".ck-heat .ck-stage").nth(0)
    box = stage.bounding_box()
    place = {"x": 2000.5 / 4096 * box["width"], "y": 3.5 / 16 * box["height"]}
    shown.locator(".ck-heat .ck-stage").nth(2).hover(position=place)
    read = text(shown, ".ck-heat .ck-readout")
    assert "token 3, feature 2000" in read
    assert "target 0.125 difference 0.125 (125 × noise)" in read


def test_the_heatmap_is_walked_zoomed_and_selected_by_keys(opened):
    values = np.random.default_rng(0).standard_normal((32, 256))
    other = values.copy()
    other[7, 200], other[20, 5], other[1, 1] = np.inf, values[20, 5] + 2, values[1, 1] + 1
    shown = opened(page("x", [ActivationHeatmap(values, other)]))
    shown.locator(HEAT).focus()
    walk(shown, "w")
    assert "token 7, feature 200" in text(shown, ".ck-heat .ck-readout")
    assert "+inf" in text(shown, ".ck-heat .ck-readout")
    walk(shown, "n", "Enter")
    assert trait(shown, 0, "selected") == {"row": 20, "column": 5}
    walk(shown, "+", "+", "+", "+", "+", "+")
    walk(shown, "ArrowRight", "ArrowDown")
    assert "token 21, feature 6" in text(shown, ".ck-heat .ck-readout")
    walk(shown, "0", "n")
    assert "token 1, feature 1" in text(shown, ".ck-heat .ck-readout")
    assert "1 in target" in text(shown, ".ck-heat .ck-scale:has(.divergent)")


def test_the_wheel_zooms_only_what_has_the_focus_and_dragging_moves_it(opened):
    values = np.arange(64 * 512, dtype=np.float32).reshape(64, 512)
    shown = opened(page("x", [ActivationHeatmap(values, values)]))
    stage = shown.locator(".ck-heat .ck-stage").first
    box = stage.bounding_box()
    left, middle = (box["x"] + 3, box["y"] + 3), (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)

    def corner():
        shown.mouse.move(*left)
        return text(shown, ".ck-heat .ck-readout").split(" source")[0]

    whole = corner()
    shown.mouse.move(*middle)
    shown.mouse.wheel(0, -300)
    shown.wait_for_timeout(50)
    assert corner() == whole, "a page that scrolls is left alone"
    shown.locator(HEAT).focus()
    shown.mouse.move(*middle)
    for _ in range(6):
        shown.mouse.wheel(0, -100)
        shown.wait_for_timeout(20)
    zoomed = corner()
    assert zoomed != whole
    shown.mouse.move(*middle)
    shown.mouse.down()
    shown.mouse.move(middle[0] + 60, middle[1], steps=4)
    shown.mouse.up()
    moved = corner()
    assert int(moved.split("feature ")[1]) < int(zoomed.split("feature ")[1])
    assert not trait(shown, 0, "selected"), "a drag selects nothing"
    walk(shown, "0")
    assert corner() == whole


def test_values_may_come_as_an_array_buffer(opened):
    """As some notebooks hand binary traits over; and at an odd offset, as a view into a larger message."""
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    shown = opened(page("x", [ActivationHeatmap(values, values)]))
    read = shown.evaluate("""() => {
      const [, model] = window.shown[0];
      const bytes = new Uint8Array(model.get("source").buffer);
      const odd = new Uint8Array(bytes.length + 1);
      odd.set(bytes, 1);
      return [bytes.buffer, new DataView(odd.buffer, 1)].map((source) => {
        model.set("source", source);
        const el = document.createElement("div");
        document.body.append(el);
        window.widgets.activation_heatmap.render({ model, el });
        return el.querySelector(".ck-readout").textContent;
      });
    }""")
    shown.locator(HEAT).first.focus()
    walk(shown, "ArrowDown", "ArrowRight")
    assert "source 5" in text(shown, ".ck-heat .ck-readout")
    assert len(read) == 2
    for index in (1, 2):
        shown.locator(HEAT).nth(index).focus()
        walk(shown, "ArrowDown", "ArrowRight")
        assert "source 5" in shown.locator(".ck-heat .ck-readout").nth(index).inner_text()


def test_heads_by_tokens_shows_which_head_is_wrong(opened):
    values = np.random.default_rng(0).standard_normal((8, 24)).astype(np.float32)
    other = values.copy()
    other[:, 6:12] += 1
    shown = opened(page("x", [ActivationHeatmap(values, other, heads=4)]))
    shown.get_by_role("button", name="heads × tokens").click()
    shown.locator(HEAT).focus()
    walk(shown, "w")
    assert text(shown, ".ck-heat .ck-readout").startswith("head 1, token")
    assert "rms difference 1" in text(shown, ".ck-heat .ck-readout")


def test_other_values_are_shown_even_where_nothing_else_changes(opened):
    """A repair changes the values of a place, not its name."""
    shown = opened(page("x", [ActivationHeatmap(np.zeros((4, 4), np.float32), np.zeros((4, 4), np.float32))]))
    shown.evaluate("window.shown[0][1].set('target', new Float32Array(16).fill(2).buffer)")
    assert "difference 2" in text(shown, ".ck-heat .ck-readout")


@pytest.mark.parametrize("widget", ["map", "heat"])
def test_a_picture_can_be_saved(opened, widget):
    panels = {"map": DivergenceMap(result()), "heat": ActivationHeatmap(np.eye(40), np.eye(40), title="layer 1/q")}
    shown = opened(page("x", [panels[widget]]))
    with shown.expect_download() as download:
        shown.get_by_role("button", name="PNG").click()
    assert download.value.suggested_filename == {"map": "divergence-map.png", "heat": "layer-1-q.png"}[widget]
    assert np.asarray(Image.open(download.value.path())).std() > 1, "something is on it"


# The other panels.


def test_no_name_becomes_markup(opened):
    given = result(names=(HOSTILE, *NAMES), bad=(1, HOSTILE), logits=None)
    wrong = finding({"layer": "1", "site": HOSTILE, "port": "out", "ratio": 1e5})
    wrong |= {"explanation": HOSTILE, "evidence": [HOSTILE], "entries": [{"name": HOSTILE, "file": HOSTILE, "line": 1}]}
    wrong["repair"] |= {"entry": HOSTILE, "change": HOSTILE, "ops_after": [{"rearrange": HOSTILE}]}
    given = result(
        names=(HOSTILE, *NAMES),
        bad=(1, HOSTILE),
        findings=[wrong],
        not_compared=[{"name": HOSTILE, "side": "target", "reason": HOSTILE}],
    )
    view = EntryView(HOSTILE, HOSTILE, 1, (HOSTILE,), (Step(HOSTILE, (2, 3)),))
    logits = np.random.default_rng(0).standard_normal((1, 3, 9))
    panels = [
        VerdictPanel(given),
        DivergenceMap(given),
        LayerStepper(given),
        MappingPanel(given, [view]),
        ActivationHeatmap(np.eye(3), np.eye(3), title=HOSTILE, row_labels=(HOSTILE,) * 3),
        LogitsPanel(None, logits, logits, ids=np.arange(3)[None], decode=lambda _: HOSTILE),
        TryIt(given, [HOSTILE]),
    ]
    shown = opened(page(HOSTILE, panels, script="shared/linked"))
    for selector in (MAP, STEPPER):
        shown.locator(selector).focus()
        walk(shown, "ArrowDown", "ArrowUp", "n", "p")
    assert shown.locator("img").count() == 0
    assert shown.title() == HOSTILE, "the handler did not run"
    assert shown.get_by_text("onerror").count() > 5, "and the names are shown"


def test_choosing_a_place_moves_the_other_panels(opened, tmp_path):
    given = result()
    names = [EntryView(name, "m.yaml", 1, ("line",), (Step("x", (1,)),)) for name in NAMES]
    shown = opened(export(given, tmp_path / "x.html", mapping=names).read_text("utf-8"))
    shown.locator(MAP).focus()
    walk(shown, "ArrowDown", "Enter")
    assert "layer 2" in text(shown, ".ck-stepper .ck-head")
    assert text(shown, ".ck-mapping h3") == "attention.key"
    shown.locator(STEPPER).focus()
    walk(shown, "f")
    assert "layer 1 · attention.key out" in text(shown, ".ck-map .ck-readout")
    assert text(shown, ".ck-mapping h3") == "attention.query", "what the finding blames"
    for _ in range(2):
        shown.locator(STEPPER).focus()
        walk(shown, "PageDown")
        assert "layer 2" in text(shown, ".ck-map .ck-readout")
        shown.locator(".ck-verdict button").click()
        assert "layer 1 · attention.key out" in text(shown, ".ck-map .ck-readout"), "again after going elsewhere"


def test_the_exported_page_opens_at_the_suspect_of_the_first_divergence(opened, tmp_path):
    """Not at the entry of whichever finding is named first."""
    given = result()
    later = next(s for s in given.sites if (s.layer, s.entry, s.port) == ("2", "mlp.gate", "out")).model_dump()
    other = finding(later, entries=[{"name": "mlp.gate", "file": "m.yaml", "line": 1}])
    data = given.model_dump()
    given = Result.model_validate(data | {"findings": [other, *data["findings"]]})
    names = [EntryView(name, "m.yaml", 1, ("line",), (Step("x", (1,)),)) for name in NAMES]
    shown = opened(export(given, tmp_path / "x.html", mapping=names).read_text("utf-8"))
    assert text(shown, ".ck-mapping h3") == "attention.query"
    shown.locator(".ck-verdict button").first.click()
    assert text(shown, ".ck-mapping h3") == "mlp.gate"


def test_the_logits_are_walked_token_by_token(opened):
    rng = np.random.default_rng(0)
    source = rng.standard_normal((2, 5, 11))
    target = source.copy()
    target[1, 2] = -source[1, 2]
    figures = {"kl_mean_nats": 0.1, "kl_max_nats": 1, "kl_torchtitan": 0.01, "top1_agreement": 0.9, "topk_overlap": 1}
    greedy = {"source": [[1, 2, 3]], "target": [[1, 5, 3]], "agree": False, "first_difference": 1}
    logits = Logits.model_validate(figures | {"max_abs": 2, "greedy": greedy, "tips": ["look at RoPE"]})
    shown = opened(page("x", [LogitsPanel(logits, source, target)]))
    assert "sequence 1, token 2" in text(shown, ".ck-logits .ck-readout")
    assert "another first choice" in text(shown, ".ck-logits .ck-readout")
    shown.locator(".ck-logits .ck-stage").focus()
    walk(shown, "ArrowUp", "ArrowRight")
    assert "sequence 0, token 3" in text(shown, ".ck-logits .ck-readout")
    assert shown.locator(".ck-logits .is-moved").count() == 0
    walk(shown, "n")
    assert shown.locator(".ck-logits .is-moved").count() > 0
    assert "parts at new token 1" in text(shown, ".ck-logits .ck-greedy")
    assert shown.locator(".ck-logits mark").count() == 2


def test_trying_sends_what_was_asked_and_shows_what_came(opened):
    panel = TryIt(result(), ["head"])
    panel.can = ["try", "apply", "undo", "write"]
    shown = opened(page("x", [panel]))
    shown.get_by_role("button", name="try").first.click()
    shown.get_by_label("Entry to change").select_option("head")
    shown.get_by_label("Where the ops go").select_option("last")
    shown.get_by_label("Ops, as in").fill("{scale: 2}")
    shown.keyboard.press("Enter")
    sent = shown.evaluate("window.shown[0][1].sent")
    own = {"verb": "try", "what": "head", "ops": "{scale: 2}", "at": "last"}
    assert sent == [{"verb": "try", "what": 1}, own]
    assert shown.get_by_role("button", name="apply").is_disabled(), "nothing was tried yet"
    change = "([name, value]) => window.shown[0][1].set(name, value)"
    shown.evaluate(change, ["busy", True])
    shown.evaluate(change, ["progress", {"text": "running", "share": 0.5}])
    assert "running" in text(shown, ".ck-status")
    shown.get_by_role("button", name="stop").click()
    assert trait(shown, 0, "interrupt") is True
    tried = {"what": "head", "before": "2e5", "after": "0.7", "mended": True, "lines": ["all at noise"]}
    shown.evaluate(change, ["busy", False])
    shown.evaluate(change, ["tried", tried])
    assert "ratio at the output 2e5 becomes 0.7" in text(shown, ".ck-outcome")
    shown.get_by_role("button", name="apply").click()
    assert shown.evaluate("window.shown[0][1].sent.at(-1)") == {"verb": "apply"}


# All of them.


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_both_themes(opened, scheme):
    shown = opened(page("x", [DivergenceMap(result()), LayerStepper(result())]), color_scheme=scheme)
    lowest = shown.evaluate("""() => {
      const channels = (css) => css.match(/[\\d.]+/g).map(Number);
      const light = ([r, g, b]) => {
        const linear = (v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
      };
      const ground = (node) => {
        for (; node; node = node.parentElement) {
          const found = channels(getComputedStyle(node).backgroundColor);
          if (found.length === 3 || found[3] === 1) return found;
        }
        return [255, 255, 255];
      };
      const own = (node) => [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
      const ratios = [...document.querySelectorAll(".ckptdbg *")].filter(own).map((node) => {
        const [a, b] = [light(channels(getComputedStyle(node).color)), light(ground(node))].sort((x, y) => y - x);
        return (a + 0.05) / (b + 0.05);
      });
      return Math.min(...ratios);
    }""")
    assert lowest > 4.5, "the contrast that WCAG AA asks for"


def test_nothing_to_show_is_said_and_keys_do_no_harm(opened):
    empty = result(bad=None, sites=[])
    flat = result(bad=None, sites=[site("a", None, "out", 0, 1.5, 1.5), site("b", None, "in", 1, 1.5, 1.5)])
    shown = opened(page("x", [*(make(given) for make in (DivergenceMap, LayerStepper) for given in (empty, flat))]))
    assert shown.get_by_text("Nothing was compared.").count() == 2
    for selector in (MAP, STEPPER):
        for index in (0, 1):
            shown.locator(selector).nth(index).focus()
            walk(shown, "ArrowDown", "ArrowRight", "Home", "PageDown", "n", "p", "f", "Enter")
    for name in ("Step", "Next layer"):
        shown.get_by_role("button", name=name).first.click()
    assert trait(shown, 1, "selected")["site"] == "b", "without layers every site has a row of its own"


def test_the_notebooks_theme_is_followed_while_it_changes(opened):
    shown = opened(page("x", [DivergenceMap(result())]), color_scheme="light")
    theme = "document.querySelector('.ckptdbg').dataset.theme"
    assert shown.evaluate(theme) == "light"
    before = pixels(shown, ".ck-map canvas")
    shown.evaluate("document.body.setAttribute('data-jp-theme-light', 'false')")
    shown.wait_for_function(f"{theme} === 'dark'")
    after = pixels(shown, ".ck-map canvas")
    assert near(before, (29, 32, 38)).any(), "dark ink on light paper"
    assert near(after, (231, 232, 234)).any(), "and drawn again the other way round"
    shown.evaluate("document.body.setAttribute('data-jp-theme-light', 'true')")
    shown.wait_for_function(f"{theme} === 'light'")


NOTEBOOK = """
.output dl { width: 100%; } .output dt { float: left; width: 20%; } .output dd { float: left; width: 80%; }
.output table { table-layout: fixed; margin-left: auto; border: 3px solid; }
.output tr { background: rgb(250, 0, 0); }
"""
"""What a notebook says of the elements of its outputs."""


def test_a_notebooks_own_style_does_not_reach_into_a_widget(opened):
    shown = opened(page("x", [VerdictPanel(result()), LayerStepper(result())]))
    look = """() => [...document.querySelectorAll(".ckptdbg :is(dl, dt, dd, table, tr, p, ul)")].map((node) => {
      const { float, width, height, tableLayout, margin, backgroundColor } = getComputedStyle(node);
      return [node.tagName, float, width, height, tableLayout, margin, backgroundColor].join(" ");
    })"""
    before = shown.evaluate(look)
    shown.evaluate("document.querySelector('main').classList.add('output')")
    shown.evaluate(
        "(css) => document.head.append(Object.assign(document.createElement('style'), {textContent: css}))", NOTEBOOK
    )
    assert shown.evaluate(look) == before


def test_what_takes_the_focus_keeps_the_notebooks_shortcuts_away(opened):
    logits = np.random.default_rng(0).standard_normal((1, 3, 9))
    given = result()
    panels = [DivergenceMap(given), LayerStepper(given), ActivationHeatmap(np.eye(3), np.eye(3))]
    panels += [LogitsPanel(None, logits, logits), TryIt(given), VerdictPanel(given), MappingPanel(given, [])]
    shown = opened(page("x", panels))
    bare = shown.evaluate("""() => [...document.querySelectorAll("button, input, select, summary, [tabindex]")]
      .filter((node) => node.dataset.lmSuppressShortcuts !== "true").map((node) => node.outerHTML)""")
    assert bare == []
    unnamed = shown.evaluate("""() => [...document.querySelectorAll("input, select, [role=application], [tabindex]")]
      .filter((node) => !node.getAttribute("aria-label")).map((node) => node.outerHTML.slice(0, 80))""")
    assert unnamed == []


def test_a_widget_that_is_closed_stops_listening(opened):
    shown = opened(page("x", [DivergenceMap(result())]))
    left = shown.evaluate("""() => {
      const [, model] = window.shown[0];
      const close = window.widgets.divergence_map.render({ model, el: document.createElement("div") });
      const before = Object.values(model.listeners).flat().length;
      close();
      return [before, Object.values(model.listeners).flat().length];
    }""")
    assert left == [4, 2]
