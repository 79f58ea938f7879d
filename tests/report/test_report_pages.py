"""The page, Markdown and the terminal: what people read. Every name is hostile."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from markdown_it import MarkdownIt
from report_examples import HOSTILE, entry_view, pictures, result, site, sites
from rich.console import Console

from ckptdbg.report import html, markdown
from ckptdbg.report.entries import EntryView, Step
from ckptdbg.report.grid import layers_by_sites
from ckptdbg.report.names import count, number, op, place, span, visible
from ckptdbg.report.pictures import Pictures, ratios, values
from ckptdbg.report.terminal import show
from ckptdbg.report.words import sentence, title
from ckptdbg.result import Result

VERDICTS = ["divergent", "definition-differs", "cannot-tell", "precision-floor", "equivalent"]
VOID = {"meta", "img", "br", "link", "input"}


class Page(HTMLParser):
    """Collects tags and text, and fails on tags that do not nest."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.texts, self.open = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def svg(picture):
    data = base64.b64decode(picture.uri.removeprefix("data:image/svg+xml;base64,"))
    return data.decode(), ElementTree.fromstring(data)


def hostile(node, text=HOSTILE):
    """A copy of ``node`` in which every free text is ``text``."""
    fixed = {"schema", "verdict", "kind", "cause", "effect", "port", "side"}
    if isinstance(node, dict):
        return {key: value if key in fixed else hostile(value, text) for key, value in node.items()}
    if isinstance(node, list):
        return [hostile(value, text) for value in node]
    return text if isinstance(node, str) else node


def hostile_result(text=HOSTILE):
    return Result.model_validate(hostile(result().model_dump(by_alias=True), text))


@pytest.mark.parametrize("verdict", VERDICTS)
def test_the_page_says_the_verdict_first(verdict):
    given = result(verdict)
    page = Page(html.render(given, pictures=pictures(), entries=[entry_view()]))
    body = page.text
    assert sentence(given) in body
    where = body.index(sentence(given))
    assert all(where < body.index(later) for later in ("Layer by layer", "Every site", "Logits"))
    assert ("Findings" in body) == bool(given.findings)


def test_a_finding_shows_its_entry_its_ops_with_shapes_and_its_repair():
    page = Page(html.render(result(), entries=[entry_view()])).text
    for text in (
        "mappings/llama.yaml:14",
        '18 - rearrange: "(h d) m -> m h d"',
        "rearrange (h d) m -> m h d 96 × 6 × 32",
        "Verified repair",
        '- rearrange: "(h d) m -> m h d"',
        "layers 2 to 5",
        "token 0 agrees",
        "Excluded transpose",
    ):
        assert text in page, text


def test_the_page_needs_nothing_from_elsewhere():
    text = html.render(result(), pictures=pictures(), entries=[entry_view()])
    page = Page(text)
    assert not {tag for tag, _ in page.tags} & {"link", "iframe", "object", "embed", "base", "form"}
    for tag, attrs in page.tags:
        for name in ("src", "href", "srcset", "action", "poster"):
            assert attrs.get(name, "data:").startswith("data:"), (tag, attrs)
    assert not re.search(r"https?://|//cdn|@import|url\(", text)
    assert len(page.all("img")) == 3
    assert all(len(image["alt"]) > 30 for image in page.all("img"))


def test_no_name_becomes_markup():
    clean = Page(html.render(result(), pictures=pictures(), entries=[entry_view()]))
    shown = EntryView(HOSTILE, HOSTILE, 3, (HOSTILE, "  x"), (Step(HOSTILE, (1, 2)), Step("x", None)))
    picture = pictures()
    labelled = Pictures(HOSTILE, picture.source, picture.target, picture.difference, (HOSTILE,) * 127, (HOSTILE,) * 192)
    page = Page(html.render(hostile_result(), pictures=labelled, entries=[shown]))
    assert len(page.all("script")) == len(clean.all("script")) == 1
    assert HOSTILE in page.text
    assert not [attrs for _, attrs in page.tags for name in attrs if name.startswith("on")]
    for image in page.all("img"):
        assert "<script" not in base64.b64decode(image["src"].partition(",")[2]).decode()


def test_names_cannot_reorder_or_hide_text():
    page = html.render(hostile_result("safe\u202eevil\x1b[31m\nnext\u200b"), pictures=None)
    assert not set(page) & {"\u202e", "\x1b", "\u200b"}
    assert r"safe\u202eevil\x1b[31m\nnext\u200b" in page


def test_a_page_of_a_result_with_nothing_in_it():
    page = Page(html.render(result("cannot-tell", sites=[], logits=None, not_compared=[], first_divergence=None)))
    assert page.all("img") == []
    assert "0 sites" in page.text


def test_pictures_are_the_same_bytes_twice_whatever_the_users_style(tmp_path):
    before = dict(matplotlib.rcParams)
    first = html.render(result(), pictures=pictures())
    with matplotlib.rc_context({"text.usetex": True, "figure.facecolor": "black", "font.size": 30}):
        assert html.render(result(), pictures=pictures()) == first
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("name", ["$\\frac{", "$x$", "a" * 500, "<b>&"])
def test_a_label_is_only_text(name):
    text, _ = svg(ratios(layers_by_sites(result(sites=[site(name, "0", "out", 0, 1.0, 1.0)])), result().noise))
    assert "<b>" not in text


def test_what_is_not_finite_is_hatched_in_both_heatmaps():
    def hatches(picture):
        return len(svg(picture)[1].findall(".//{http://www.w3.org/2000/svg}pattern"))

    noise = result().noise
    broken = [*sites(), site("mlp.up", "5", "block", 999, None, None, nonfinite="NaN in the target")]
    assert hatches(ratios(layers_by_sites(result()), noise)) == 0
    assert hatches(ratios(layers_by_sites(result(sites=broken)), noise)) == 1
    clean = pictures()
    target = clean.target.copy()
    target[3, 5] = np.nan
    assert hatches(values(clean)) == 0
    bad = values(Pictures("x", clean.source, target, target - clean.source))
    assert hatches(bad) == 1
    assert "1 values are not finite" in bad.alt


def test_values_may_be_all_zero_or_all_nan_or_one_token():
    for array in (np.zeros((4, 7)), np.full((4, 7), np.nan), np.ones((1, 1)), np.ones((2, 3), np.float16)):
        svg(values(Pictures("x", array, array, array - array)))


def test_a_picture_of_many_cells_stays_small():
    rng = np.random.default_rng(0)
    large = rng.standard_normal((2048, 8192))
    assert len(values(Pictures("x", large, large, large)).uri) < 400_000


def printed(given, width=140, terminal=False):
    out = io.StringIO()
    show(given, Console(file=out, width=width, force_terminal=terminal, color_system="standard" if terminal else None))
    return out.getvalue()


def test_the_terminal_is_plain_in_a_pipe_and_coloured_elsewhere():
    assert "\x1b" not in printed(result())
    assert "\x1b[1;31m" in printed(result(), terminal=True)


def test_the_whole_terminal_report():
    given = result(sites=sites(layers=3), findings=result().findings)
    assert [line.rstrip() for line in printed(given).splitlines()] == TERMINAL.splitlines()


def test_terminal_names_are_neither_markup_nor_escapes():
    text = printed(hostile_result("[red]x[/red] \x1b[31m :smile:"), width=400)
    assert r"[red]x[/red] \x1b[31m :smile:" in text
    assert "\x1b" not in text


def test_the_terminal_shows_the_worst_of_many():
    many = sites(layers=40, bad=(33, "mlp.gate"))
    text = printed(result(sites=many))
    assert "2.5e+05 !" in text
    assert re.search(r"layer .*\b33\b", text)
    assert "not shown, nearer to noise: 32 layers" in text


def test_where_nothing_was_isolated_free_running_is_shown():
    free = [site("mlp.up", "0", "out", 0, 12.0, None), site("mlp.down", "0", "out", 1, 44.0, None)]
    text = printed(result(sites=free))
    assert "free running" in text
    assert "12 ?" in text
    assert "44 !" in text


def test_markdown_is_what_it_seems(tmp_path):
    path = result().to_markdown(tmp_path / "r.md")
    page = MarkdownIt("commonmark").enable("table").render(path.read_text())
    assert page.count("<h1>") == 1
    assert "<code>mappings/llama.yaml:14</code>" in page
    assert "verified by running it" in page
    assert page.count("<table>") == 3


@pytest.mark.parametrize(
    "name", [HOSTILE, "a|b", "`", "``x", "*x* _y_ [z](http://x)", "\n# title", "a\\|b", "&lt;", "![x](y)"]
)
def test_no_name_becomes_markdown(name):
    renderer = MarkdownIt("commonmark").enable("table")
    shape = re.findall(r"<(/?\w+)", renderer.render(markdown.dumps(hostile_result("plain"))))
    page = renderer.render(markdown.dumps(hostile_result(name)))
    assert [tag for tag in re.findall(r"<(/?\w+)", page) if tag != "/code"] == [t for t in shape if t != "/code"]


@pytest.mark.parametrize(
    ("verdict", "says"),
    [
        (
            "divergent",
            "The models first part at attention.query (out) of layer 2: 2.5e+05 times rounding noise. "
            "Look at attention.query (mappings/llama.yaml:14).",
        ),
        (
            "definition-differs",
            "The models first part at attention.query (out) of layer 2: 2.5e+05 times rounding noise. "
            "No tensor and no layout is at fault: the two models compute different things there.",
        ),
        (
            "cannot-tell",
            "The evidence is not enough for a verdict. The probe exercised 57 of 58 parameters. "
            "1 thing could not be compared.",
        ),
        (
            "precision-floor",
            "Nothing is converted wrongly: what differs is a cast to a lower precision inside a model, "
            "and it vanishes when that cast is promoted.",
        ),
        (
            "equivalent",
            "Every compared site agrees to within rounding noise (largest ratio 2.6, suspect from 10). "
            "The probe exercised 57 of 58 parameters.",
        ),
    ],
)
def test_a_verdict_in_one_sentence(verdict, says):
    assert sentence(result(verdict)) == says


def test_a_divergence_without_a_named_entry():
    nameless = result(findings=[result().findings[0].model_copy(update={"entries": []})])
    assert sentence(nameless).endswith("No mapping entry could be named.")
    assert sentence(result(findings=[], first_divergence=None)) == "No mapping entry could be named."


def test_the_title_of_a_finding():
    finding = result().findings[0]
    assert title(finding) == "Layout fault at attention.query out, layers 2 to 5"
    one = finding.model_copy(update={"kind": "definition", "layers": ["7"]})
    assert title(one) == "Definition difference at attention.query out, layer 7"
    other = finding.model_copy(update={"kind": "unknown", "layers": []})
    assert title(other) == "Unexplained difference at attention.query out"


@pytest.mark.parametrize(
    ("layers", "text"),
    [
        (["0", "1", "2", "4", "6", "7"], "0 to 2, 4, 6, 7"),
        (["9", "10", "11"], "9 to 11"),
        (["2.0", "2.1"], "2.0, 2.1"),
        (["encoder\n"], "encoder\\n"),
        ([], ""),
    ],
)
def test_layers_in_words(layers, text):
    assert span(layers) == text


def test_numbers_and_places_in_words():
    assert [number(x) for x in (None, 0.0, 2.0, 1234567.0, 1e-9)] == ["–", "0", "2", "1.23e+06", "1e-09"]
    assert [number(float(x)) for x in ("nan", "inf")] == ["nan", "inf"]
    assert [place(None, 3), place("a", None), place("a", 3)] == ["", "a", "a:3"]
    assert place(str(Path.cwd() / "maps" / "a.yaml"), 3) == "maps/a.yaml:3"
    assert place(str(Path.cwd().parent / "a.yaml"), 3) == f"{Path.cwd().parent / 'a.yaml'}:3"
    assert [count(1, "entry"), count(2, "entry"), count(0, "layer")] == ["1 entry", "2 entries", "0 layers"]
    assert visible("a\tb\u2028c") == "a\\tb\\u2028c"
    assert op({"rearrange": "a b -> b a", "h": "heads", "two": 2}) == 'rearrange: "a b -> b a", h: heads, two: 2'
    assert op("transpose") == "transpose"


TERMINAL = """\
✗ DIVERGENT  The models first part at attention.query (out) of layer 2: 2.5e+05 times rounding noise. \
Look at attention.query (mappings/llama.yaml:14).

1. Layout fault at attention.query out, layers 2 to 5   ratio 2.5e+05
   Rows of q are in half-split order where the target rotates interleaved pairs.
   entry  attention.query (mappings/llama.yaml:14)
   repair of attention.query (verified)
     - rearrange: "(h d) m -> m h d"
     + rearrange: "(h two d) m -> m h (d two)", two: 2

error in units of rounding noise, each piece judged alone
site \\ layer             0      1          2
embedding out          1.2
attention.query in     1.4    1.8        1.9
attention.query out    1.1    1.5  2.5e+05 !
attention.key in         2    1.8        1.5
attention.key out      1.8    1.4        1.2
attention.value in       2      2        1.4
attention.value out    1.1    1.5        1.3
attention.out in       1.1    1.4        1.5
attention.out out      1.3    1.4        1.7
mlp.gate in            1.6      2        1.5
mlp.gate out           1.5    1.7        1.6
mlp.up in              1.2    1.9        1.7
mlp.up out             1.7    1.3          2
mlp.down in            1.5    1.2        1.9
mlp.down out           2.1    1.3        1.6
head out               1.4
logits: KL 0.731 nats per token (worst 4.25), top-1 agreement 41%, top-10 overlap 52%, largest difference 3.2
not compared: decoder/rotary (an opaque kernel)
"""
