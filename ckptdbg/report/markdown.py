"""A result as Markdown, for a pull request or an issue."""

from __future__ import annotations

import html
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from ckptdbg.report.changes import changes, whose
from ckptdbg.report.coverage import HEADINGS, MEANING, rows_of
from ckptdbg.report.files import write_text
from ckptdbg.report.names import number, place, visible
from ckptdbg.report.words import BADGE, MARK, ratio_of, sentence, title
from ckptdbg.result import Coverage, Finding, Repair, Result

WORST = 20


def dumps(result: Result) -> str:
    """Markdown (GitHub's tables). Names stand in code spans and prose is escaped, so no name can become markup."""
    blocks = _summary(result)
    blocks += ["## Sites farthest from noise", _worst_sites(result)]
    if result.logits is not None:
        figures = result.logits.figures()
        blocks += ["## Logits", _table(("figure", "value"), ((code(k), number(v, 4)) for k, v in figures.items()))]
        blocks += [f"- {prose(tip)}" for tip in result.logits.tips]
    if result.not_compared:
        rows = ((code(n.name), n.side, prose(n.reason)) for n in result.not_compared)
        blocks += ["## Not compared", _table(("name", "side", "reason"), rows)]
    if result.coverage.unexercised:
        names = "\n".join(f"- {code(name)}" for name in result.coverage.unexercised)
        blocks += ["## Parameters the probe did not reach", names]
    if result.coverage.tensors:
        blocks += _coverage(result.coverage)
    if result.coverage.proposal is not None:
        blocks.append(f"A probe that sees more: {code(result.coverage.proposal)}")
    return "\n\n".join(blocks) + "\n"


def summary(result: Result) -> str:
    """The verdict and the findings alone: what a notebook shows of a result."""
    return "\n\n".join(_summary(result)) + "\n"


def _coverage(coverage: Coverage) -> list[str]:
    rows = ((code(row.entry), *row.cells[1:]) for row in rows_of(coverage))
    blocks = ["## Coverage", MEANING, _table(HEADINGS, rows)]
    if coverage.unseen:
        blocks += ["Not seen by this probe:", "\n".join(f"- {prose(line)}" for line in coverage.unseen)]
    return blocks


def write(result: Result, path: str | os.PathLike[str]) -> Path:
    """Write ``dumps(result)``. Raises ``CkptdbgError`` when the file cannot be written."""
    return write_text(path, dumps(result))


def code(text: object) -> str:
    """A code span that holds any text, also inside a table."""
    shown = visible(text).replace("|", "\\|") or " "
    ticks = _fence(shown, 1)
    pad = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{ticks}{pad}{shown}{pad}{ticks}"


def prose(text: str) -> str:
    """Text that stays text: neither HTML nor Markdown."""
    return re.sub(r"([\\`*_\[\]|~#])", r"\\\1", html.escape(visible(text), quote=False))


def _fence(text: str, least: int) -> str:
    """Backticks enough to hold ``text``."""
    return "`" * max(least, 1 + max((len(run) for run in re.findall("`+", text)), default=0))


def _summary(result: Result) -> list[str]:
    blocks = [f"# {MARK[result.verdict]} {BADGE[result.verdict]}", prose(sentence(result))]
    for index, finding in enumerate(result.findings, 1):
        blocks += _finding(index, finding)
    return blocks


def _finding(index: int, finding: Finding) -> list[str]:
    facts = [
        f"- cause: {finding.cause}, effect: {finding.effect}, ratio {number(finding.ratio)}",
        *(f"- entry {code(e.name)} {code(place(e.file, e.line)) if e.file else ''}".rstrip() for e in finding.entries),
        *(f"- {prose(line)}" for line in finding.evidence),
        *(f"- excluded: {prose(line)}" for line in finding.excluded),
    ]
    blocks = [f"## {index}. {prose(title(finding))}", prose(finding.explanation), "\n".join(facts)]
    if finding.repair is not None:
        blocks += _repair(finding.repair)
    return blocks


def _repair(repair: Repair) -> list[str]:
    proof = "verified by running it" if repair.verified else "not verified"
    known = repair.ratio_before is not None or repair.ratio_after is not None
    ratios = f", ratio {number(repair.ratio_before)} becomes {number(repair.ratio_after)}" if known else ""
    lines = [f"{sign} {visible(text)}" for sign, text in changes(repair)]
    fence = _fence("\n".join(lines), 3)
    whole = "\n".join([f"{fence}diff", *lines, fence])
    return [f"Repair of {' and '.join(map(code, whose(repair)))} ({proof}){ratios}:", whole]


def _worst_sites(result: Result) -> str:
    # A site without a number was not finite: nothing is farther from noise.
    worst = sorted(result.sites, key=lambda s: -(float("inf") if (r := ratio_of(s)) is None else r))[:WORST]
    rows = (
        (
            code(site.site),
            site.port,
            code(site.layer) if site.layer is not None else "",
            number(site.ratio),
            number(site.isolated.ratio) if site.isolated else "–",
            prose(site.nonfinite or ""),
        )
        for site in worst
    )
    return _table(("site", "port", "layer", "ratio", "isolated ratio", "note"), rows)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
