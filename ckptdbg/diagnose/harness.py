"""The harness is checked before the models: the same inputs on both sides, and runs that repeat exactly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.compare.comparison import SourceSide
from ckptdbg.errors import CheckpointError, HarnessError
from ckptdbg.models.records import Side

Array = NDArray[Any]

_LOST = 0.5
"""Relative to the value. Rounding stays far below, in bfloat16 too; a value that overflowed is at 1 or beyond."""


def check_inputs(inputs: Mapping[str, Array], sides: Mapping[str, Side]) -> None:
    """Raise HarnessError where one side would silently run without an input that matters to the other."""
    for name, side in sides.items():
        for omitted in getattr(side, "omitted_inputs", ()):
            values = np.asarray(inputs[omitted])
            if not _is_default(omitted, values):
                raise HarnessError(
                    f"the {name} does not accept the input {omitted!r}, and its values matter",
                    found=f"{omitted} with {len(np.unique(values))} different values",
                    hint=f"name the {name}'s own argument with `inputs:` in the config, or use a probe without padding",
                )


def without_nan(name: str, value: Array) -> Array:
    """A source tensor in float64. Raises CheckpointError where it holds NaN: nothing could be right against that.

    Infinite values pass: attention masks kept as buffers have them.
    """
    value = np.asarray(value, np.float64)
    bad = np.isnan(value)
    if bad.any():
        first = [int(i) for i in np.argwhere(bad)[0]]
        raise CheckpointError(
            f"the source tensor {name} holds NaN, so nothing can be compared with it",
            found=f"{int(bad.sum())} of {bad.size} elements, the first at {first}",
            expected="numbers",
            hint="restore the source; `ckptdbg inspect CHECKPOINT --stats` counts such elements in every tensor",
        )
    return value


def check_repeatable(side: Side, inputs: Mapping[str, Array], name: str) -> None:
    """Raise HarnessError where two runs of one side differ: dropout left on, or unseeded randomness."""
    first, second = (side.run(inputs).output for _ in range(2))
    if not np.array_equal(first, second, equal_nan=True):
        worst = float(np.nanmax(np.abs(np.asarray(first, np.float64) - np.asarray(second, np.float64))))
        raise HarnessError(
            f"the {name} gives another output each time it is run on the same input",
            found=f"a difference of {worst:.3g}",
            expected="two identical runs",
            hint="switch dropout and other randomness off in the loader (eval mode, deterministic=True)",
        )


def check_source(source: SourceSide, weights: Mapping[str, Array]) -> None:
    """Raise HarnessError where the source's own run means nothing: NaN or infinite values, or an output that has
    nothing in common with the same run in float64 (something overflowed on the way and came out as zero).

    ``weights`` are its parameters, to be named where they are infinite themselves. Padded tokens may hold anything.
    """
    for place, working, _ in _ports(source):
        bad = ~np.isfinite(working)
        if bad.any():
            raise _meaningless(
                place,
                "the source itself gives NaN or infinite values",
                f"{int(bad.sum())} of {bad.size} values{_infinite(weights)}",
            )
    apart = [(place, _apart(working, promoted)) for place, working, promoted in _ports(source)]
    if apart[-1][1] > _LOST:
        place, by = next((place, by) for place, by in apart if by > _LOST)
        raise _meaningless(
            place, "the source run in float64 gives something else altogether", f"a relative difference of {by:.3g}"
        )


def _ports(source: SourceSide) -> Iterator[tuple[str, Array, Array]]:
    """Every place in execution order, the output last: its name, and its values in working precision and in float64."""
    free = source.runs.free
    for anchor, working, promoted in zip(
        source.view.graph.anchors, free.working.records, free.promoted.records, strict=True
    ):
        for port, own, exact in (
            ("in", working.input, promoted.input),
            ("out", working.output, promoted.output),
        ):
            if own is not None and exact is not None and own.shape == exact.shape:
                real = working.rows >= 0
                yield f"{' + '.join(anchor.parameters)} ({port})", np.asarray(own[real], np.float64), exact[real]
    real = ~np.isin(np.arange(len(free.working.output)), source.runs.padded)
    yield "output", np.asarray(free.working.output[real], np.float64), free.promoted.output[real]


def _apart(working: Array, promoted: Array) -> float:
    size = float(np.linalg.norm(promoted))
    return float(np.linalg.norm(np.asarray(working, np.float64) - promoted)) / size if size else 0.0


def _meaningless(place: str, problem: str, found: str) -> HarnessError:
    return HarnessError(
        f"{problem}, so nothing can be compared with it",
        where=f"source, {place}",
        found=found,
        hint="set a wider `precision:` in the config, or look at its weights with `ckptdbg inspect CHECKPOINT --stats`",
    )


def _infinite(weights: Mapping[str, Array]) -> str:
    names = [name for name, value in weights.items() if not np.isfinite(value).all()]
    return f"; infinite in the checkpoint: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}" if names else ""


def _is_default(name: str, values: Array) -> bool:
    """Whether a model that is not given this input behaves as if it were: a mask of ones, positions counted from 0."""
    if name == "attention_mask":
        return bool((values == 1).all())
    if name == "position_ids":
        return bool((values == np.arange(values.shape[-1])).all())
    return bool((values == 0).all())
