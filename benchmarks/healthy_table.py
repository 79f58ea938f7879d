"""Compare every healthy conversion, plain and under unusual circumstances, and record the largest ratios.

``python benchmarks/healthy_table.py [--pair NAME ...] [--quick]`` writes ``build/healthy.json``; ``pages.py`` makes
the pages in ``docs/`` of it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tables import ROOT, cache_programs, read_rows, write_rows

from ckptdbg.errors import CkptdbgError
from ckptdbg.samples.pairs import list_pairs
from ckptdbg.session import Session

RESULTS = ROOT / "build" / "healthy.json"
QUANTILES = (0.5, 0.9, 0.99, 1.0)


def main() -> None:
    """Run the cases asked for; rows of other cases in the results file stay."""
    from matrix_helpers import PLAIN, UNUSUAL, open_healthy  # pyright: ignore[reportMissingImports]

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pair", action="append", choices=list_pairs())
    parser.add_argument("--quick", action="store_true", help="every conversion as it is, nothing unusual")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    asked = parser.parse_args()
    cases = [c for c in (PLAIN if asked.quick else [*PLAIN, *UNUSUAL]) if not asked.pair or c.pair in asked.pair]
    rows = {(r["pair"], r["case"]): r for r in read_rows(asked.output)}
    with tempfile.TemporaryDirectory() as folder:
        cache_programs(f"{folder}/programs")
        for number, case in enumerate(cases):
            started = time.perf_counter()
            try:
                row = measure(open_healthy(case, Path(folder) / str(number)))
            except CkptdbgError as error:
                row = {"verdict": "error", "healthy": False, "findings": [str(error)]}
            except Exception:  # a tool that fails is a row of the table too
                row = {"verdict": "failed", "healthy": False, "findings": [traceback.format_exc(limit=-3)]}
            seconds = round(time.perf_counter() - started, 1)
            rows[case.pair, case.name] = {"pair": case.pair, "case": case.name, **row, "seconds": seconds}
            write_rows(asked.output, list(rows.values()))
            print(case.id, row["verdict"], row.get("isolated"), row.get("isolated_promoted"), seconds, flush=True)


def measure(session: Session) -> dict[str, Any]:
    """Verdict, largest ratios, and how the ratios are spread over the sites."""
    from matrix_helpers import is_healthy, ratios  # pyright: ignore[reportMissingImports]

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


if __name__ == "__main__":
    main()
