"""Whether two mappings compute the same thing, however they are written: judged by what they do to probes."""

from __future__ import annotations

from collections.abc import Mapping as Dict
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.mapping.tracing.origins import Convert, Origin, read_origins

Same = Literal["same", "values", "layout", "sources", "shape", "missing", "extra", "unread"]

NOT_RUN = "left to a function that was not run: name it as A or B"

# What each word means, for people; in the order in which a report lists them.
MEANING: dict[Same, str] = {
    "missing": "only the first makes it",
    "extra": "only the second makes it",
    "sources": "made of other source tensors",
    "shape": "of another shape",
    "layout": "of the same source tensors, its elements in other places",
    "values": "its elements in the right places, scaled, shifted or rounded otherwise",
    "unread": "not an index map in one of them: compared on random tensors only, and different there",
    "same": "the same",
}


@dataclass(frozen=True)
class Judged:
    """One target tensor under two mappings."""

    target: str
    same: Same
    detail: str = ""


@dataclass(frozen=True)
class Judgement:
    """Every target tensor, and how many of the first mapping's the second has right."""

    targets: tuple[Judged, ...]

    @property
    def differing(self) -> tuple[Judged, ...]:
        """The tensors that are not the same, worst kind first."""
        order = list(MEANING)
        return tuple(sorted((t for t in self.targets if t.same != "same"), key=lambda t: order.index(t.same)))

    def share(self, *wrong: Same) -> float:
        """Of the targets that the first mapping makes, the share that has none of these differences."""
        made = [t for t in self.targets if t.same != "extra"]
        return sum(t.same not in wrong for t in made) / len(made) if made else 1.0

    @property
    def score(self) -> dict[str, float]:
        """Shares from 0 to 1: right names, then also right layouts, then also right values."""
        names: tuple[Same, ...] = ("missing", "sources", "unread")
        layouts: tuple[Same, ...] = (*names, "shape", "layout")
        return {"names": self.share(*names), "layouts": self.share(*layouts), "values": self.share(*layouts, "values")}


def judge(
    first: Convert,
    second: Convert,
    specs: Dict[str, TensorSpec],
    unrun: Dict[str, Any] = MappingProxyType({}),
    other_unrun: Dict[str, Any] = MappingProxyType({}),
) -> Judgement:
    """Compare what two conversions do to source tensors of these shapes. ``unrun`` are targets that they leave to
    functions which are not run here: the same where both leave it to the same. Raises MappingError for one that is not
    deterministic."""
    names = list(specs)
    a, b = read_origins(first, specs).targets, read_origins(second, specs).targets
    found = [_judged(t, origin, b.get(t), names) for t, origin in a.items() if t not in other_unrun]
    left = dict.fromkeys([*unrun, *other_unrun])
    found += [Judged(t, "same" if unrun.get(t) == other_unrun.get(t) else "unread", NOT_RUN) for t in left]
    return Judgement((*found, *(Judged(t, "extra") for t in b if t not in a and t not in left)))


def _judged(target: str, a: Origin, b: Origin | None, names: list[str]) -> Judged:
    if b is None:
        return Judged(target, "missing")
    if a.sample.shape != b.sample.shape:
        return Judged(target, "shape", f"{a.sample.shape} and {b.sample.shape}")
    if a.opaque or b.opaque:
        same = _alike(a, b)
        return Judged(target, "same" if same else "unread", "" if same else a.opaque or b.opaque)
    if (a.ordinal != b.ordinal).any():
        ours, theirs = ([names[i] for i in np.unique(o.ordinal) if i >= 0] for o in (a, b))
        if ours != theirs:
            return Judged(target, "sources", f"{_listed(ours)} and {_listed(theirs)}")
        return Judged(target, "layout", "their order differs")
    moved = int((a.index != b.index).sum())
    if moved:
        return Judged(target, "layout", f"{moved} of {a.index.size} elements")
    if not (np.array_equal(a.scale, b.scale) and np.array_equal(a.shift, b.shift)):
        return Judged(target, "values", _values(a, b))
    if not _alike(a, b):
        return Judged(target, "values", "rounded otherwise")
    return Judged(target, "same")


def _alike(a: Origin, b: Origin) -> bool:
    """Whether both make the same of random tensors, up to the last bits of float32."""
    one, other = a.sample.astype(np.float64), b.sample.astype(np.float64)
    most = float(np.abs(one).max(initial=0.0))
    return bool(np.allclose(one, other, rtol=1e-6, atol=1e-6 * most if np.isfinite(most) else 0.0, equal_nan=True))


def _values(a: Origin, b: Origin) -> str:
    place = tuple(int(i) for i in np.argwhere((a.scale != b.scale) | (a.shift != b.shift))[0])
    pairs = [
        f"{what} {x[place]:.6g} and {y[place]:.6g}"
        for what, x, y in (("times", a.scale, b.scale), ("plus", a.shift, b.shift))
        if x[place] != y[place]
    ]
    return ", ".join(pairs)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
