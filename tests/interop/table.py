"""The table of what was compared with which library, for docs/interop.md."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ckptdbg.result import Result

BEGIN, END = "<!-- made by make test-interop -->", "<!-- end -->"
HEADS = ("target", "planted", "verdict", "largest ratio", "sites", "parameters", "named", "seconds")


@dataclass
class Table:
    """One row for each comparison, in the order they were made."""

    rows: list[tuple[str, ...]] = field(default_factory=list)

    def compare(self, target: str, planted: str, run: Callable[[], Result]) -> Result:
        """Run a comparison, keep its row, and return its result."""
        started = time.perf_counter()
        result = run()
        seconds = time.perf_counter() - started
        ratios = [site.ratio for site in result.sites if site.ratio is not None]
        exercised, total = result.coverage.parameters_exercised, result.coverage.parameters_total
        self.rows.append(
            (
                target,
                planted,
                result.verdict,
                f"{max(ratios):.3g}",
                str(len(ratios)),
                f"{exercised} of {total}",
                ", ".join(named(result)) or "nothing",
                f"{seconds:.0f}",
            )
        )
        return result

    def write_into(self, page: Path) -> None:
        """Put the rows between the two marks of ``page``, in place of those of the same target and fault."""
        before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
        old, _, after = rest.partition(END)
        kept = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in old.strip().splitlines()[2:]]
        rows = {row[:2]: row for row in (*kept, *self.rows)}
        lines = [HEADS, ("---",) * len(HEADS), *(rows[key] for key in sorted(rows))]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        page.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")


def named(result: Result) -> list[str]:
    """Entries that findings name, in order, each once."""
    return list(dict.fromkeys(entry.name for finding in result.findings for entry in finding.entries))
