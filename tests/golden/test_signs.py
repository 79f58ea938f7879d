"""Signs that every machine draws alike, and what projections with them see."""

import numpy as np
import pytest

from ckptdbg.golden.signs import _BLOCK, VECTORS, mix, project
from ckptdbg.golden.sketch import make_place


def mix_one(x):
    """splitmix64 in Python's own integers."""
    z = (x + 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def test_mix_is_splitmix64():
    # the published generator, seeded with 1234567
    state, expected = 1234567, [6457827717110365317, 3203168211198807973, 9817491932198370423]
    states = [(state + i * 0x9E3779B97F4A7C15) % 2**64 for i in range(3)]
    assert [mix_one(s) for s in states] == expected
    assert mix(np.array(states, np.uint64)).tolist() == expected


@pytest.mark.parametrize("stream", [0, 7, -3])
def test_signs_are_the_bits_that_are_stated(stream):
    """One feature at a time gives its signs away: they are those of the stated arithmetic, in plain integers."""
    keys = np.array([0, 5, 3 * 2**24 + 1])
    for feature in (0, 3, 4, 30):
        values = np.zeros((3, 31))
        values[:, feature] = 1
        place = mix_one((0x636B7074646267 + stream) % 2**64)
        words = [mix_one((mix_one(place ^ int(k)) + feature // 4 * 0x9E3779B97F4A7C15) % 2**64) for k in keys]
        bits = [[word >> (16 * (feature % 4) + v) & 1 for v in range(VECTORS)] for word in words]
        assert np.array_equal(project(values, keys, stream), 1 - 2 * np.array(bits))


def test_projections_do_not_depend_on_company_or_order():
    values, keys = np.random.default_rng(0).standard_normal((7, 13)), np.arange(7) * 3
    whole, order = project(values, keys, 2), np.array([4, 1, 6])
    assert np.allclose(project(values[order], keys[order], 2), whole[order], rtol=1e-12)
    assert not np.allclose(project(values, keys, 3), whole)


def test_long_rows_are_projected_in_blocks():
    values = np.zeros((1, _BLOCK + 5))
    values[0, [0, _BLOCK - 1, _BLOCK + 4]] = 1, 2, 4
    parts = [np.where(np.arange(values.shape[1]) == i, values, 0) for i in (0, _BLOCK - 1, _BLOCK + 4)]
    key = np.zeros(1, np.int64)
    assert np.allclose(project(values, key, 0), sum(project(p, key, 0) for p in parts))


def test_the_mean_square_estimates_the_length():
    values = np.random.default_rng(1).standard_normal((400, 37)) * np.arange(1, 38)
    estimated = np.square(project(values, np.arange(400), 1)).mean(1) / np.square(values).sum(1)
    assert estimated.mean() == pytest.approx(1, abs=0.06)
    assert estimated.min() > 0.1
    assert estimated.max() < 3.5


def test_signs_are_balanced_and_apart():
    one = project(np.ones((1, 1)).repeat(4000, 0), np.arange(4000), 0)
    assert np.abs(one.mean(0)).max() < 0.08
    assert np.abs(np.corrcoef(one.T) - np.eye(VECTORS)).max() < 0.08


def place_of(values, groups=32):
    values = np.asarray(values, np.float32)
    triple = (values, values.astype(np.float64), values.astype(np.float64))
    return make_place(np.arange(len(values)), triple, 0, groups)


def test_a_permutation_changes_projections_and_no_statistic():
    values = np.random.default_rng(2).standard_normal((40, 24))
    there, swapped = place_of(values), values.copy()
    swapped[:, [3, 17]] = swapped[:, [17, 3]]
    moved = place_of(swapped)
    assert moved.stats.min == there.stats.min
    assert moved.stats.mean == pytest.approx(there.stats.mean, abs=1e-12)
    apart = np.sqrt(np.square(moved.projections - there.projections).mean(1))
    assert (apart > 1e5 * there.step).all()


@pytest.mark.parametrize(("rows", "groups"), [(5, 32), (32, 32), (96, 32), (33, 32), (7, 3)])
def test_groups_are_of_neighbours_and_of_one_size(rows, groups):
    place = place_of(np.random.default_rng(3).standard_normal((rows, 6)), groups)
    sizes = np.bincount(place.groups)
    assert len(sizes) == len(place.quanta) == min(rows, groups)
    assert sizes.max() - sizes.min() <= 1
    assert (np.diff(place.groups) >= 0).all()


def test_stored_projections_are_finer_than_single_precision():
    values = np.random.default_rng(4).standard_normal((9, 300)) * 1e-5
    place = place_of(values)
    exact = project(values.astype(np.float32), place.keys, 0)
    assert np.abs(place.projections - exact).max() <= place.step.max() / 2
    assert (place.step / 2 < 2**-28 * np.abs(exact).max(1)).all()
