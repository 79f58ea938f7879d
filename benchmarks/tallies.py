"""Counting the rows of the tables."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from others import JUDGES

from ckptdbg.samples.faults import FAULTS

Row = dict[str, Any]


def kind_of(row: Row) -> str:
    """The most that a row's faults do: diverge, change nothing, round."""
    effects = {FAULTS[spec.partition("@")[0]].effect for spec in row["faults"]}
    return next(effect for effect in ("diverges", "none", "rounding") if effect in effects)


def tally(rows: Iterable[Row], seconds: float) -> dict[str, Any]:
    """What the table comes to. ``seconds``: wall clock of the run that wrote it."""
    every = list(rows)
    single, double = ([r for r in every if (len(r["faults"]) > 1) == several] for several in (False, True))
    return {
        **count(every),
        "single": count(single),
        "pairs": count(double),
        "seconds": seconds,
        "seconds_of_all_cases": round(sum(r["seconds"] for r in every), 1),
        "cpu_seconds_of_all_cases": round(sum(r.get("cpu_seconds", 0) for r in every), 1),
        "judges": {judge: judged(every, judge) for judge in JUDGES},
    }


def count(rows: list[Row]) -> dict[str, int]:
    """How many rows hold what."""
    keys = ("detected", "named", "caught", "called_right", "stated", "mendable", "mended")
    more = {
        "mended_to_equal": sum(bool(r.get("mended")) and r["mapping_after"] == "equal" for r in rows),
        "named_beside": sum(bool(r.get("others")) for r in rows),
        "failed": sum("error" in r for r in rows),
    }
    return {"cases": len(rows), **{key: sum(bool(r.get(key)) for r in rows) for key in keys}, **more}


def judged(rows: list[Row], judge: str) -> dict[str, int]:
    """How many harmful faults a judge catches and places, and of how many; its alarms where nothing is at fault (a
    symmetry, a lower precision)."""
    said = [(kind_of(r), r["opinions"][judge]) for r in rows if "opinions" in r]
    able = [(kind, o) for kind, o in said if o["alarm"] is not None]
    harmful = [o for kind, o in able if kind == "diverges"]
    return {
        "cases": len(harmful),
        "caught": sum(o["alarm"] for o in harmful),
        "placed": sum(o["right"] for o in harmful),
        "harmless": len(able) - len(harmful),
        "alarms_on_harmless": sum(bool(o["alarm"]) for kind, o in able if kind != "diverges"),
    }


def tally_healthy(rows: Iterable[Row], seconds: float) -> dict[str, Any]:
    """What the table of healthy conversions comes to."""
    every = list(rows)
    judges = {}
    for judge in JUDGES:
        alarms = [r["opinions"][judge]["alarm"] for r in every if "opinions" in r]
        judges[judge] = {"cases": sum(a is not None for a in alarms), "false_alarms": sum(bool(a) for a in alarms)}
    return {
        "healthy": len(every),
        "false_alarms": sum(not r["healthy"] for r in every),
        "seconds": seconds,
        "judges": judges,
    }
