"""Statistics of one run as a table."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from ckptdbg.models.records import Anchor, Statistics, Summary
from ckptdbg.report.names import number, visible

if TYPE_CHECKING:
    import pandas as pd

_FIGURES = ("mean", "std", "min", "max")
_NUMBER = re.compile(r"(?:^|[./_])(\d+)(?=[./])")
Port = tuple[str, str, str, Summary]
"""Site, port, layer, summary."""


def statistics_frame(statistics: Statistics) -> pd.DataFrame:
    """One row per port in execution order: site, port, layer, mean, std, min, max, nonfinite."""
    import pandas as pd

    rows = [
        {"site": site, "port": port, "layer": layer or None, **asdict(summary)}
        for site, port, layer, summary in ports(statistics)
    ]
    return pd.DataFrame(rows, columns=["site", "port", "layer", *_FIGURES, "nonfinite"])


def plain(statistics: Statistics) -> str:
    """The same as text, a line per port."""
    found = [*ports(statistics)]
    width = max(len(visible(site)) for site, _, _, _ in found)
    lines = [f"{'site':{width}}  {'port':6}  {'layer':>5}  {'  '.join(f'{key:>10}' for key in _FIGURES)}  nonfinite"]
    for site, port, layer, summary in found:
        figures = "  ".join(f"{number(getattr(summary, key)):>10}" for key in _FIGURES)
        lines.append(f"{visible(site):{width}}  {port:6}  {layer:>5}  {figures}  {summary.nonfinite:>9}")
    return "\n".join(lines)


def ports(statistics: Statistics) -> Iterator[Port]:
    """Every port in execution order: a block after the last of its anchors, the model's output last."""
    graph = statistics.graph
    after: dict[int, list[Port]] = {}
    last = -1
    for name, inside, summary in zip(graph.blocks, graph.block_anchors, statistics.blocks, strict=True):
        last = max(inside, default=last)  # a norm without a matrix follows the block before it
        after.setdefault(last, []).append((name, "block", "", summary))
    for anchor, given, out in zip(graph.anchors, statistics.inputs, statistics.outputs, strict=True):
        site, layer = _site(anchor), layer_of(anchor.parameters, anchor.iteration)
        if given is not None:
            yield site, "in", layer, given
        yield site, "out", layer, out
        yield from after.get(anchor.index, ())
    yield "output", "output", "", statistics.output


def _site(anchor: Anchor) -> str:
    return "+".join(anchor.parameters) + ("" if anchor.group is None else f"[{anchor.group}]")


def layer_of(parameters: Sequence[str], iteration: tuple[int, ...]) -> str:
    """The iteration of the scans around, else the first number that all parameters name; empty where there is none."""
    if iteration:
        return ".".join(map(str, iteration))
    named = {match[1] if (match := _NUMBER.search(name)) else "" for name in parameters}
    return named.pop() if len(named) == 1 else ""
