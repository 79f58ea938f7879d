"""Layouts by probing recover exactly the index map that was applied, or say that there is none."""

from __future__ import annotations

import numpy as np
import pytest
from einops import rearrange

from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.mapping.layout import Layout, as_matrix, read_layouts

SPECS = {
    "q": TensorSpec((12, 10), "float32"),  # 3 heads of 4, hidden 10
    "k": TensorSpec((12, 10), "float32"),
    "experts": TensorSpec((5, 6, 10), "float32"),
    "norm": TensorSpec((10,), "float32"),
}


def read(operand) -> Layout:
    return read_layouts(lambda tensor: [operand(tensor)], SPECS)[0]


def rope(w):
    return rearrange(w, "(h two d) m -> (h d two) m", two=2, h=3)


def test_a_permutation_of_rows_is_read_exactly():
    layout = read(lambda t: rope(t("q")) * 0.25)
    ordinal, rows, columns, third = layout.coordinates
    assert (ordinal.role, float(ordinal.values)) == ("constant", 0)
    assert rows.role == "feature"
    assert rows.values.tolist() == rope(np.arange(12.0)[:, None])[:, 0].tolist()
    assert columns.role == "contraction"
    assert columns.values.tolist() == list(range(10))
    assert third.role == "constant"
    assert float(layout.scale.values) == 0.25
    assert layout.tensors == (0,)
    assert not layout.mixed


def test_fused_operands_name_each_rows_tensor():
    layout = read(lambda t: np.concatenate([t("k"), t("q")]))
    assert layout.coordinates[0].role == "feature"
    assert layout.coordinates[0].values.tolist() == [1] * 12 + [0] * 12
    assert layout.tensors == (0, 1)


def test_a_slice_of_stacked_experts_keeps_its_expert():
    layout = read(lambda t: t("experts")[3].T)
    assert [c.role for c in layout.coordinates] == ["constant", "constant", "contraction", "feature"]
    assert int(layout.coordinates[1].values) == 3


def test_padding_belongs_to_no_tensor():
    layout = read(lambda t: np.pad(t("q"), [(0, 2), (0, 0)]))
    assert layout.coordinates[1].values.tolist() == [*range(12), -1, -1]
    assert layout.tensors == (0,)


def test_a_reshape_where_a_transpose_belongs_mixes_the_axes():
    layout = read(lambda t: t("q").reshape(10, 12))
    assert layout.mixed
    assert not read(lambda t: t("q").T).mixed


def test_shift_and_scale_of_a_region_parameter():
    layout = read(lambda t: as_matrix(1.0 + 2.0 * t("norm")))
    assert float(layout.shift.values) == 1.0
    assert float(layout.scale.values) == 2.0


@pytest.mark.parametrize(
    "operand",
    [
        lambda t: t("q") @ t("k").T,
        lambda t: np.abs(t("q")),
        lambda t: t("q") + t("k"),
        lambda t: t("q") / np.maximum(np.abs(t("q")).max(), 1e-9),
        lambda t: np.sort(t("q"), axis=0),
    ],
    ids=["product", "abs", "sum", "absmax scaling", "sort"],
)
def test_what_is_no_index_map_is_opaque(operand):
    layout = read(operand)
    assert layout.opaque is not None
    assert layout.tensors == ()


def test_per_row_scales_are_kept():
    factors = np.linspace(0.5, 2, 12)
    layout = read(lambda t: t("q") * factors[:, None])
    assert layout.scale.role == "feature"
    np.testing.assert_allclose(layout.scale.values, factors)


def test_random_chains_of_ops_are_recovered():
    """Any permutation of rows and of columns, with any scale: the layout predicts where every element came from."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        rows, columns, scale = rng.permutation(12), rng.permutation(10), rng.uniform(-3, 3)
        layout = read(lambda t, r=rows, c=columns, s=scale: s * t("k")[np.ix_(r, c)])
        assert layout.coordinates[1].values.tolist() == rows.tolist()
        assert layout.coordinates[2].values.tolist() == columns.tolist()
        assert float(layout.scale.values) == pytest.approx(scale, rel=1e-12)
