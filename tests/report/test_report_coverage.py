"""Coverage in every report: a table by entry, what is not seen, and the probe that sees more."""

import io

from rich.console import Console

from ckptdbg.report import markdown
from ckptdbg.report.coverage import rows_of
from ckptdbg.report.html import render
from ckptdbg.report.terminal import show
from ckptdbg.result import Coverage, Exercised, Result


def exercised(tensor, entry, **numbers):
    fields = {"layer": None, "elements": 40, "unseen": 0, "element": 1e-5, "worst": [0], "whole": 2e-6, **numbers}
    return Exercised(tensor=tensor, entry=entry, **fields)


COVERAGE = Coverage(
    parameters_exercised=3,
    parameters_total=3,
    tensors=[
        exercised("a/0", "mlp"),
        exercised("a/1", "mlp", element=3e-4, whole=1e-6, sampled=16),
        exercised("table", "embed<b>", unseen=8, whole=None),
    ],
    unseen=["table: 1 of 5 are never met (index of axis 0 3)"],
    proposal="probe: {tokens: cover}",
)


def result(coverage):
    return Result.model_validate(
        {
            "verdict": "equivalent",
            "first_divergence": None,
            "findings": [],
            "sites": [],
            "not_compared": [],
            "noise": {"method": "promoted", "suspect": 10, "divergent": 30},
            "logits": None,
            "coverage": coverage,
            "probe": {},
            "environment": {},
            "timings": {},
        }
    )


def on_terminal(coverage):
    console = Console(file=io.StringIO(), width=160)
    show(result(coverage), console)
    return console.file.getvalue()


def test_an_entry_is_as_strong_as_its_weakest_tensor():
    assert [row.cells for row in rows_of(COVERAGE)] == [
        ("mlp", "2", "none", "0.0003 (of those tried)", "2e-06"),
        ("embed<b>", "1", "8 of 40", "1e-05", "not seen"),
    ]


def test_every_report_shows_it():
    for text in (on_terminal(COVERAGE), markdown.dumps(result(COVERAGE)), render(result(COVERAGE))):
        assert "0.0003 (of those tried)" in text
        assert "8 of 40" in text
        assert "1 of 5 are never met" in text
        assert "tokens: cover" in text
    assert "embed&lt;b&gt;" in render(result(COVERAGE))


def test_a_report_without_it_says_nothing_of_it():
    bare = Coverage(parameters_exercised=3, parameters_total=3)
    for text in (on_terminal(bare), markdown.dumps(result(bare)), render(result(bare))):
        assert "tokens: cover" not in text
        assert "never met" not in text
