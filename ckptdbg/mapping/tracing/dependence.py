"""Which source tensors a target depends on, of a function that is only run: what changes when they change."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.mapping.tracing.origins import Origins, Run, random_tensor

Array = NDArray[Any]


def sources_of(run: Run, origins: Origins, targets: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The sources of every one of ``targets``, in the order of the source's tensors. Halves of the sources are given
    other random values, and halves of those that changed a target, down to single tensors: one run tells for all
    targets. What chooses between tensors without going into one is not seen."""
    found: dict[str, set[str]] = {target: set() for target in targets}
    before = {target: origins.targets[target].sample for target in found}

    def changed(names: Sequence[str], among: Sequence[str]) -> list[str]:
        other = {n: random_tensor(origins.specs[n], i, again=1) for i, n in enumerate(origins.specs) if n in set(names)}
        out = run({**origins.sample, **other})
        return [target for target in among if not _same(before[target], out.get(target))]

    waiting = [(list(origins.specs), list(found))]
    while waiting:
        names, among = waiting.pop()
        moved = changed(names, among) if among else []
        if len(names) == 1:
            for target in moved:
                found[target].add(names[0])
        elif moved:
            half = len(names) // 2
            waiting += [(names[:half], moved), (names[half:], moved)]
    return {target: tuple(n for n in origins.specs if n in used) for target, used in found.items()}


def _same(before: Array, after: Array | None) -> bool:
    return after is not None and np.array_equal(before.astype(np.float64), after.astype(np.float64), equal_nan=True)
