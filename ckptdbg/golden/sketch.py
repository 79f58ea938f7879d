"""A sketch of a source: what a comparison can do with when it has no values.

Of every place (an anchor's ``in`` or ``out``, the output) it keeps, for each token row or for each group of a few
rows, 16 random projections of the values in float64 and three sizes of its rounding noise. A permutation changes
projections though it changes no mean.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ckptdbg.compare.carry import single_keys
from ckptdbg.compare.comparison import SourceSide
from ckptdbg.compare.features import Port
from ckptdbg.compare.runs import Runs
from ckptdbg.compare.sites import aligned
from ckptdbg.compare.views import View
from ckptdbg.golden.likely import Likely, likely
from ckptdbg.golden.signs import project
from ckptdbg.models.records import Choose, Summary, Where

Array = NDArray[Any]
_BITS = 30
"""A projection is a whole number of at most so many bits, times a power of two of its row: 64 times finer than
float32, in the same space."""
GROUPS = 32
"""Into how many groups the token rows of a place go at most, unless asked otherwise. The size of a sketch is that of
its groups, whatever the length of the probe."""
Triple = tuple[Array, Array, Array]
"""A place's values in working precision, in float64 and with jittered constants, ``[rows, features]``."""


@dataclass(frozen=True)
class Place:
    """One place of the source, without its values."""

    rows: Array
    """``[rows]`` int64, flat token index of each; rows that belong to no token are left out."""
    quanta: Array
    """``[groups, 16]`` int32: projections, summed over the rows of a group, in units of ``2 ** exponents``."""
    exponents: Array
    """``[groups]`` int16"""
    sizes: Array
    """``[3, groups]`` bfloat16, L2 norms: of the rounding (working precision against float64), of what one ulp in the
    constants changes, of the values themselves."""
    features: int
    dtype: str
    """Of the values in working precision."""
    stats: Summary
    """Of the values in working precision."""
    stream: int
    """Which signs its projections were made with."""

    @property
    def keys(self) -> Array:
        """``[rows]`` int64, what names each row."""
        return single_keys(self.rows)

    @property
    def groups(self) -> Array:
        """``[rows]`` int64: the group of each row. Neighbouring tokens are together, in groups of one size."""
        rank = np.empty(len(self.rows), np.int64)
        rank[np.argsort(self.keys)] = np.arange(len(self.rows))
        return rank * len(self.quanta) // max(len(self.rows), 1)

    @property
    def step(self) -> Array:
        """``[groups]`` float64, the distance between neighbouring projections that can be stored."""
        return np.ldexp(1.0, self.exponents.astype(np.int64))

    @property
    def projections(self) -> Array:
        """``[groups, 16]`` float64."""
        return self.quanta * self.step[:, None]

    def projected(self, values: Array) -> Array:
        """``[groups, 16]`` projections of other values ``[rows, features]`` of this place."""
        return self._summed(project(values, self.keys, self.stream))

    def norms(self, values: Array) -> Array:
        """``[groups]`` L2 norms of ``[rows, features]``."""
        return np.sqrt(self._summed(np.square(values).sum(1, keepdims=True))[:, 0])

    def _summed(self, by_row: Array) -> Array:
        found = np.zeros((len(self.quanta), by_row.shape[1]))
        np.add.at(found, self.groups, by_row)
        return found


@dataclass(frozen=True)
class Sketch:
    """Everything that is kept of a source."""

    view: View
    inputs: dict[str, Array]
    config: dict[str, Any]
    """The source's ``config.json``."""
    places: tuple[Place, ...]
    """Each once: what several anchors read is one place."""
    ports: tuple[tuple[int | None, int | None], ...]
    """Of every anchor, the places of its ``in`` and its ``out``; None for a lookup's ``in`` and where no token came."""
    output: int
    """The place of the model's output."""
    output_shape: tuple[int, ...]
    likely: Likely | None
    """The largest logits of every token, where the output is ``[batch, length, features]``."""
    choices: tuple[Choose, ...]
    """What routers chose, in working precision."""
    margins: tuple[Array, ...]
    """Of every choice its margins in float64."""
    padded: Array
    """Flat indices of the tokens that the attention mask leaves out."""
    tensors: dict[str, Place]
    """Of every source tensor one row of projections: 16 numbers cannot give it back, but tell whether another is the
    same."""
    environment: dict[str, Any]
    """Versions of what the source ran with."""

    def place(self, anchor: int, port: Port) -> Place | None:
        """The place of one port of an anchor; None where there is nothing to compare."""
        index = self.ports[anchor][port == "out"]
        return None if index is None else self.places[index]


class _Places:
    """Places as they are gathered: the same values are kept once."""

    def __init__(self, groups: int) -> None:
        self.groups = groups
        self.found: list[Place] = []
        self._seen: dict[bytes, int] = {}

    def add(self, rows: Array, values: Triple) -> int | None:
        """The number of the place with these values; None where no row belongs to a token."""
        real = rows >= 0
        if not real.any() or not values[0].shape[1]:
            return None
        working, promoted, jittered = kept = [np.ascontiguousarray(v[real]) for v in values]
        digest = hashlib.blake2b(rows[real].tobytes())
        for array in kept:
            digest.update(f"{array.dtype} {array.shape}".encode())
            digest.update(array.tobytes())
        number = self._seen.setdefault(digest.digest(), len(self.found))
        if number == len(self.found):
            self.found.append(make_place(rows[real], (working, promoted, jittered), number, self.groups))
        return number


def make_sketch(
    source: SourceSide,
    inputs: Mapping[str, Array],
    config: dict[str, Any],
    tensors: Iterator[tuple[str, Array]],
    environment: dict[str, Any],
    groups: int = GROUPS,
) -> Sketch:
    """The sketch of a source that was run. ``tensors`` are its tensors with their names, one at a time; ``groups`` is
    how many groups the token rows of a place go into at most."""
    free, places = source.runs.free, _Places(groups)
    ports = tuple(
        (_port(places, free, i, "in"), _port(places, free, i, "out")) for i in range(len(free.working.records))
    )
    tokens = np.arange(len(free.working.output))
    tokens = np.where(np.isin(tokens, source.runs.padded), -1, tokens)
    output = places.add(tokens, (free.working.output, free.promoted.output, free.jittered.output))
    assert output is not None, "a source without a real token is refused before it is sketched"
    shape = free.working.output_shape
    return Sketch(
        view=_without_files(source.view),
        inputs=dict(inputs),
        config=config,
        places=tuple(places.found),
        ports=ports,
        output=output,
        output_shape=shape,
        likely=likely(free.working.output) if len(shape) == 3 else None,
        choices=free.working.choices,
        margins=tuple(c.margin for c in free.promoted.choices),
        padded=source.runs.padded,
        tensors={name: sketch_tensor(value, i) for i, (name, value) in enumerate(tensors)},
        environment=environment,
    )


def _without_files(view: View) -> View:
    """Module paths stay; where a library is installed on the machine of the source is nobody's business."""

    def bare(nodes: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(replace(node, where=Where(node.where.scope)) for node in nodes)

    names = ("anchors", "meetings", "choices", "casts", "opaque")
    return replace(view, graph=replace(view.graph, **{name: bare(getattr(view.graph, name)) for name in names}))


def sketch_tensor(value: Array, ordinal: int) -> Place:
    """One row of projections of a whole tensor. ``ordinal`` chooses the signs, apart from those of all places."""
    flat = np.asarray(value, np.float64).reshape(1, -1)
    return make_place(np.zeros(1, np.int64), (flat, flat, flat), -1 - ordinal, 1)


def make_place(rows: Array, values: Triple, stream: int, groups: int) -> Place:
    """A place from its values; all ``rows`` belong to tokens."""
    working, promoted, jittered = (np.asarray(v, np.float64) for v in values)
    count = min(groups, len(rows))
    empty = np.zeros((count, 0))
    place = Place(
        np.asarray(rows, np.int64),
        empty,
        empty,
        empty,
        working.shape[1],
        values[0].dtype.name,
        _summary(working),
        stream,
    )
    quanta, exponents = _quantise(place.projected(promoted))
    sizes = np.stack([place.norms(v) for v in (working - promoted, jittered - promoted, working)])
    return replace(place, quanta=quanta, exponents=exponents, sizes=sizes.astype(ml_dtypes.bfloat16))


def _quantise(projections: Array) -> tuple[Array, Array]:
    _, exponents = np.frexp(np.abs(projections).max(1))
    exponents = exponents - _BITS
    return np.rint(np.ldexp(projections, -exponents[:, None])).astype(np.int32), exponents.astype(np.int16)


def _summary(values: Array) -> Summary:
    return Summary(float(values.mean()), float(values.std()), float(values.min()), float(values.max()), 0)


def _port(places: _Places, runs: Runs, anchor: int, port: Port) -> int | None:
    record = runs.working.records[anchor]
    if not record.output.size or (port == "in" and record.input is None):
        return None
    traces = (runs.working, runs.promoted, runs.jittered)
    first, second, third = (aligned(trace.records[anchor], record.rows, port) for trace in traces)
    return places.add(record.rows, (first, second, third))
