"""Patterns of indices in place of arrays: what every op does to them is what it does to arrays."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from op_chains import chains, numbered, run

from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.mapping import BoundEntry, BoundMapping, Mapping
from ckptdbg.mapping.grids import judge_bound
from ckptdbg.mapping.grids.apply import applied
from ckptdbg.mapping.grids.grid import Grid


def as_array(grid, sources):
    """The array that a grid stands for."""
    out = np.full(grid.shape, np.nan)
    for piece in grid.pieces:
        for index in np.ndindex(*piece.lengths):
            at, coordinates = [], list(piece.base)
            for i, start, digits in zip(index, piece.start, piece.digits, strict=True):
                at.append(start + i)
                for digit in reversed(digits):
                    i, step = divmod(i, digit.size)
                    if digit.axis >= 0:
                        coordinates[digit.axis] += step * digit.stride
            value = sources[piece.source][tuple(coordinates)] if piece.source else piece.constant
            assert np.isnan(out[tuple(at)]), "two pieces lie over each other"
            out[tuple(at)] = run(piece.values, [np.array(value)])[0]
    return out


@given(chains(most=6))
@settings(max_examples=200, deadline=None)
def test_a_chain_of_ops_does_to_grids_what_it_does_to_arrays(chain):
    shapes, ops = chain
    arrays = numbered(shapes)
    grids = [Grid.of(str(i), shape) for i, shape in enumerate(shapes)]
    for op in ops:
        grids = applied(op, grids)
    wanted = run(ops, arrays)
    sources = {str(i): array for i, array in enumerate(arrays)}
    assert len(grids) == len(wanted)
    for grid, array in zip(grids, wanted, strict=True):
        assert grid.shape == array.shape
        assert math.prod(grid.shape) == sum(math.prod(piece.lengths) for piece in grid.pieces)
        np.testing.assert_array_equal(as_array(grid, sources), array)


def specs(**shapes):
    return {name: TensorSpec(shape, "float32") for name, shape in shapes.items()}


def bound(*ops, source, target):
    entries = [{"source": list(source), "target": list(target), "ops": list(ops)}]
    return Mapping.from_dict({"version": 1, "entries": entries}).bind({}, source, target)


BIG = specs(q=(4096, 14336), k=(4096, 14336))
MADE = specs(t=(2, 14336, 32, 128))
RIGHT = [{"rearrange": "two (h d) m -> two m h d", "h": 32}, {"scale": 0.5}]
SAME = [{"stack": 0}, {"transpose": [0, 2, 1]}, {"reshape": [2, 14336, 32, 128]}, {"divide": 2}]
WRONG = {
    "layout": [{"rearrange": "two (d h) m -> two m h d", "h": 32}, {"scale": 0.5}],
    "values": [{"rearrange": "two (h d) m -> two m h d", "h": 32}, {"scale": 0.25}],
}


def test_mappings_of_large_tensors_are_compared_without_making_them():
    first = bound(*RIGHT, source=BIG, target=MADE)
    assert judge_bound(first, bound(*SAME, source=BIG, target=MADE)).differing == ()
    for kind, ops in WRONG.items():
        assert [t.same for t in judge_bound(first, bound(*ops, source=BIG, target=MADE)).differing] == [kind]
    turned = {name: BIG[name] for name in ("k", "q")}
    assert [t.same for t in judge_bound(first, bound(*RIGHT, source=turned, target=MADE)).differing] == ["layout"]


@pytest.mark.parametrize("start", [0, 1])
def test_one_row_that_is_out_of_place_is_seen(start):
    """Pieces that end elsewhere are cut until they lie over the same boxes."""
    source, target = specs(a=(100_000, 7)), specs(t=(99_998, 7))
    plain = bound({"slice": 0, "start": 1, "stop": 99_999}, source=source, target=target)
    parts = [
        {"split": 0, "sizes": [start, 60_000, 40_000 - start]},
        {"concat": 0},
        {"slice": 0, "start": 1, "stop": 99_999},
    ]
    assert judge_bound(plain, bound(*parts, source=source, target=target)).differing == ()
    moved = [{"slice": 0, "start": 2, "stop": 100_000}]
    assert [t.same for t in judge_bound(plain, bound(*moved, source=source, target=target)).differing] == ["layout"]


def test_what_would_take_too_many_pieces_is_said_not_guessed():
    source, target = specs(a=(30_000, 3), b=(30_000, 3)), specs(t=(180_000,))
    ops = [{"concat": 1}, {"rearrange": "a b -> (a b)"}]
    (judged,) = judge_bound(*[bound(*ops, source=source, target=target)] * 2).targets
    assert judged.same == "unread"
    assert "30000 rows" in judged.detail


@given(chains(most=4), chains(most=4))
@settings(max_examples=100, deadline=None)
def test_patterns_say_what_probes_say(first, second):
    """Two chains from the same sources: the same verdict as running them on arrays."""
    (shapes, ops), (others, more) = first, second
    if shapes != others:
        more = ops[:-1]
    arrays = numbered(shapes)
    one, other = run(ops, arrays), run(more, arrays)
    same = len(one) == len(other) and all(
        a.shape == b.shape and np.array_equal(a, b) for a, b in zip(one, other, strict=True)
    )
    names = {str(i): TensorSpec(shape, "float64") for i, shape in enumerate(shapes)}
    made = []
    for chain, results in ((ops, one), (more, other)):
        targets = {f"t{i}": TensorSpec(array.shape, "float64") for i, array in enumerate(results)}
        specs_ = tuple(names.values()), tuple(targets.values())
        entry = BoundEntry("e", "f", 1, None, tuple(names), tuple(targets), (None,), (None,), tuple(chain), (), *specs_)
        made.append(BoundMapping((entry,)))
    kinds = {t.same for t in judge_bound(*made).targets}
    if same:
        assert kinds <= {"same", "values"}  # a cast or a factor that happens to change none of these numbers
    else:
        assert kinds != {"same"} or _up_to_rounding(one, other)


def _up_to_rounding(one, other):
    return all(np.allclose(a, b, rtol=1e-6) for a, b in zip(one, other, strict=True))
