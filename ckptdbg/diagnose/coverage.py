"""Which parameters the probe exercised, and how strongly: the smallest change of each that would have been seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ckptdbg.compare.comparison import Comparison
from ckptdbg.compare.noise import DIVERGENT
from ckptdbg.diagnose.nudges import add_regions, rms
from ckptdbg.diagnose.reach import Array, Reach, add_anchors, blank
from ckptdbg.mapping import BoundMapping
from ckptdbg.result import Coverage, Exercised

_LISTED = 6


def measure_coverage(
    comparison: Comparison,
    mapping: BoundMapping,
    known: Coverage,
    window: int | None,
    cover: bool,
    progress: Callable[[str], None] = lambda _: None,
) -> Coverage:
    """``known`` with the strength at which every target tensor is exercised and what is not seen at all.

    ``window`` is how many tokens the models look back, where they say so; ``cover`` says whether the probe was made
    to cover as much as it can.
    """
    reaches = {name: blank(spec.shape) for name, spec in comparison.target.specs.items()}
    progress("reading how strongly weights show")
    with np.errstate(divide="ignore", invalid="ignore"):  # a place without any noise shows everything
        add_anchors(comparison, reaches)
        add_regions(comparison, reaches, progress)
    rows, unseen = [], []
    for name in (name for name in reaches if name in mapping.entry_of_target):
        reach = reaches[name]
        values = np.asarray(comparison.rerun.tensors.read_exact(name), np.float64)
        rows.append(_row(name, mapping, reach, rms(values)))
        unseen += _unseen(name, mapping, reach)
    unseen += _beyond(window, comparison)
    return known.model_copy(update={"tensors": rows, "unseen": unseen, "proposal": propose(unseen, cover)})


def propose(unseen: Sequence[str], cover: bool) -> str | None:
    """A probe that would see more, where there is one; ``cover`` says that this one covers what it can."""
    return "probe: {tokens: cover}" if unseen and not cover else None


def _row(name: str, mapping: BoundMapping, reach: Reach, size: float) -> Exercised:
    entry = mapping.entry_of_target[name]
    seen = reach.measured & (reach.elements > 0)
    hardest = np.where(seen, reach.elements, np.inf)
    at = tuple(int(i) for i in np.unravel_index(int(np.argmin(hardest)), hardest.shape)) if seen.any() else None
    counted = int(reach.measured.sum())
    return Exercised(
        tensor=name,
        entry=entry.name,
        layer=entry.layer,
        elements=reach.elements.size,
        unseen=int(_dead(reach).sum()),
        sampled=None if counted in (0, reach.elements.size) else counted,
        element=None if at is None else float(DIVERGENT / reach.elements[at] / size),
        worst=None if at is None else list(at),
        whole=float(DIVERGENT / reach.whole) if reach.whole > 0 else None,
    )


def _dead(reach: Reach) -> Array:
    """Elements that no compared place depends on: all of them where neither those tried nor the tensor as a whole
    show."""
    silent = reach.elements <= 0
    return silent & (True if silent.all() and not reach.whole else reach.measured)


def _unseen(name: str, mapping: BoundMapping, reach: Reach) -> list[str]:
    """Lines about the elements of one tensor that no compared place depends on."""
    dead = _dead(reach)
    if not dead.any():
        return []
    if dead.all():
        return [f"{name}: no compared place depends on it"]
    stacks = {s.axis % dead.ndim: s.over for s in mapping.entry_of_target[name].stacks if s.side == "target"}
    for axis in range(dead.ndim):
        rest = tuple(a for a in range(dead.ndim) if a != axis)
        silent = np.flatnonzero(dead.all(axis=rest))
        if silent.size and silent.size * (dead.size // dead.shape[axis]) == int(dead.sum()):
            what = stacks.get(axis, f"index of axis {axis}")
            return [f"{name}: {silent.size} of {dead.shape[axis]} are never met ({what} {_few(silent)})"]
    return [f"{name}: {int(dead.sum())} of {dead.size} elements are never met"]


def _few(indices: Array) -> str:
    shown = ", ".join(map(str, indices[:_LISTED].tolist()))
    return shown + (", ..." if len(indices) > _LISTED else "")


def _beyond(window: int | None, comparison: Comparison) -> list[str]:
    """What takes more tokens than the probe has in a row."""
    ids = comparison.rerun.inputs.get("input_ids")
    if window is None or ids is None or ids.shape[1] > window:
        return []
    return [f"the sliding window of {window} tokens: {ids.shape[1]} tokens in a row never reach beyond it"]
