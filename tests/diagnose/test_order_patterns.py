"""Whatever factors of a tensor's axes changed places, the phrase that people read says exactly how."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from itertools import combinations, pairwise, permutations, product

import einops
import numpy as np
import pytest
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st

from ckptdbg.diagnose import order
from ckptdbg.diagnose.elements import wrong_elements
from ckptdbg.diagnose.order import order_of
from ckptdbg.diagnose.resemblance import how

QUICK = settings(max_examples=100, deadline=None)


def _sizes(least: int) -> list[tuple[int, ...]]:
    lists = (sizes for factors in range(2, 6) for sizes in product((2, 3, 4, 5), repeat=factors))
    return [sizes for sizes in lists if least <= math.prod(sizes) <= 1000]


def _axes(sizes: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Every shape of up to three axes that these factors make up in this order, one axis of several among them."""
    inner = range(1, len(sizes))
    ends = [(0, *cut, len(sizes)) for axes in (1, 2, 3) for cut in combinations(inner, axes - 1)]
    several = [at for at in ends if max(np.diff(at)) > 1]
    return [tuple(math.prod(sizes[a:b]) for a, b in pairwise(at)) for at in several]


@st.composite
def moved(draw: Callable, least: int = 4) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """A shape, its factors, and another order of these in which neighbours still make up the same shape.

    Made, not drawn and thrown away: two factors of one axis can always change places.
    """
    sizes = draw(st.sampled_from(_sizes(least)))
    shape = draw(st.sampled_from(_axes(sizes)))
    fitting = [turned for turned in permutations(range(len(sizes))) if _fit(sizes, turned, shape)]
    return shape, sizes, draw(st.sampled_from(fitting[1:]))


def _fit(sizes: tuple[int, ...], turned: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    ends = np.cumprod([sizes[i] for i in turned]).tolist()
    return set(np.cumprod(shape).tolist()) <= set(ends)


def _due_and_found(
    shape: tuple[int, ...], sizes: tuple[int, ...], turned: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    due = np.random.default_rng(0).permutation(math.prod(shape)).astype(np.float64).reshape(shape) + 1
    return due, due.reshape(sizes).transpose(turned).reshape(shape)


def said(phrase: str | None, due: np.ndarray) -> np.ndarray:
    """What the words make of the tensor that is due."""
    assert phrase is not None
    if pattern := re.fullmatch(r'permuted: "(.*)" \((.*)\) of what the mapping makes', phrase):
        sizes = {name: int(size) for name, size in re.findall(r"(\w) (\d+)", pattern[2])}
        return einops.rearrange(due, pattern[1], **sizes)
    if pattern := re.fullmatch(r'permuted: "(.*)" \((.*)\) of all its elements in a row, as by a reshape .*', phrase):
        sizes = {name: int(size) for name, size in re.findall(r"(\w) (\d+)", pattern[2])}
        return einops.rearrange(due.reshape(-1), pattern[1], **sizes).reshape(due.shape)
    if pattern := re.fullmatch(r"index (\d+) and index (\d+) of axis (\d+) are exchanged", phrase):
        first, second, axis = map(int, pattern.groups())
        places = np.arange(due.shape[axis])
        places[[first, second]] = second, first
        return due.take(places, axis)
    if pattern := re.fullmatch(r"axis (\d+) is rolled by ([+-]\d+)", phrase):
        return np.roll(due, int(pattern[2]), int(pattern[1]))
    raise AssertionError(f"not a phrase that says how: {phrase}")


@QUICK
@given(moved())
def test_the_phrase_says_how(case: tuple) -> None:
    due, found = _due_and_found(*case)
    phrase = order_of(due, found, {})
    event(str(phrase).split()[0])
    np.testing.assert_array_equal(said(phrase, due), found)


@QUICK
@given(st.integers(2, 6), st.integers(2, 6))
def test_a_transposed_square_is_called_so_and_a_reshape_by_its_pattern(columns: int, times: int) -> None:
    square = np.random.default_rng(columns).normal(size=(columns, columns))
    assert "transpose" in _how(square, np.ascontiguousarray(square.T))
    due = np.random.default_rng(times).normal(size=(times * columns, columns))
    found = due.T.reshape(due.shape)  # a reshape where a transpose belongs
    np.testing.assert_array_equal(said(_how(due, found), due), found)


@QUICK
@given(st.sampled_from([(7, 5), (3, 5, 4), (12, 70), (11, 13), (2, 3, 5, 7)]), st.data())
def test_a_reshape_where_a_transpose_belongs_is_told_for_any_shape(shape: tuple[int, ...], data: st.DataObject) -> None:
    """A file written from an array's memory, in whatever order it lay there."""
    due = np.random.default_rng(1).permutation(math.prod(shape)).astype(np.float64).reshape(shape) + 1
    turned = data.draw(st.permutations(range(len(shape))))
    found = due.transpose(turned).reshape(shape)
    assume(not np.array_equal(due, found))
    np.testing.assert_array_equal(said(_how(due, found), due), found)


@QUICK
@given(moved(least=60), st.integers(1, 4), st.integers(0, 2**31))
def test_the_phrase_says_how_though_some_values_are_equal(case: tuple, equal: int, seed: int) -> None:
    due, _ = _due_and_found(*case)
    draw = np.random.default_rng(seed)
    due.reshape(-1)[draw.choice(np.arange(8, due.size), 2 * equal, replace=False)] = np.repeat(due.max(), 2 * equal)
    shape, sizes, turned = case
    found = due.reshape(sizes).transpose(turned).reshape(shape)
    assume(not np.array_equal(due, found))
    phrase = order_of(due, found, {})
    assume("another order" not in str(phrase))  # too few of a factor are told apart
    np.testing.assert_array_equal(said(phrase, due), found)


def test_equal_values_in_a_large_matrix_hide_no_order() -> None:
    due = np.random.default_rng(0).normal(size=(512, 6, 8)).astype(np.float32).astype(np.float64)
    due.reshape(-1)[1000:20000:1000] = due.reshape(-1)[7]
    found = due.reshape(4, 128, 48).transpose(1, 0, 2).reshape(due.shape)
    assert order_of(due, found, {}) is not None
    np.testing.assert_array_equal(said(order_of(due, found, {}), due), found)


def _how(due: np.ndarray, found: np.ndarray) -> str:
    return how(due, found, wrong_elements(due, found, "float64"), "float64", {}, {})


@QUICK
@given(st.integers(2, 5), st.integers(2, 4), st.integers(1, 6))
def test_no_pattern_is_invented_for_another_order(heads: int, dim: int, columns: int) -> None:
    due = np.random.default_rng(heads).normal(size=(heads * dim * 2, columns))
    rows = np.random.default_rng(dim).permutation(len(due))
    phrase = order_of(due, due[rows], {})
    if phrase is not None and phrase.startswith("permuted"):
        np.testing.assert_array_equal(said(phrase, due), due[rows])


def test_a_wrong_pattern_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    case = (24, 5), (3, 2, 4, 5), (0, 2, 1, 3)
    due, found = _due_and_found(*case)
    np.testing.assert_array_equal(said(order_of(due, found, {}), due), found)
    true = order._digits
    monkeypatch.setattr(order, "_digits", lambda taken: (true(taken) or [])[::-1])
    with pytest.raises((AssertionError, IndexError)):
        np.testing.assert_array_equal(said(order_of(due, found, {}), due), found)
