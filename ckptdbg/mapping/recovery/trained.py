"""Tensors of no source values, held against what they would be if they were made as others are: trained further,
quantised, or of no relation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Mapping as Dict
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.mapping.file import Mapping
from ckptdbg.mapping.recovery.explain import Likeness
from ckptdbg.mapping.recovery.hashing import pieces
from ckptdbg.mapping.tracing.families import Made
from ckptdbg.mapping.tracing.trace import mapping_text

Array = NDArray[Any]
# Values with noise of half their size still have 0.89; a wrong order of 59 million had 0.015 (TRACING notes).
RELATED = 0.5
# Two unrelated tensors of n elements have a correlation of about 1 over the root of n.
_BY_CHANCE = 5


@dataclass(frozen=True)
class Related:
    """How a tensor may have begun, and how much its values still go with that."""

    made: Made
    correlation: float
    size: int

    @property
    def close(self) -> bool:
        """Whether chance does not explain it."""
        return abs(self.correlation) > max(RELATED, _BY_CHANCE / np.sqrt(self.size))

    @property
    def words(self) -> str:
        """For people."""
        names = " and ".join(self.made.sources[:2]) + (" and others" if len(self.made.sources) > 2 else "")
        told = f"those of {names} (correlation {self.correlation:.6f})"
        if not self.close:
            return f"nor do they go with {told}: corrupt, newly initialised, or changed in a way that is not tried"
        sign = ", with the sign turned" if self.correlation < 0 else ""
        return f"but they go with {told}{sign}: trained further, or quantised"


def related(
    made: Made, specs: Dict[str, TensorSpec], read: Callable[[str], Array], spec: TensorSpec, values: Array
) -> Related:
    """Make a tensor in this way and hold ``values`` against it."""
    text = mapping_text([made], [*made.sources, made.target], (), [], "one tensor")
    bound = Mapping.loads(text).bind({}, {n: specs[n] for n in made.sources}, {made.target: spec})
    ((_, began, _),) = bound.values(read, cast=False)
    return Related(made, _correlation(began, values), values.size)


def by_name(target: str, spec: TensorSpec, specs: Dict[str, TensorSpec]) -> Iterator[Made]:
    """The source tensor with the likest name, as it is or turned, whichever fits: how a tensor may be made that has no
    siblings to tell."""
    straight = {n for n, s in specs.items() if s.shape == spec.shape}
    turned = {n for n, s in specs.items() if len(s.shape) == 2 and s.shape[::-1] == spec.shape}
    names = [n for n in specs if n in straight | turned]
    if names:
        likeness = Likeness(target, names)
        name = names[max(range(len(names)), key=likeness)]
        if name in straight:
            yield Made(target, (name,), (), ())
        if name in turned:
            yield Made(target, (name,), ({"transpose": [1, 0]},), ())


def _correlation(a: Array, b: Array) -> float:
    """0 where one of them does not vary or is not finite."""
    if not a.size:
        return 0.0
    both = np.zeros((2, 2))
    with np.errstate(all="ignore"):
        middle = [sum(float(piece.astype(np.float64).sum()) for _, piece in pieces(x)) / x.size for x in (a, b)]
        for where, piece in pieces(a):
            pair = [x.astype(np.float64).reshape(-1) - m for x, m in zip((piece, b[where]), middle, strict=True)]
            both += np.array([[x @ y for y in pair] for x in pair])
        found = float(both[0, 1] / np.sqrt(both[0, 0] * both[1, 1]))
    return found if np.isfinite(found) else 0.0
