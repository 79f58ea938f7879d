"""A result as the last line of a notebook's cell, and as text."""

import pytest
from report_examples import result

from ckptdbg.report import html
from ckptdbg.report.changes import in_one_line
from ckptdbg.report.words import BADGE
from ckptdbg.result import Repair


def bundle(shown):
    return shown._repr_mimebundle_()


@pytest.mark.parametrize("verdict", ["divergent", "definition-differs", "cannot-tell", "precision-floor", "equivalent"])
def test_a_notebook_shows_verdict_and_findings_without_a_kernel(verdict):
    shown = bundle(result(verdict))
    assert set(shown) == {"text/markdown", "text/plain"}
    assert BADGE[verdict] in shown["text/markdown"]
    assert BADGE[verdict].upper() in shown["text/plain"]
    for finding in result(verdict).findings:
        assert all(entry.name in shown["text/markdown"] for entry in finding.entries)


def test_what_is_printed_is_what_compare_prints_without_colours():
    text = str(result("divergent"))
    assert text.startswith("✗ DIVERGENT")
    assert "\x1b" not in text


def test_a_repair_is_a_diff_that_no_name_can_end():
    shown = result("divergent")
    repair = shown.findings[0].repair
    assert repair is not None
    assert "```diff\n- rearrange" in bundle(shown)["text/markdown"]
    repair.ops_after = [{"rearrange": "````"}]
    assert '`````diff\n- rearrange: "(h d) m -> m h d"\n+ rearrange: "````"\n`````' in bundle(shown)["text/markdown"]


def test_corrections_that_belong_together_stand_below_their_entries():
    shown = result("divergent")
    repair = shown.findings[0].repair
    assert repair is not None
    tensor = Repair(entry="mlp.up", change="make it again", ops_before=[], ops_after=[], verified=True)
    repair.together = [repair.model_copy(update={"entry": "attention.key"}), tensor]
    page = bundle(shown)
    for text in (page["text/markdown"].replace("`", ""), page["text/plain"]):
        assert "of attention.query and attention.key and mlp.up (verified" in text
        lines = [line.strip() for line in text.splitlines()]
        at = [lines.index(name) for name in ("attention.query:", "attention.key:", "mlp.up: make it again")]
        assert at == sorted(at)
        assert lines[at[0] + 1].startswith("- rearrange")
        assert lines[at[1] + 1].startswith("- rearrange")
    assert "of attention.query and attention.key and mlp.up" in html.render(shown)


def test_what_changes_is_said_of_each_entry_unless_it_is_the_same():
    first = Repair(entry="a", change="add scale: 2", ops_before=[], ops_after=[], verified=True)
    other = first.model_copy(update={"entry": "b"})
    assert in_one_line(first.model_copy(update={"together": [other]})) == "add scale: 2"
    moved = other.model_copy(update={"change": "transpose"})
    assert in_one_line(first.model_copy(update={"together": [moved]})) == "a: add scale: 2; b: transpose"
