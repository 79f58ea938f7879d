"""The compared sites as a table."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptdbg.report.files import write_text
from ckptdbg.report.names import visible
from ckptdbg.result import Result, Site

if TYPE_CHECKING:
    import pandas as pd

FORMULA = ("=", "+", "-", "@")


def sites_frame(result: Result) -> pd.DataFrame:
    """One row per site in execution order; nested records become columns (``source_mean``, ``isolated_ratio``)."""
    import pandas as pd

    rows = [_row(site) for site in sorted(result.sites, key=lambda site: site.order)]
    return pd.DataFrame(rows, columns=list(_row(_EMPTY)))


def to_csv(result: Result, path: str | os.PathLike[str]) -> Path:
    """Write ``sites_frame`` as CSV. A name that a spreadsheet would run as a formula gets an apostrophe in front."""
    frame = sites_frame(result)
    for column in ("site", "entry", "layer", "scope", "nonfinite"):
        frame[column] = [None if value is None else _inert(value) for value in frame[column].astype(object)]
    return write_text(path, frame.to_csv(index=False, lineterminator="\n"))


def _inert(value: str) -> str:
    text = visible(value)
    return f"'{text}" if text.startswith(FORMULA) else text


def _row(site: Site) -> dict[str, Any]:
    row = site.model_dump(exclude={"source", "target", "isolated"})
    row["shape"] = "x".join(map(str, site.shape))
    for side in ("source", "target"):
        row |= {f"{side}_{key}": value for key, value in getattr(site, side).model_dump().items()}
    for key in ("error", "noise", "ratio"):
        row[f"isolated_{key}"] = None if site.isolated is None else getattr(site.isolated, key)
    return row


def _empty() -> Site:
    blank: dict[str, Any] = dict.fromkeys(("mean", "std", "min", "max"))
    return Site.model_validate(
        dict.fromkeys(("entry", "layer", "error", "noise", "ratio"))
        | {"site": "", "port": "out", "scope": "", "order": 0, "shape": [], "source": blank, "target": blank}
    )


_EMPTY = _empty()
