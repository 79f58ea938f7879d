"""Joining ES modules into one text, without a build step."""

import re

import matplotlib
import numpy as np
import pytest

import ckptdbg_widgets
from ckptdbg_widgets import modules
from ckptdbg_widgets.panel import Panel

PANELS = [value for value in vars(ckptdbg_widgets).values() if isinstance(value, type) and issubclass(value, Panel)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(modules, "HERE", tmp_path)
    modules.module.cache_clear()
    modules.joined.cache_clear()

    def write(**texts):
        for name, text in texts.items():
            (tmp_path / f"{name}.js").write_text(text)

    yield write
    modules.module.cache_clear()
    modules.joined.cache_clear()


def test_a_module_comes_after_those_it_needs_and_only_once(folder):
    folder(
        low="export const one = 1;\n",
        left='import { one } from "./low.js";\nexport function left() { return one; }\n',
        top='import { left } from "./left.js";\nimport { one as uno } from "./low.js";\n'
        "export default { left, uno };\n",
    )
    text = modules.module("top")
    assert re.findall(r"^const (\$\w+) = \(\(\)", text, re.MULTILINE) == ["$low", "$left", "$top"]
    assert "const { one: uno } = $low;" in text
    assert text.endswith("export default $top.default;\n")


def test_modules_keep_names_of_their_own(folder, opened):
    """The same private name in two modules would be a syntax error if they were only pasted together."""
    folder(
        low="const size = 1;\nexport function low() { return size; }\n",
        top='import { low } from "./low.js";\nconst size = 2;\nexport default { sum: low() + size };\n',
    )
    page = opened(f"<!doctype html><script>{modules.joined('top')}window.sum = $top.default.sum;</script>")
    assert page.evaluate("window.sum") == 3


@pytest.mark.parametrize(
    "line",
    ['import thing from "./low.js";', 'import * as low from "./low.js";', "export { a };", 'export * from "./low.js";'],
)
def test_a_form_that_is_not_read_is_said(folder, line):
    folder(low="export const a = 1;\n", top=f"{line}\n")
    with pytest.raises(ValueError, match=r"top\.js: this form of import or export is not read"):
        modules.joined("top")


def test_a_circle_is_said(folder):
    folder(
        a='import { b } from "./b.js";\nexport const a = 1;\n', b='import { a } from "./a.js";\nexport const b = 1;\n'
    )
    with pytest.raises(ValueError, match=r"a\.js imports itself through a\.js, b\.js"):
        modules.joined("a")


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.kind)
def test_a_widget_fetches_nothing(panel):
    text = modules.module(panel.kind) + modules.styles(*panel.sheets)
    found = set(re.findall(r"https?://[^\"'\s)]+|@import|url\(|fetch\(|import\(", text))
    assert found <= {"http://www.w3.org/2000/svg"}, "a name space is no address to fetch from"


@pytest.mark.parametrize("name", ["viridis", "cividis"])
def test_the_colours_are_matplotlibs(name, opened):
    page = opened(f"<!doctype html><script>{modules.joined('shared/colour')}</script>")
    shown = np.array(page.evaluate(f"[...$colour.table('{name}')]")).reshape(256, 3)
    wanted = 255 * matplotlib.colormaps[name](np.linspace(0, 1, 256))[:, :3]
    assert np.abs(shown - wanted).max() < 6, "of 255: 33 stops and straight lines between them"
