"""Whether a conversion can be run on probes in the memory there is: said before it is tried, not by being killed."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path

from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.errors import MappingError

# Bytes at the peak for every element of the source, where it is run on probes: measured at 4 to 32 million elements of
# float32, with a function that permutes and stacks (index and scale of every element in 64 bits, and their copies).
PER_ELEMENT = 120
# Up to here a function is run on probes even where it could be recorded: half a minute, and 2 GB.
FEW_ELEMENTS = 2**24
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def elements(specs: Iterable[TensorSpec]) -> int:
    """Of all tensors together."""
    return sum(math.prod(spec.shape) for spec in specs)


def afford(count: int, why: str, name: str) -> None:
    """``MappingError`` where probes of so many elements do not fit into memory; ``why`` they are needed."""
    needed, free = count * PER_ELEMENT, free_memory()
    if free is not None and needed > free:
        raise MappingError(
            f"running on probes takes about {_gigabytes(needed)} of memory ({why})",
            where=name,
            found=f"{_gigabytes(free)} free",
            hint="write it for torch tensors (arrays: torch), which are recorded without values, or trace it on a "
            "small model of the same kind (ckptdbg mapping trace CONFIG -o FILE) and use that file: its placeholders "
            "count what is there",
        )


def free_memory() -> int | None:
    """Bytes that can still be had, containers' limits included; None where the system does not tell."""
    found = [_available(), *map(_limit, _LIMITS)]
    return min((n for n in found if n is not None), default=None)


def _available() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None


def _limit(file: str) -> int | None:
    try:
        text = Path(file).read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
