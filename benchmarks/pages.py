"""Make ``docs/faults.md``, ``docs/healthy.md`` and ``docs/noise.md`` of what the table commands measured.

``python benchmarks/pages.py`` reads ``benchmarks/out/faults.json`` and ``benchmarks/out/healthy.json``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fault_needs import NEEDS
from noise_page import noise_page
from others import JUDGES
from tables import OUT, ROOT, read_all, table, write_text

from ckptdbg.compare.noise import DIVERGENT, SUSPECT
from ckptdbg.samples.faults import FAULTS
from ckptdbg.samples.pairs import list_pairs

Row = dict[str, Any]
COUNTS = {
    "cases": "cases",
    "detected": "exit status right",
    "named": "every planted entry named",
    "named_beside": "something else named too",
    "called_right": "kind and cause right",
    "stated": "difference stated",
    "mendable": "mendable",
    "mended": "mended and proved",
    "mended_to_equal": "of these to equal tensors",
    "failed": "tool failed",
}


def main() -> None:
    """Write the pages."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--results", type=Path, default=OUT)
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    asked = parser.parse_args()
    faults, healthy = (read_all(asked.results / f"{name}.json") for name in ("faults", "healthy"))
    write_text(asked.docs / "faults.md", faults_page(faults, healthy["summary"]))
    write_text(asked.docs / "healthy.md", healthy_page(healthy))
    write_text(asked.docs / "noise.md", noise_page(_single(faults["cases"]), healthy["cases"]))


def faults_page(results: dict[str, Any], healthy: dict[str, Any]) -> str:
    """What became of all faults, what others say of them, and every place on its own."""
    summary, rows = results["summary"], results["cases"]
    seeds = ", ".join(sorted({str(r["seed"]) for r in rows}))
    return (
        "# Planted faults\n\n"
        f"Made by `make bench-faults` (`benchmarks/fault_table.py`, then `benchmarks/pages.py`), seed {seeds}, in "
        f"{_minutes(summary['seconds'])} by {summary['workers']} worker processes "
        f"({_minutes(summary['cpu_seconds_of_all_cases'])} of processor time), repairs tried and proved.\n\n"
        "A fault is *named* when a finding names every entry it was planted in, in a layer where it was planted (of a "
        "fault in the target's code, which no entry made: an entry next to it). A symmetry is to be reported with "
        "`effect: none` and exit status 0, a lower precision as a precision floor. The *difference is stated* when "
        "explanation or repair says what was done: the factor, the term, the permutation, the tensor that was taken "
        "instead. A mapping is *mended* when the repair is verified and the mapping that comes out makes the same "
        "output in float64 as the right one.\n\n"
        + _counts(summary)
        + "\n## Beside what is in use today\n\n"
        + _judges(rows, summary, healthy)
        + "\n## Every place\n\n"
        + _places(_single(rows))
        + "\n## Pairs of faults\n\nDrawn at random, in the same or in different layers.\n\n"
        + table(["conversion", "faults", "found", "mended"], [_paired(r) for r in rows if len(r["faults"]) > 1])
        + _left(rows)
    )


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes"


def _counts(summary: dict[str, Any]) -> str:
    columns = {"one fault": summary["single"], "two faults": summary["pairs"], "all": summary}
    lines = [[text, *(c[key] for c in columns.values())] for key, text in COUNTS.items()]
    return table(["", *columns], lines)


def _judges(rows: list[Row], summary: dict[str, Any], healthy: dict[str, Any]) -> str:
    harmful = [r for r in rows if _harmful(r)]
    harmless = [r for r in rows if not _harmful(r)]
    ours = [
        "ckptdbg",
        f"{sum(r.get('exit') == 1 for r in harmful)} of {len(harmful)}",
        f"{sum(bool(r.get('named')) for r in harmful)}",
        f"{sum(r.get('exit') != 0 for r in harmless)} of {len(harmless)}",
        f"{healthy['false_alarms']} of {healthy['healthy']}",
    ]
    lines = [ours]
    for judge in JUDGES:
        of, quiet = summary["judges"][judge], healthy["judges"][judge]
        lines.append(
            [
                judge,
                f"{of['caught']} of {of['cases']}",
                of["placed"] if judge.startswith(("cosine", "allclose")) else "says no place",
                f"{of['alarms_on_harmless']} of {of['harmless']}",
                f"{quiet['false_alarms']} of {quiet['cases']}",
            ]
        )
    head = ["judge", "faults caught", "placed right", "alarms on symmetries and floors", "false alarms on healthy"]
    return (
        "The same runs, judged by others: torchtitan's KL (`F.kl_div(reduction=\"mean\")` of the last token's logits "
        "over 100 prompts of 8 random tokens) against the number that its README shows for a broken conversion, as "
        "printed and with the vocabulary of Llama 3 to divide by; MaxText's limit on the largest KL of a token, here "
        "over the whole probe; 16 tokens decoded from 4 prompts; the cosine of the layers' outputs; `torch.allclose` "
        "on the layers' outputs, and on the outputs of all modules in order. The first layer or module that is off is "
        "blamed, so that `allclose`, which alarms in the first layer of a healthy conversion, is right about every "
        "fault that lies in the first layer too. A judge is not counted where it cannot be applied: without logits, or "
        "without layers to hook.\n\n" + table(head, lines)
    )


def _harmful(row: Row) -> bool:
    return any(FAULTS[spec.partition("@")[0]].effect == "diverges" for spec in row["faults"])


def _single(rows: list[Row]) -> list[Row]:
    return [r for r in rows if len(r["faults"]) == 1]


def _places(rows: list[Row]) -> str:
    found = {(r["pair"], r["faults"][0].partition("@")[0]): r for r in rows}
    pairs = list_pairs()

    def mark(fault: str, pair: str) -> str:
        row = found.get((pair, fault))
        if row is None:
            return "not run" if FAULTS[fault].applies(pair) else ""
        return _said(row)

    lines = [
        [f"`{name}`", f.description, *(mark(name, p) for p in pairs), NEEDS.get(name, "")] for name, f in FAULTS.items()
    ]
    words = "Empty: this conversion has no place for it.\n\n"
    return words + table(["fault", "what it is", *(f"`{p}`" for p in pairs), "needs"], lines)


def _said(row: Row) -> str:
    if not row["caught"]:
        return "MISSED"
    short = [key for key in ("called_right", "stated") if not row[key]]
    mended = "mended" if row["mended"] else "NOT MENDED" if row["mendable"] else ""
    return ", ".join(["found", *(f"NOT {key.replace('_', ' ')}" for key in short), *([mended] if mended else [])])


def _paired(row: Row) -> list[str]:
    found = "both" if row["caught"] else f"MISSED {', '.join(row.get('missed', ['all']))}"
    mended = "" if not row.get("mendable") else "yes" if row["mended"] else "no"
    return [row["pair"], ", ".join(f"`{spec}`" for spec in row["faults"]), found, mended]


def _left(rows: list[Row]) -> str:
    """What was named beside the planted places, as it was said."""
    beside = [(r, f) for r in rows for f in r.get("others", [])]
    if not beside:
        return ""
    lines = [[r["pair"], ", ".join(r["faults"]), f["kind"], f["site"], ", ".join(f["entries"])] for r, f in beside]
    return "\n## Named beside the planted places\n\n" + table(
        ["conversion", "faults", "kind", "site", "entries"], lines
    )


def healthy_page(results: dict[str, Any]) -> str:
    """One line per case."""
    rows = results["cases"]
    head = ["conversion", "circumstance", "verdict", "sites", "isolated", "isolated, float64", "free", "output"]
    keys = ["pair", "case", "verdict", "sites", "isolated", "isolated_promoted", "free", "output"]
    alarms = [r for r in rows if not r["healthy"]]
    notes = "".join(f"- `{r['pair']}`, {r['case']}: {r['verdict']}. {' '.join(r['findings'])}\n" for r in alarms)
    return (
        "# Healthy conversions\n\n"
        "Made by `make bench-faults` (`benchmarks/healthy_table.py`, then `benchmarks/pages.py`). Numbers are the "
        "largest ratio of error to rounding noise over all sites and the output; "
        f"{SUSPECT:.0f} is suspect, {DIVERGENT:.0f} "
        "divergent. `llama_to_torch` has fused norms, `gemma2_to_jax` and `gpt2_to_jax` a tied head, `gemma2_to_jax` "
        "with a scaled embedding; the library's own choice of attention is sdpa where a line does not say.\n\n"
        f"{len(rows)} conversions, {len(alarms)} false alarms. What other judges make of them is on the page of "
        "[planted faults](faults.md).\n\n"
        + table(head, [[r.get(k, "") for k in keys] for r in rows])
        + (f"\n## False alarms\n\n{notes}" if alarms else "")
    )


if __name__ == "__main__":
    main()
