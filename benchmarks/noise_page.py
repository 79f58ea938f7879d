"""``docs/noise.md``: the two constants between what healthy conversions and planted faults measure."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from tables import table

from ckptdbg.compare.noise import DIVERGENT, SUSPECT
from ckptdbg.samples.faults import FAULTS

Row = dict[str, Any]
RUNS = {"isolated_working": "isolated", "isolated_promoted": "isolated, float64"}
RUNS |= {"free_working": "free", "free_promoted": "free, float64"}


def noise_page(faults: list[Row], healthy: list[Row]) -> str:
    """``faults``: cases of one fault each."""
    quiet = [r for r in healthy if "spread" in r]
    spread = []
    for key, name in RUNS.items():
        columns = list(zip(*(r["spread"][key] for r in quiet), strict=True))
        spread.append([name, *(max(c) for c in columns)])
    smallest: dict[str, list[Row]] = defaultdict(list)
    for r in faults:
        if FAULTS[_fault(r)].effect == "diverges" and "isolated" in r:
            smallest[_fault(r)].append(r)
    lines = []
    for name, rows in smallest.items():
        weakest = min(rows, key=lambda r: r["isolated_promoted"])
        lines.append([f"`{name}`", min(r["isolated"] for r in rows), weakest["isolated_promoted"], weakest["pair"]])
    lines.sort(key=lambda line: line[2])
    highest = max((line[-1] for line in spread), default=0.0)
    lowest = lines[0][2] if lines else float("nan")
    return (
        "# The two constants\n\n"
        "Made by `make bench-faults`. "
        "A ratio is an error in units of its rounding noise, the largest over whole tensor, tokens and features.\n\n"
        f"The largest ratio of {len(quiet)} healthy conversions is {highest:.3g}; the smallest that a planted fault "
        f"shows where it shows most is {lowest:.3g} (float64). `SUSPECT` = {SUSPECT:.0f} and `DIVERGENT` = "
        f"{DIVERGENT:.0f} lie between.\n\n"
        "## Healthy: ratios of the sites\n\nOf every conversion the quantile over its sites; here the largest of all "
        "conversions.\n\n"
        + table(["run", "median", "90 %", "99 %", "largest"], spread)
        + "\n## Faults: the smallest of the conversions they are planted in\n\n"
        "Of every fault and conversion the largest ratio over the sites and the output, isolated; "
        "here the smallest of all conversions. The float64 ratio "
        "decides. A fault of exactly known values, such as one wrong element, "
        "is found without it as well: the tensor "
        "differs.\n\n" + table(["fault", "working precision", "float64", "weakest in"], lines)
    )


def _fault(row: Row) -> str:
    return row["faults"][0].partition("@")[0]
