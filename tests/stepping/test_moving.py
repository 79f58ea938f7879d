"""The cursor: step, next, back, continue, where, show."""

from __future__ import annotations

import numpy as np
import pytest

from ckptdbg.errors import CkptdbgError
from ckptdbg.samples.build import build_sample
from ckptdbg.session import open_session
from ckptdbg.stepping.stepper import Stepper


def test_the_stops_are_the_rows_of_the_result(on_jax, jax_stepper):
    rows = on_jax.compare(repair=False).sites
    assert [stop.row for stop in jax_stepper.stops] == rows
    assert {stop.row.port for stop in jax_stepper.stops} == {"in", "out", "block", "output"}


def test_step_and_back_visit_every_site_in_order(torch_stepper):
    assert torch_stepper.where().order == 0
    orders = [torch_stepper.step().order for _ in torch_stepper.stops]
    assert orders == list(range(len(orders)))
    assert torch_stepper.step().note == "this is the last site"
    assert [torch_stepper.back().order for _ in orders[1:]] == orders[-2::-1]
    assert torch_stepper.back().note == "this is the first site"


def test_next_goes_from_layer_to_layer(torch_stepper):
    found = [torch_stepper.next() for _ in range(4)]
    assert [position.layer for position in found] == [None, "0", "1", None]
    assert found[1].name == "layers.0.attention.wqkv.weight in"
    assert torch_stepper.next().note == "there is no layer after this"


def test_continue_stops_where_a_fault_was_planted_and_nowhere_else(jax_stepper):
    found = [jax_stepper.continue_() for _ in range(5)]
    assert [(p.layer, p.name.rpartition("/layers_")[2]) for p in found[:4]] == [
        ("0", "0/self_attention/out/kernel in"),
        ("1", "1/self_attention/out/kernel in"),
        ("1", "1/mlp/wi_0/kernel out"),
        ("1", "1/mlp/wi_1/kernel out"),
    ]
    assert found[0].state == "the models first part here; this piece diverges on the source's own values"
    assert found[1].state == "this piece diverges on the source's own values"
    assert (found[4].name, found[4].note) == ("output", "no divergence lies ahead")


def test_continue_runs_through_a_healthy_conversion(tmp_path):
    session = open_session(build_sample(tmp_path, "llama_to_torch", num_hidden_layers=2))
    position = session.cont()
    assert (position.name, position.state, position.note) == ("output", "at noise", "no divergence lies ahead")


def test_where_names_entry_code_and_region(jax_stepper):
    position = jax_stepper.continue_()
    assert position.entry is not None
    assert position.entry.name == "attention.out"
    assert (position.entry.file or "").endswith("llama_to_nnx.yaml")
    source, target = position.code
    assert any("self.o_proj(attn_output)" in text for n, text in source.lines if n == source.where.line)
    assert any("jnp.tensordot" in text for n, text in target.lines if n == target.where.line)
    assert position.region is not None
    assert {entry.name for entry in position.region.entries} == {"attention.query", "attention.key", "attention.value"}
    text = str(position)
    assert text.startswith("[8 of 34]  layer 0  decoder/layers_0/self_attention/out/kernel in\n")
    assert f">   {source.where.line}" in text
    assert f"self_attn.o_proj transformers/models/llama/modeling_llama.py:{source.where.line}\n" in text


def test_goto_takes_the_order_of_a_row(torch_stepper):
    assert torch_stepper.goto(5).order == 5
    with pytest.raises(CkptdbgError, match="no such site; found 99; expected 0 to 21"):
        torch_stepper.goto(99)
    assert torch_stepper.where().order == 5


def test_show_has_the_values_of_both_models_and_their_difference(jax_stepper, on_jax):
    jax_stepper.continue_()
    shown = jax_stepper.show()
    measure = next(s for s in on_jax.comparison.sites if s.free.divergent)
    np.testing.assert_array_equal(shown.source, measure.source)
    np.testing.assert_array_equal(shown.target, measure.target)
    np.testing.assert_allclose(shown.difference, measure.target - measure.source.astype(np.float64))
    assert shown.tokens[:2] == ("0:0", "0:1")
    assert len(shown.tokens) == len(shown.source)
    assert shown.statistics[0].mean == pytest.approx(float(np.mean(measure.source, dtype=np.float64)))
    assert "ratio in float64" in str(shown)
    # the query's layout does not matter where there is one token to attend to
    assert np.abs(shown.difference[0]).max() < 1e-4 < np.abs(shown.difference[1:]).max()


def test_show_alone_leaves_out_what_came_before(torch_stepper):
    torch_stepper.continue_()
    position = torch_stepper.step()
    assert "at noise on the source's own values" in position.state
    free, alone = torch_stepper.show(), torch_stepper.show(alone=True)
    assert np.abs(alone.difference).max() < 1e-4 < np.abs(free.difference).max()
    assert alone.measure.ratio < 10 < free.measure.ratio


def test_a_block_is_shown_free_running_only(torch_stepper):
    block = next(stop for stop in torch_stepper.stops if stop.row.port == "block")
    torch_stepper.goto(block.order)
    assert torch_stepper.show().target.shape == tuple(block.row.shape)
    with pytest.raises(CkptdbgError, match="free running only"):
        torch_stepper.show(alone=True)


def test_what_a_verb_returns_is_escaped_for_a_notebook(torch_stepper, monkeypatch):
    torch_stepper.continue_()
    position, shown = torch_stepper.where(), torch_stepper.show()
    for record in (position, shown):
        object.__setattr__(record, "name", "<script>alert(1)</script>\x1b[2J")
        assert "<script" not in record._repr_html_()
        assert repr(record) == str(record)
    assert "&lt;script&gt;" in position._repr_html_()
    assert '<img src="data:image/svg+xml;base64,' in shown._repr_html_()


def test_the_verbs_of_a_session_share_one_cursor(on_torch):
    vars(on_torch).pop("stepper", None)
    first = on_torch.cont()
    assert on_torch.where().order == first.order == on_torch.stepper.where().order
    assert on_torch.step().order == first.order + 1
    assert on_torch.next().layer == "1"
    assert on_torch.back().layer == "0"
    assert on_torch.show().measure.ratio > 0
    assert Stepper(on_torch).where().order == 0
