"""Make ``docs/faults.md``, ``docs/healthy.md`` and ``docs/noise.md`` of what the table commands measured.

``python benchmarks/pages.py`` reads ``build/faults.json`` and ``build/healthy.json``.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any

from fault_needs import NEEDS
from tables import ROOT, read_rows, table, write_text

from ckptdbg.compare.noise import DIVERGENT, SUSPECT
from ckptdbg.samples.faults import FAULTS
from ckptdbg.samples.pairs import list_pairs

Row = dict[str, Any]
RUNS = {"isolated_working": "isolated", "isolated_promoted": "isolated, float64"}
RUNS |= {"free_working": "free", "free_promoted": "free, float64"}


def main() -> None:
    """Write the pages."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--results", type=Path, default=ROOT / "build")
    asked = parser.parse_args()
    faults, healthy = (read_rows(asked.results / f"{name}.json") for name in ("faults", "healthy"))
    write_text(ROOT / "docs" / "faults.md", faults_page(faults))
    write_text(ROOT / "docs" / "healthy.md", healthy_page(healthy))
    write_text(ROOT / "docs" / "noise.md", noise_page(faults, healthy))


def faults_page(rows: list[Row]) -> str:
    """One line per fault, one column per conversion."""
    found = {(r["pair"], r["fault"]): r for r in rows}
    pairs = list_pairs()

    def mark(fault: str, pair: str) -> str:
        if not FAULTS[fault].applies(pair):
            return "n/a"
        row = found.get((pair, fault))
        return "not run" if row is None else "found" if row["caught"] else "MISSED"

    lines = [
        [f"`{name}`", f.description, *(mark(name, p) for p in pairs), NEEDS.get(name, "")] for name, f in FAULTS.items()
    ]
    caught = sum(r["caught"] for r in rows)
    places = sum(f.applies(p) for f in FAULTS.values() for p in pairs)
    beside = [[r["pair"], f"`{r['fault']}`", *other[:2], ", ".join(other[3])] for r in rows for other in r["others"]]
    return (
        "# Planted faults\n\n"
        "Made by `python benchmarks/fault_table.py && python benchmarks/pages.py`. *found*: the exit status is 1 and a "
        "finding names the planted entry, in the layer where it is planted (for a fault in the model's code, which no "
        "entry made: an entry of the region it lies in). A symmetry is *found* when it is reported with `effect: none` "
        "and exit status 0, a lower precision when it is a precision floor.\n\n"
        f"{len(rows)} of {places} places were run: {caught} found, {len(rows) - caught} missed. "
        f"Findings that name no planted place: {len(beside)}.\n\n"
        + table(["fault", "what it is", *(f"`{p}`" for p in pairs), "n/a where there is not"], lines)
        + ("\n## Named beside the planted place\n\n" if beside else "")
        + (table(["conversion", "fault", "kind", "site", "entries"], beside) if beside else "")
    )


def healthy_page(rows: list[Row]) -> str:
    """One line per case."""
    head = ["conversion", "circumstance", "verdict", "sites", "isolated", "isolated, float64", "free", "output"]
    keys = ["pair", "case", "verdict", "sites", "isolated", "isolated_promoted", "free", "output"]
    alarms = [r for r in rows if not r["healthy"]]
    notes = "".join(f"- `{r['pair']}`, {r['case']}: {r['verdict']}. {' '.join(r['findings'])}\n" for r in alarms)
    return (
        "# Healthy conversions\n\n"
        "Made by `python benchmarks/healthy_table.py && python benchmarks/pages.py`. Numbers are the largest ratio "
        f"of error to rounding noise over all sites and the output; {SUSPECT:.0f} is suspect, {DIVERGENT:.0f} "
        "divergent. `llama_to_torch` has fused norms, `gemma2_to_jax` and `gpt2_to_jax` a tied head, `gemma2_to_jax` "
        "with a scaled embedding; the library's own choice of attention is sdpa where a line does not say.\n\n"
        f"{len(rows)} conversions, {len(alarms)} false alarms.\n\n"
        + table(head, [[r.get(k, "") for k in keys] for r in rows])
        + (f"\n## False alarms\n\n{notes}" if alarms else "")
    )


def noise_page(faults: list[Row], healthy: list[Row]) -> str:
    """The two constants between what healthy conversions and planted faults measure."""
    quiet = [r for r in healthy if "spread" in r]
    spread = []
    for key, name in RUNS.items():
        columns = list(zip(*(r["spread"][key] for r in quiet), strict=True))
        spread.append([name, *(max(c) for c in columns)])
    smallest: dict[str, list[Row]] = defaultdict(list)
    for r in faults:
        if FAULTS[r["fault"]].effect == "diverges" and "isolated" in r:
            smallest[r["fault"]].append(r)
    lines = []
    for name, rows in smallest.items():
        weakest = min(rows, key=lambda r: r["isolated_promoted"])
        lines.append([f"`{name}`", min(r["isolated"] for r in rows), weakest["isolated_promoted"], weakest["pair"]])
    lines.sort(key=lambda line: line[2])
    highest = max((line[-1] for line in spread), default=0.0)
    lowest = lines[0][2] if lines else float("nan")
    return (
        "# The two constants\n\n"
        "Made by `python benchmarks/healthy_table.py && python benchmarks/fault_table.py && python "
        "benchmarks/pages.py`. "
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


if __name__ == "__main__":
    main()
