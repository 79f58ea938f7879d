"""Lookups, however the gather lays them out: the looked-up axis collapsed or kept, the features first or last."""

import jax
import numpy as np
import pytest
from jax import lax

from ckptdbg.models.jax_model import JaxModel
from ckptdbg.models.jax_side import JaxSide

TABLE = np.random.default_rng(0).standard_normal((7, 5)).astype(np.float32)
IDS = np.random.default_rng(1).integers(0, 7, (2, 3)).astype(np.int32)


def lookup(kept: bool, features_first: bool, slice_rows: int = 1):
    """``[batch, length]`` ids to rows of ``TABLE``, the table's vocabulary on axis ``features_first``."""
    vocabulary = int(features_first)
    sizes = [5, 5]
    sizes[vocabulary] = slice_rows
    offsets = ((0, 3) if features_first else (2, 3)) if kept else ((0,) if features_first else (2,))
    numbers = lax.GatherDimensionNumbers(
        offset_dims=offsets,
        collapsed_slice_dims=() if kept else (vocabulary,),
        start_index_map=(vocabulary,),
    )

    def apply(params, inputs):
        ids = inputs["input_ids"][..., None]
        found = lax.gather(params["table"], ids, numbers, tuple(sizes), mode="clip")
        return found.reshape(5, 2, 3, -1).transpose(1, 2, 0, 3) if features_first else found

    return JaxSide(JaxModel(apply, {"table": jax.numpy.asarray(TABLE.T if features_first else TABLE)}))


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("features_first", [False, True])
def test_a_gather_of_single_rows_is_a_lookup(kept, features_first):
    side = lookup(kept, features_first)
    (anchor,) = side.graph({"input_ids": IDS}).anchors
    assert (anchor.kind, anchor.features, anchor.contraction) == ("lookup", 5, 7)
    np.testing.assert_array_equal(side.operands({}).anchors[0], TABLE.T)
    record = side.run({"input_ids": IDS}).records[0]
    np.testing.assert_array_equal(record.rows, np.arange(6))
    np.testing.assert_array_equal(record.output, TABLE[IDS.reshape(-1)])


def test_a_gather_of_several_rows_at_once_is_listed():
    graph = lookup(True, False, slice_rows=2).graph({"input_ids": IDS})
    assert not graph.anchors
    assert [(o.parameters, o.reason) for o in graph.opaque] == [
        (("table",), "a gather from a parameter that is not of single rows")
    ]
