"""Patterns of indices in place of arrays: what every op does to them is what it does to arrays."""

import math

import numpy as np
from hypothesis import given, settings
from op_chains import chains, numbered, run

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
@settings(max_examples=400, deadline=None)
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
