"""Trying repairs: what they would do, keeping them, taking them back, writing the mapping."""

from __future__ import annotations

import numpy as np
import pytest

from ckptdbg.errors import CkptdbgError, MappingError
from ckptdbg.mapping import Mapping
from ckptdbg.stepping.edits import parse_ops

ROTARY = '{rearrange: "(h two d) b -> (h d two) b", h: heads, two: 2}'
FIRST, SECOND = "decoder/layers_0/self_attention/out/kernel in", "decoder/layers_1/self_attention/out/kernel in"


def test_the_repair_of_a_finding_mends_what_it_names(torch_stepper):
    trial = torch_stepper.try_(1)
    assert trial.mended
    assert [change.name for change in trial.alone if change.recovered] == [
        "layers.0.feed_forward.w2.weight in",
        "layers.1.feed_forward.w2.weight in",
    ]
    assert trial.output.recovered
    assert str(trial).endswith("`apply` keeps it")


def test_an_op_typed_by_hand_mends(jax_stepper):
    trial = jax_stepper.try_("attention.query", ROTARY, "first")
    assert [change.name for change in trial.alone if change.recovered] == [FIRST, SECOND]
    assert not trial.mended  # two tensors of the checkpoint are exchanged besides
    assert "+ rearrange" in str(trial)
    assert "not verified on other tokens" in str(trial)


def test_a_wrong_op_mends_nothing_and_says_what_it_breaks(torch_stepper):
    trial = torch_stepper.try_("attention.out", [{"scale": 2}])
    assert not any(change.recovered for change in trial.alone)
    assert not trial.mended
    # a scale is carried to what the matrix gives; what reads it shows it
    assert any(change.broken for change in trial.alone)
    assert "diverge now, alone" in str(trial)


def test_apply_and_undo(jax_stepper):
    where = jax_stepper.continue_()
    before = [stop.free.working.ratio for stop in jax_stepper.stops]
    jax_stepper.try_("attention.query", ROTARY, "first")
    assert [stop.free.working.ratio for stop in jax_stepper.stops] == before  # a trial changes nothing
    applied = jax_stepper.apply()
    assert (applied.order, applied.state) == (where.order, "at noise")
    assert jax_stepper.trial is None
    # now the exchanged tensors are what parts the models first, and their repair goes on top
    assert jax_stepper.continue_().name == "decoder/layers_1/mlp/wi_0/kernel out"
    assert jax_stepper.try_(1).mended
    jax_stepper.apply()
    assert jax_stepper.continue_().note == "no divergence lies ahead"
    for left in (1, 0):
        assert jax_stepper.undo().note == f"undone: {left} still applied"
    assert [stop.free.working.ratio for stop in jax_stepper.stops] == before
    with pytest.raises(CkptdbgError, match="nothing to undo"):
        jax_stepper.undo()


def test_the_repairs_together_make_the_right_tensors(jax_stepper, on_jax, tmp_path):
    jax_stepper.try_("attention.query", ROTARY, "first")
    jax_stepper.apply()
    written = jax_stepper.write(tmp_path / "mended.yaml")
    bound = Mapping.load(written).bind(on_jax.model_config, on_jax.source_specs, on_jax.target.specs)
    name = "decoder/layers_0/self_attention/query/kernel"
    source = np.asarray(on_jax.read_source("model.layers.0.self_attn.q_proj.weight"))
    heads = on_jax.model_config["num_attention_heads"]
    head_dim = len(source) // heads
    # the two halves of each head, taken in turns
    right = source.reshape(heads, 2, head_dim // 2, -1).transpose(3, 0, 2, 1).reshape(-1, heads, head_dim)
    made = {n: v for n, v, _ in bound.values(on_jax.read_source)}[name]
    np.testing.assert_allclose(made, right * head_dim**-0.5, rtol=1e-6)
    with pytest.raises(MappingError, match="there is a file here already"):
        jax_stepper.write(written)


def test_a_tensor_of_the_checkpoint_leaves_the_mapping_as_it_is(jax_stepper, tmp_path):
    trial = jax_stepper.try_(1)
    assert [(repair.entry, repair.together) for repair in trial.repairs] == [("mlp.gate", []), ("mlp.up", [])]
    assert sum("make the tensor again" in line for line in trial.lines()) == 2
    both = [f"decoder/layers_1/mlp/wi_{i}/kernel out" for i in (0, 1)]
    assert [c.name for c in trial.alone if c.recovered] == both
    jax_stepper.apply()
    with pytest.raises(CkptdbgError, match="the mapping is as it was"):
        jax_stepper.write(tmp_path / "mended.yaml")
    with pytest.raises(CkptdbgError, match="as the mapping makes them"):
        jax_stepper.try_(1)


def test_nothing_to_apply(torch_stepper):
    with pytest.raises(CkptdbgError, match="nothing was tried yet"):
        torch_stepper.apply()


WRONG = {
    "{scal: 2}": "what was typed: unknown op scal; did you mean scale?",
    "[}": "what was typed: not valid YAML",
    "{rearrange: 2}": "what was typed: rearrange",
    "{scale: [2]}": "what was typed: by of scale has the wrong form",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_typed_wrongly_is_said(torch_stepper, text):
    with pytest.raises(MappingError) as error:
        torch_stepper.try_("attention.out", text)
    assert str(error.value).startswith(WRONG[text].split(":")[0])
    assert WRONG[text].partition(": ")[2].split(" of ")[0] in str(error.value)
    assert torch_stepper.trial is None


def test_shapes_that_do_not_fit_and_entries_that_are_not_there(torch_stepper):
    with pytest.raises(MappingError, match="gets shape"):
        torch_stepper.try_("mlp.gate_up", "{concat: 1}")
    with pytest.raises(MappingError, match=r"no entry mlp\.gate_op; did you mean mlp.gate_up"):
        torch_stepper.try_("mlp.gate_op", "{scale: 2}")
    with pytest.raises(MappingError, match="has these ops already"):
        torch_stepper.try_("attention.out", torch_stepper.session.unbound_mapping.ops("attention.out"))


@pytest.mark.parametrize(
    "text",
    [
        "{scale: 2}",
        "[{scale: 2}]",
        "scale: 2",
        "- scale: 2",
        "\n- scale: 2\n",
    ],
)
def test_one_op_or_a_list_in_any_form(text):
    assert parse_ops(text) == [{"scale": 2}]


def test_no_finding_of_this_number(torch_stepper):
    with pytest.raises(CkptdbgError, match="no such finding; found 7; expected 1 to 1"):
        torch_stepper.try_(7)
