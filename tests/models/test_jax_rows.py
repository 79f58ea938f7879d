"""Every row of every anchor belongs to its token, however the attention moves its features about."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax_decoders as d
import numpy as np
import pytest

from ckptdbg.models.jax_model import JaxModel
from ckptdbg.models.jax_side import JaxSide, row_moves


def _linen() -> Any:
    return d.GroupedDecoder(), d.linen(scan=True)[1]


MODELS = {
    "function": lambda: JaxModel(d.grouped_unrolled, d.random_params()),
    "function-scan": lambda: JaxModel(d.grouped_scanned, d.random_params(stacked=True)),
    "function-scan-cond": lambda: JaxModel(partial(d.grouped_scanned, chosen=True), d.random_params(stacked=True)),
    "linen-scan": _linen,
}
TOKENS = np.arange(d.BATCH * d.LENGTH)


@pytest.fixture(params=list(MODELS))
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def _output_rows(side: JaxSide, **run: Any) -> list[np.ndarray]:
    """Of the output projections of attention; in a branch that is not taken there is no token."""
    graph, trace = side.graph(d.padded_ids()), side.run(d.padded_ids(), **run)
    found = [r for a, r in zip(graph.anchors, trace.records, strict=True) if a.parameters[0].endswith("o")]
    return [r.rows for r in found if r.output.any()]


def test_every_row_has_its_token(kind: str) -> None:
    """Whether the model is compiled whole (as it is) or run equation by equation (promoted)."""
    side = JaxSide(MODELS[kind]())
    whole, promoted = side.run(d.padded_ids()), side.run(d.padded_ids(), promoted=True)
    for trace in (whole, promoted):
        for record in trace.records:
            if record.output.any():
                np.testing.assert_array_equal(record.rows, TOKENS)
    assert len(_output_rows(side)) == d.LAYERS
    expected = jax.jit(d.grouped_unrolled)(d.random_params(), d.padded_ids())
    for trace in (whole, promoted):
        np.testing.assert_allclose(trace.output.reshape(expected.shape), expected, rtol=1e-4, atol=1e-5)


def test_stacked_features_whose_tokens_are_not_known_to_be_equal_are_not_trusted(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_moves, "same", lambda a, b: False)
    side = JaxSide(MODELS[kind]())
    for rows in (*_output_rows(side), *_output_rows(side, promoted=True)):
        assert (rows == -1).all()
