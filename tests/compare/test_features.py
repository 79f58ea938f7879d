"""Features pair by what made them: fused against split, tables against heads, experts stacked against separate."""

from __future__ import annotations

import numpy as np
import pytest

from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.compare.carry import carry, match_rows
from ckptdbg.compare.features import pair
from ckptdbg.mapping.layout import read_layouts
from ckptdbg.models.records import Anchor, Record

SPECS = {
    "embed": TensorSpec((9, 6), "float32"),
    "q": TensorSpec((8, 6), "float32"),
    "k": TensorSpec((4, 6), "float32"),
    "o": TensorSpec((6, 8), "float32"),
    "experts": TensorSpec((3, 5, 6), "float32"),
}
RNG = np.random.default_rng(0)
TENSORS = {name: RNG.standard_normal(spec.shape) for name, spec in SPECS.items()}


def side(*operands, kinds=None):
    """Anchors and layouts of operands given as functions of the source's tensors."""
    made = [operand(TENSORS.__getitem__) for operand in operands]
    kinds = kinds or ["contraction"] * len(made)
    anchors = [Anchor(i, kinds[i], "mm", (), m.shape[0], m.shape[1]) for i, m in enumerate(made)]
    return anchors, read_layouts(lambda t: [operand(t) for operand in operands], SPECS)


def record(operand, x, rows=None):
    return Record(np.arange(len(x)) if rows is None else rows, x, x @ operand(TENSORS.__getitem__).T)


def test_fused_and_permuted_outputs_are_carried():
    order = RNG.permutation(12)
    source = [lambda t: t("q"), lambda t: t("k")]
    target = [lambda t: np.concatenate([t("q") * 0.5, t("k")])[order]]
    pairing = pair(*side(*source), *side(*target))
    x = RNG.standard_normal((7, 6))
    found = pairing.outputs[0]
    assert found is not None
    carried = carry(found, np.arange(7), [record(s, x) for s in source], "out")
    assert carried.mask is None
    np.testing.assert_allclose(carried.values, record(target[0], x).output)
    assert pairing.inputs[0] is not None
    np.testing.assert_allclose(carry(pairing.inputs[0], np.arange(7), [record(s, x) for s in source], "in").values, x)


def test_inputs_follow_the_columns():
    order = RNG.permutation(8)
    pairing = pair(*side(lambda t: t("o")), *side(lambda t: t("o")[:, order]))
    x = RNG.standard_normal((5, 8))
    assert pairing.inputs[0] is not None
    carried = carry(pairing.inputs[0], np.arange(5), [record(lambda t: t("o"), x)], "in")
    np.testing.assert_allclose(carried.values, x[:, order])


def test_a_tied_table_pairs_by_role():
    sides = (lambda t: t("embed").T, lambda t: t("embed"))
    kinds = ["lookup", "contraction"]
    pairing = pair(*side(*sides, kinds=kinds), *side(*sides, kinds=kinds))
    assert [m.anchors for m in pairing.outputs if m] == [(0,), (1,)]
    assert pairing.inputs[0] is None
    assert pairing.inputs[1] is not None
    assert pairing.inputs[1].anchors == (1,)


def test_one_dense_einsum_against_separate_experts():
    source = [lambda t, e=e: t("experts")[e] for e in range(3)]
    target = [lambda t: t("experts").reshape(15, 6)]
    pairing = pair(*side(*source), *side(*target))
    x = RNG.standard_normal((4, 6))
    rows = [np.array([0, 2]), np.array([1]), np.array([3, 2])]
    records = [record(s, x[r], r) for s, r in zip(source, rows, strict=True)]
    assert pairing.outputs[0] is not None
    carried = carry(pairing.outputs[0], np.arange(4), records, "out")
    assert carried.mask is not None
    expected = record(target[0], x).output
    routed = np.zeros((4, 15), bool)
    for e, r in enumerate(rows):
        routed[np.ix_(r, range(5 * e, 5 * e + 5))] = True
    np.testing.assert_array_equal(carried.mask, routed)
    np.testing.assert_allclose(carried.values[routed], expected[routed])
    assert pairing.inputs[0] is not None
    np.testing.assert_allclose(carry(pairing.inputs[0], np.arange(4), records, "in").values, x)


def test_mixed_axes_and_strangers_pair_nowhere():
    pairing = pair(*side(lambda t: t("o")), *side(lambda t: t("o").reshape(8, 6), lambda t: t("q") @ t("q").T))
    assert pairing.outputs == (None, None)
    assert pairing.inputs == (None, None)


def test_partial_sums_do_not_pair():
    pairing = pair(*side(lambda t: t("o")), *side(lambda t: t("o")[:, :4], lambda t: t("o")[:, 4:]))
    assert pairing.outputs == (None, None)
    assert all(m is not None and m.paired.all() for m in pairing.inputs)


def test_the_second_use_of_an_operand_pairs_with_the_second():
    twice = (lambda t: t("q"), lambda t: t("q"))
    pairing = pair(*side(*twice), *side(*twice))
    assert [m.anchors for m in pairing.outputs if m] == [(0,), (1,)]


@pytest.mark.parametrize(
    ("target", "source", "expected"),
    [
        ([0, 1, 2], [0, 1, 2], [0, 1, 2]),
        ([2, 0, 1], [0, 1, 2], [2, 0, 1]),
        ([0, 0, 1], [1, 0, 0], [1, 2, 0]),
        ([0, -1, 5], [5, -1, 0], [2, -1, 0]),
        ([0, 1], [], [-1, -1]),
        ([0, 1, 2], [0, -1, 2], [0, -1, 2]),
    ],
)
def test_rows_match_by_token_and_occurrence(target, source, expected):
    assert match_rows(np.array(target, np.int64), np.array(source, np.int64)).tolist() == expected
