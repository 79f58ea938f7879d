"""What the tests share with the bench in ``benchmarks/``: the cases, how faults are planted, how each is judged."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from circumstances import PLAIN, UNUSUAL, Healthy, Ratios, is_healthy, open_healthy, ratios
from fault_table import run_case
from others import JUDGES, Judges, Opinion
from planted import Conversion, pairs_of_faults, places
from tallies import tally, tally_healthy
from verdicts import Verdict, names, states

__all__ = [
    "JUDGES",
    "PLAIN",
    "UNUSUAL",
    "Conversion",
    "Healthy",
    "Judges",
    "Opinion",
    "Ratios",
    "Verdict",
    "is_healthy",
    "names",
    "open_healthy",
    "pairs_of_faults",
    "places",
    "ratios",
    "run_case",
    "states",
    "tally",
    "tally_healthy",
]
