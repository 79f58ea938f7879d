"""A result on a terminal: the verdict, what to look at, and where the noise was left. Plain when piped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ckptdbg.report.changes import changes, whose
from ckptdbg.report.coverage import HEADINGS, rows_of
from ckptdbg.report.grid import Floats, layers_by_sites
from ckptdbg.report.names import count, number, visible
from ckptdbg.report.words import BADGE, MARK, sentence, suspect, title
from ckptdbg.result import Finding, Logits, Result

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

COLOUR = {
    "divergent": "red",
    "definition-differs": "magenta",
    "cannot-tell": "yellow",
    "precision-floor": "cyan",
    "equivalent": "green",
}
_SIGNS = {"-": "red", "+": "green", " ": ""}
MOST_LAYERS = 8
MOST_SITES = 24


def show(result: Result, console: Console) -> None:
    """Print ``result``. Names are printed as they are: they are never read as markup or as terminal escapes."""
    from rich.text import Text

    colour = COLOUR[result.verdict]
    verdict = Text(f"{MARK[result.verdict]} {BADGE[result.verdict].upper()}", style=f"bold {colour}")
    console.print(verdict, Text(sentence(result)), sep="  ", soft_wrap=True)
    for index, finding in enumerate(result.findings, 1):
        console.print()
        for line, style in _finding(index, finding):
            console.print(Text(line, style=style), soft_wrap=True)
    if result.sites:
        console.print()
        for part in _table(result):
            if part:
                console.print(part)
    if result.coverage.tensors:
        _show_coverage(result, console)
    if result.coverage.proposal is not None:
        console.print(Text(f"a probe that sees more: {visible(result.coverage.proposal)}"), soft_wrap=True)
    if result.logits is not None:
        console.print(Text(_logits(result.logits)), soft_wrap=True)
        for tip in result.logits.tips:
            console.print(Text(f"tip: {visible(tip)}"), soft_wrap=True)
    if result.not_compared:
        names = ", ".join(f"{visible(n.name)} ({visible(n.reason)})" for n in result.not_compared[:4])
        more = f" and {len(result.not_compared) - 4} more" if len(result.not_compared) > 4 else ""
        console.print(Text(f"not compared: {names}{more}"), soft_wrap=True)


def plain(result: Result) -> str:
    """What ``show`` prints, as text without colours."""
    import io

    from rich.console import Console

    out = io.StringIO()
    # Inside a notebook rich would display it on its own instead.
    show(result, Console(file=out, width=160, highlight=False, color_system=None, force_jupyter=False))
    return out.getvalue().rstrip("\n")


def logits_lines(figures: Logits) -> list[str]:
    """Every figure on a line of its own, then what greedy decoding gave, as ids."""
    lines = [f"{name:16} {number(v, 6)}" for name, v in figures.figures().items()]
    if figures.greedy is not None:
        agree = "agrees" if figures.greedy.agree else f"differs from new token {figures.greedy.first_difference}"
        lines.append(f"{'greedy':16} {agree}")
        for name, rows in (("source", figures.greedy.source), ("target", figures.greedy.target)):
            lines += [f"  {name}  {' '.join(map(str, row))}" for row in rows]
    return [*lines, *(f"tip: {tip}" for tip in figures.tips)]


def _finding(index: int, finding: Finding) -> list[tuple[str, str]]:
    lines = [
        (f"{index}. {title(finding)}   ratio {number(finding.ratio)}", "bold"),
        (f"   {visible(finding.explanation)}", ""),
    ]
    lines += [(f"   entry  {suspect(entry)}", "cyan") for entry in finding.entries]
    if finding.repair is not None:
        state = "verified" if finding.repair.verified else "not verified"
        lines.append((f"   repair of {visible(' and '.join(whose(finding.repair)))} ({state})", ""))
        lines += [(f"     {sign} {visible(text)}", _SIGNS[sign]) for sign, text in changes(finding.repair)]
    return lines


def _table(result: Result) -> tuple[str, Table, str]:
    """A heading, sites by layers, and what was left out: those nearest to noise, where there are too many."""
    from rich.table import Table
    from rich.text import Text

    grid = layers_by_sites(result)
    alone = not np.isnan(grid.isolated).all()
    shown = grid.isolated if alone else grid.free
    layers, sites = _farthest(shown, 1, MOST_LAYERS), _farthest(shown, 0, MOST_SITES)
    measured = ~np.isnan(shown)
    left = int(measured.any(0).sum()) - len(sites), int(measured.any(1).sum()) - len(layers)
    table = Table(box=None, pad_edge=False)
    table.add_column("site" if grid.layers == ("",) else "site \\ layer", no_wrap=True)
    for layer in layers:
        table.add_column(Text(visible(grid.layers[layer])), justify="right", no_wrap=True)
    for site in sites:
        # What lies outside the layers has one value, told once.
        cells = [_cell(shown[layer, site], result) for layer in (layers[:1] if site in grid.outside else layers)]
        table.add_row(Text(grid.sites[site]), *(Text(text, style=style) for text, style in cells))
    heading = f"error in units of rounding noise, {'each piece judged alone' if alone else 'free running'}"
    return heading, table, _left_out(*left)


def _show_coverage(result: Result, console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for heading in HEADINGS:
        table.add_column(heading, no_wrap=True)
    for row in rows_of(result.coverage):
        table.add_row(*(Text(visible(cell)) for cell in row.cells))
    console.print("\nthe smallest relative change that the probe shows", table, sep="\n")
    for line in result.coverage.unseen:
        console.print(Text(f"not seen: {visible(line)}"), soft_wrap=True)


def _left_out(sites: int, layers: int) -> str:
    counted = [count(n, noun) for n, noun in ((sites, "site"), (layers, "layer")) if n]
    return f"not shown, nearer to noise: {' and '.join(counted)}" if counted else ""


def _farthest(values: Floats, axis: int, most: int) -> list[int]:
    """Indices, in their order, of the ``most`` largest maxima of ``values`` along ``axis``; NaN alone is left out."""
    maxima = np.fmax.reduce(values, axis=axis)
    ranked = np.argsort(-maxima, kind="stable")
    return sorted(index for index in ranked[:most].tolist() if not np.isnan(maxima[index]))


def _cell(ratio: float, result: Result) -> tuple[str, str]:
    # The signs are for pipes and for eyes that see no red.
    if ratio > result.noise.divergent:
        return f"{_short(ratio)} !", "bold red"
    return (f"{_short(ratio)} ?", "yellow") if ratio > result.noise.suspect else (f"{_short(ratio)}  ", "")


def _short(ratio: float) -> str:
    if np.isnan(ratio):
        return "–"
    return "nonfinite" if np.isinf(ratio) else number(float(ratio), 2)


def _logits(logits: Logits) -> str:
    if logits.kl_mean_bounds is not None and logits.kl_max_bounds is not None:
        (low, high), (least, most) = logits.kl_mean_bounds, logits.kl_max_bounds
        kl = f"KL {number(low)} to {number(high)} nats per token (worst {number(least)} to {number(most)})"
    else:
        kl = f"KL {number(logits.kl_mean_nats)} nats per token (worst {number(logits.kl_max_nats)})"
    return (
        f"logits: {kl}, top-1 agreement {_percent(logits.top1_agreement)}, "
        f"top-10 overlap {_percent(logits.topk_overlap)}, largest difference {number(logits.max_abs)}"
    )


def _percent(share: float | None) -> str:
    # Not rounded up: 99.96 % is not agreement.
    return "–" if share is None else f"{int(share * 1000) / 10:g}%"
