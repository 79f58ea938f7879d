"""A result as the last line of a notebook's cell, and as text."""

import pytest
from report_examples import result

from ckptdbg.report.words import BADGE


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
