"""Plant every fault in every sample conversion that has a place for it, and see what is found.

``python benchmarks/fault_table.py [--pair NAME ...] [--quick]`` writes ``build/faults.json``; ``pages.py`` makes the
pages in ``docs/`` of it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tables import ROOT, cache_programs, read_rows, write_rows

from ckptdbg.errors import CkptdbgError
from ckptdbg.samples.faults import list_faults
from ckptdbg.samples.pairs import list_pairs
from ckptdbg.session import Session

RESULTS = ROOT / "build" / "faults.json"
QUICK = ("llama_to_torch", "mixtral_to_jax")


def main() -> None:
    """Run the pairs asked for; rows of other pairs in the results file stay."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pair", action="append", choices=list_pairs())
    parser.add_argument("--fault", action="append", help="only these faults, by name")
    parser.add_argument("--quick", action="store_true", help=f"only {' and '.join(QUICK)}")
    parser.add_argument("--repair", action="store_true", help="try repairs too: several times as long")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    asked = parser.parse_args()
    pairs = asked.pair or (QUICK if asked.quick else list_pairs())
    rows = {(r["pair"], r["fault"]): r for r in read_rows(asked.output)}
    with tempfile.TemporaryDirectory() as folder:
        cache_programs(f"{folder}/programs")
        for pair in pairs:
            for row in run_pair(pair, asked, Path(folder)):
                rows[row["pair"], row["fault"]] = row
                write_rows(asked.output, list(rows.values()))


def run_pair(pair: str, asked: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """Yields one row per fault that has a place in this conversion; the source runs once."""
    from matrix_helpers import open_faulty  # pyright: ignore[reportMissingImports]

    source = open_faulty(pair, (), folder / pair / "healthy")
    for fault in list_faults(pair):
        if asked.fault and fault.name not in asked.fault:
            continue
        started = time.perf_counter()
        try:
            row = run_fault(pair, fault.name, folder / pair / fault.name, source, asked.repair)
        except CkptdbgError as error:
            row = {"caught": False, "verdict": "error", "explanation": str(error)}
        row = {"pair": pair, "fault": fault.name, **row, "seconds": round(time.perf_counter() - started, 1)}
        print(*(row.get(k) for k in ("pair", "fault", "verdict", "caught", "named", "others", "seconds")), flush=True)
        yield row


def run_fault(pair: str, fault: str, folder: Path, source: Session, repair: bool) -> dict[str, Any]:
    """Plant, compare, judge."""
    from matrix_helpers import judge, open_faulty  # pyright: ignore[reportMissingImports]

    found = judge(pair, (fault,), open_faulty(pair, (fault,), folder, source), repair=repair)
    best = found.named[:1]
    return {
        "caught": found.caught,
        "verdict": found.result.verdict,
        "exit": found.exit,
        "named": [e.name for f in best for e in f.entries],
        "missed": sorted(set(found.planted) - {e.name for f in found.result.findings for e in f.entries}),
        "kind": best[0].kind if best else None,
        "others": [[f.kind, f.site, f.layers, [e.name for e in f.entries]] for f in found.others],
        "repair": bool(best and best[0].repair and best[0].repair.verified),
        "isolated": found.ratios.isolated,
        "isolated_promoted": found.ratios.isolated_promoted,
        "free": found.ratios.free,
        "output": found.ratios.output,
        "explanation": best[0].explanation if best else "",
    }


if __name__ == "__main__":
    main()
