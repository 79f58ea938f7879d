"""Compare every healthy conversion, plain and under unusual circumstances, and record the largest ratios.

``python benchmarks/healthy_table.py [--pair NAME ...] [--quick]`` writes ``benchmarks/out/healthy.json``; ``pages.py``
makes the pages in ``docs/`` of it.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from circumstances import PLAIN, UNUSUAL, Healthy, is_healthy, open_healthy, ratios
from others import Judges
from tables import OUT, cache_programs, read_results, write_results
from tallies import tally_healthy

from ckptdbg.samples.pairs import list_pairs
from ckptdbg.session import Session

RESULTS = OUT / "healthy.json"
QUANTILES = (0.5, 0.9, 0.99, 1.0)


def main() -> None:
    """Run the cases asked for; rows of other conversions in the results file stay."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pair", action="append", choices=list_pairs())
    parser.add_argument("--quick", action="store_true", help="every conversion as it is, nothing unusual")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    asked = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    pairs = asked.pair or list_pairs()
    started = time.perf_counter()
    rows = {(r["pair"], r["case"]): r for r in read_results(asked.output) if r["pair"] not in pairs}
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(asked.workers, get_context("spawn")) as pool:
        waiting = [pool.submit(run_pair, pair, Path(folder), asked.quick) for pair in pairs]
        for done in as_completed(waiting):
            rows |= {(r["pair"], r["case"]): r for r in done.result()}
            summary = tally_healthy(rows.values(), round(time.perf_counter() - started, 1))
            write_results(asked.output, {"summary": summary, "cases": _in_order(list(rows.values()))})


def run_pair(pair: str, folder: Path, quick: bool = False) -> list[dict[str, Any]]:
    """All cases of one conversion. A case's models are let go before the next."""
    cache_programs(str(folder / "programs"))
    cases = [c for c in (PLAIN if quick else [*PLAIN, *UNUSUAL]) if c.pair == pair]
    rows = []
    for number, case in enumerate(cases):
        started = time.perf_counter()
        try:
            row = run_case(case, folder / pair / str(number))
        except Exception:  # a tool that fails is a row of the table too
            row = {"verdict": "failed", "healthy": False, "findings": [traceback.format_exc(limit=-3)]}
        seconds = round(time.perf_counter() - started, 1)
        print(case.id, row["verdict"], row.get("isolated"), row.get("isolated_promoted"), seconds, flush=True)
        rows.append({"pair": pair, "case": case.name, **row, "seconds": seconds})
    return rows


def run_case(case: Healthy, folder: Path) -> dict[str, Any]:
    """Verdict, largest ratios, how the ratios are spread over the sites, and what others say."""
    session = open_healthy(case, folder)
    row = measure(session)
    opinions = {o.judge: o.row() for o in Judges.of(session).opinions(session)}
    return {**row, "opinions": opinions}


def measure(session: Session) -> dict[str, Any]:
    """What the comparison gives."""
    result = session.compare()
    sites = session.comparison.sites
    spread = {
        f"{run}_{kind}": [
            float(np.quantile([getattr(getattr(s, run), kind).ratio for s in sites], q)) for q in QUANTILES
        ]
        for run in ("isolated", "free")
        for kind in ("working", "promoted")
    }
    return {
        "verdict": result.verdict,
        "healthy": is_healthy(result),
        "findings": [f"{f.kind} at {f.site}: {f.explanation}" for f in result.findings],
        "sites": len(sites),
        **asdict(ratios(session)),
        "spread": spread,
    }


def _in_order(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    cases = [(c.pair, c.name) for c in [*PLAIN, *UNUSUAL]]
    return sorted(rows, key=lambda r: cases.index((r["pair"], r["case"])))


if __name__ == "__main__":
    main()
