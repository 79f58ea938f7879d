"""What a conversion does to the values: found on random tensors, down to the last bit.

A candidate is a list of value ops. It holds where the mapping's own arithmetic (float32, each op rounded, cast at the
end) gives every element of the sample exactly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.mapping.expressions import Expression, Scope
from ckptdbg.mapping.ops import Add, Cast, Divide, Op, Scale

Array = NDArray[Any]
# The estimate of a factor is as good as the lowest precision on its way: 8 bits of bfloat16, 3 of float8.
_NEAR = 2.0**-7
_LOW = ("bfloat16", "float16")
_SAMPLED = 4096
# Float8 has fewer values than this, and is this coarse.
_FEW, _COARSE = 2**8, 0.3


@dataclass(frozen=True)
class Values:
    """Value ops as they stand in a mapping file, and whether they give every bit."""

    ops: tuple[dict[str, Any], ...]
    exact: bool = True


def value_ops(
    before: Array, after: Array, scale: float, shift: float, numbers: Mapping[str, float], dtype: np.dtype
) -> Values:
    """The ops that make ``after`` (as the function returned it) of ``before`` (the source values in float64, stored as
    ``dtype``), flat, element by element; ``numbers`` are the config's, tried as factors by name."""
    wide = np.float64 if dtype == np.float64 else np.float32
    given = before.astype(wide)
    wanted = after.astype(wide) if after.dtype == np.float64 else after
    some = (
        np.linspace(0, given.size - 1, min(given.size, _SAMPLED)).astype(np.int64)
        if given.size
        else np.zeros(0, np.int64)
    )
    for ops, written in candidates(scale, shift, numbers):
        if _gives(ops, given[some], wanted[some]) and _gives(ops, given, wanted):
            return Values(with_cast(written, wanted.dtype, dtype))
    written = [*([{"scale": scale}] if scale != 1 else []), *([{"add": shift}] if shift else [])]
    return Values(with_cast(written, wanted.dtype, dtype), exact=False)


def nearly(before: Array, after: Array) -> bool:
    """Whether ``after`` is ``before`` up to a few roundings of each element by itself: of bfloat16 at most, or of
    float8, which leaves few values of many. What another tensor adds to it is of a size of its own."""
    size, error = np.abs(before), np.abs(after - before)
    if np.unique(after).size <= min(_FEW, np.unique(before).size // 2):
        return bool((error <= _COARSE * size + 1e-2 * size.max(initial=0.0)).all())
    return bool((error <= _NEAR * size + 1e-6 * size.max(initial=0.0)).all())


def _gives(ops: list[Op], given: Array, wanted: Array) -> bool:
    values = [given]
    with np.errstate(all="ignore"):
        for op in ops:
            values = op.apply(values)
        return values[0].astype(wanted.dtype).tobytes() == wanted.tobytes() or bool(
            np.array_equal(values[0].astype(wanted.dtype), wanted)
        )


def candidates(
    scale: float, shift: float, numbers: Mapping[str, float]
) -> Iterator[tuple[list[Op], list[dict[str, Any]]]]:
    """Plainest first; every one also with its input, or what is between, rounded to a lower dtype."""
    added = [] if not shift else [{"add": shift}]
    factors = [[]] if scale == 1 else [[written] for written in _factors(scale, numbers)]
    for low in ([], *([{"cast": name}] for name in _LOW)):
        for factor in factors:
            for written in dict.fromkeys(map(_frozen, ([*low, *factor, *added], [*factor, *low, *added]))):
                yield [_op(dict(item), numbers) for item in written], [dict(item) for item in written]


def _frozen(ops: list[dict[str, Any]]) -> tuple[tuple[tuple[str, Any], ...], ...]:
    return tuple(tuple(op.items()) for op in ops)


def _factors(scale: float, numbers: Mapping[str, float]) -> Iterator[dict[str, Any]]:
    """Ways to write a factor near ``scale``: as powers of the config's numbers, or of whole numbers, then as it is."""
    near = {t: (v, inverse) for t, v, inverse in _powers(scale, numbers) if abs(v / scale - 1) < _NEAR}
    for text in near:
        yield {"scale": int(text) if text.isdigit() else text}
    yield {"scale": scale}
    for text, (_, inverse) in near.items():
        yield {"divide": inverse}
        yield {"scale": text, "dtype": "float64"}
        yield {"scale": text, "dtype": "bfloat16"}
    yield {"divide": float(np.float32(1 / scale))}


def _powers(scale: float, numbers: Mapping[str, float]) -> Iterator[tuple[str, float, str]]:
    """Expressions, their values, and their inverses as expressions. A number that two names share stands for itself,
    as nothing tells which is meant. Numbers of things (``num_layers``) scale nothing."""
    counts = Counter(numbers.values())
    found = {
        name: value
        for name, value in numbers.items()
        if not name.rpartition(".")[2].startswith(("num_", "n_", "max_", "vocab")) and counts[value] == 1
    }
    shared = {value for value in numbers.values() if counts[value] > 1}
    likely = {round(scale), round(scale**2), round(1 / scale), round(1 / scale**2)} if abs(scale) > 1e-6 else set()
    found |= {str(int(n)): n for n in sorted({n for n in likely if 1 < n < 2**24} | shared)}
    for text, n in found.items():
        yield text, float(n), f"1 / {text}"
        yield f"{text} ** 0.5", n**0.5, f"{text} ** -0.5"
        yield f"{text} ** -0.5", n**-0.5, f"{text} ** 0.5"
        yield f"1 / {text}", 1 / n, text


def _op(written: dict[str, Any], numbers: Mapping[str, float]) -> Op:
    kind, value = next(iter(written.items()))
    if isinstance(value, str) and kind in ("scale", "divide"):
        value = Expression(value, "").value(Scope(numbers))
    return {"add": Add, "cast": Cast, "scale": Scale, "divide": Divide}[kind](
        value, **{k: v for k, v in written.items() if k != kind}
    )


def with_cast(written: Sequence[dict[str, Any]], out: np.dtype, source: np.dtype) -> tuple[dict[str, Any], ...]:
    """Value ops, and the rounding of the result as an op of its own: the target may store more than that."""
    rounded = out.itemsize < min(source.itemsize, 4)
    return tuple([*written, {"cast": out.name}] if rounded else written)
