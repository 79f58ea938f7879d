"""Plant every fault in every sample conversion that has a place for it, singly and in pairs, and see what is found.

``python benchmarks/fault_table.py`` writes ``benchmarks/out/faults.json``: every case, what became of it, what others
would have said of it, and a summary. Repairs are tried and proved. One worker process takes one conversion at a time;
its source runs once. ``pages.py`` makes the pages in ``docs/`` of it.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from circumstances import ratios
from others import Judges
from planted import Conversion, pairs_of_faults, places
from tables import OUT, cache_programs, read_all, read_results, write_results
from tallies import tally
from verdicts import Verdict

from ckptdbg.samples.faults import FAULTS
from ckptdbg.samples.pairs import list_pairs

RESULTS = OUT / "faults.json"
PAIRED = 6
"""Pairs of faults in every conversion."""
# The longest first, so that no worker is left with one at the end.
_ORDER = ("qwen3_moe_to_jax", "gpt2_to_jax", "llama_to_scan", "llama_to_nnx", "llama_square_to_nnx", "mixtral_to_jax")


@dataclass(frozen=True)
class Asked:
    """What to run in one conversion."""

    seed: int
    faults: tuple[str, ...] = ()
    """Only these faults, singly; all where there are none."""
    paired: int = PAIRED
    repair: bool = True


def main() -> None:
    """Run what is asked for; rows of other conversions in the results file stay."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pair", action="append", choices=list_pairs())
    parser.add_argument("--fault", action="append", default=[], choices=list(FAULTS), help="only these, singly")
    parser.add_argument("--seed", type=int, default=0, help="weights, tokens, layers and pairs of faults")
    parser.add_argument("--paired", type=int, default=PAIRED, help="pairs of faults in every conversion")
    parser.add_argument("--no-repair", action="store_true", help="do not try repairs: several times as fast")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    asked = Asked(given.seed, tuple(given.fault), 0 if given.fault else given.paired, not given.no_repair)
    pairs = sorted(given.pair or list_pairs(), key=lambda p: _ORDER.index(p) if p in _ORDER else len(_ORDER))
    started = time.perf_counter()
    rows = {_key(row): row for row in read_results(given.output) if row["pair"] not in pairs or asked.faults}
    with tempfile.TemporaryDirectory() as folder:
        for done in in_workers(pairs, asked, Path(folder), given.workers):
            rows |= {_key(row): row for row in done}
            summary = {**tally(rows.values(), round(time.perf_counter() - started, 1)), "workers": given.workers}
            summary |= healthy_beside(given.output)
            cases = sorted(rows.values(), key=lambda r: list_pairs().index(r["pair"]))
            write_results(given.output, {"summary": summary, "cases": cases})


def healthy_beside(output: Path) -> dict[str, int]:
    """How many healthy conversions were run and raised an alarm, where their table was made before this one."""
    file = output.with_name("healthy.json")
    return {k: read_all(file)["summary"][k] for k in ("healthy", "false_alarms")} if file.is_file() else {}


def in_workers(pairs: Sequence[str], asked: Asked, folder: Path, workers: int) -> Iterator[list[dict[str, Any]]]:
    """The rows of each conversion, as they are done. One that cannot be opened is told at the end, after the others."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        waiting = {pool.submit(run_pair, pair, asked, folder): pair for pair in pairs}
        for done in as_completed(waiting):
            if done.exception() is None:
                yield done.result()
    failed = [f"{waiting[d]}: {error!r}" for d in waiting if (error := d.exception()) is not None]
    if failed:
        raise SystemExit("not run: " + "; ".join(failed))


def run_pair(pair: str, asked: Asked, folder: Path) -> list[dict[str, Any]]:
    """All cases of one conversion."""
    cache_programs(str(folder / "programs"))
    conversion = Conversion(pair, folder / pair, asked.seed)
    cases: list[tuple[str, ...]] = [(spec,) for spec in places(conversion, asked.faults)]
    cases += pairs_of_faults(conversion, asked.paired)
    conversion.healthy.compare()
    judges = Judges.of(conversion.healthy, asked.seed)
    rows = []
    for faults in cases:
        started = time.perf_counter(), time.process_time()
        row: dict[str, Any] = {"pair": pair, "faults": list(faults), "seed": asked.seed}
        try:
            row |= run_case(conversion, faults, judges, asked.repair)
        except Exception:  # a tool that fails is a row of the table too
            row |= {"verdict": "failed", "caught": False, "error": traceback.format_exc(limit=-3)}
        row["seconds"] = round(time.perf_counter() - started[0], 1)
        row["cpu_seconds"] = round(time.process_time() - started[1], 1)
        print(line(row), flush=True)
        rows.append(row)
    return rows


def run_case(conversion: Conversion, faults: Sequence[str], judges: Judges, repair: bool = True) -> dict[str, Any]:
    """Plant, compare, judge; and what others say."""
    session = conversion.plant(faults)
    started = time.perf_counter()
    result = session.compare(repair=repair)
    seconds = time.perf_counter() - started
    verdict = Verdict(conversion, session, conversion.planted(faults), result)
    opinions = {o.judge: o.row(verdict.planted) for o in judges.opinions(session)}
    measured = asdict(ratios(session))
    return {**verdict.row(repaired=repair), **measured, "compare_seconds": round(seconds, 1), "opinions": opinions}


def line(row: dict[str, Any]) -> str:
    """One case as it is printed: at length where something about it is not right."""
    short = [key for key in ("caught", "called_right", "stated") if not row.get(key)]
    short += ["mended"] if row.get("mendable") and not row["mended"] else []
    text = f"{row['pair']} {' '.join(row['faults'])}: {row['verdict']}, {row['seconds']} s, cpu {row['cpu_seconds']} s"
    if not short and not row.get("others"):
        return text
    more = "".join(f"\n    {finding}" for finding in row.get("findings", [row.get("error")]))
    beside = f", beside: {[f['entries'] for f in row['others']]}" if row.get("others") else ""
    return f"{text}, NOT {' '.join(short)}, missed {row.get('missed')}{beside}{more}"


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return (row["pair"], row["seed"], *(spec.partition("@")[0] for spec in row["faults"]))


if __name__ == "__main__":
    main()
