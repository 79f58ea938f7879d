"""The border: inputs, outputs, parameters, plants, errors, and a model left as it was."""

from __future__ import annotations

import copy
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import nn
from torch_families import inputs_of, make, randomise, relative

from ckptdbg.errors import HarnessError, LoaderError
from ckptdbg.models.records import Plant
from ckptdbg.models.torch_side import TorchSide
from ckptdbg.models.torch_side.border import to_numpy, to_torch


@pytest.mark.parametrize("name", ["float64", "float32", "float16", "int64", "int8", "bool"])
def test_the_border_keeps_every_bit(name):
    array = np.random.default_rng(0).integers(0, 2, (2, 3, 5)).astype(name)
    tensor = to_torch(array.transpose(2, 0, 1))
    assert tensor.dtype == getattr(torch, name)
    np.testing.assert_array_equal(to_numpy(tensor.permute(1, 2, 0)), array)


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_the_border_keeps_types_that_numpy_lacks(name):
    tensor = torch.randn(3, 5).to(getattr(torch, name)).t()
    array = to_numpy(tensor)
    assert array.dtype == getattr(ml_dtypes, name)
    np.testing.assert_array_equal(array.astype(np.float32), tensor.float().numpy())
    assert torch.equal(to_torch(array).float(), tensor.float())


def test_parameters_are_those_of_the_state_dict():
    for family in ("gemma2", "bert", "mixtral-eager"):
        module = make(family)
        specs = TorchSide(module).parameters()
        state = module.state_dict()
        assert set(specs) == set(state)
        assert all(specs[name].shape == tuple(tensor.shape) for name, tensor in state.items())
    low = TorchSide(make("gpt2").to(torch.bfloat16))
    assert low.parameters()["transformer.ln_f.bias"].dtype == "bfloat16"
    assert low.read("transformer.ln_f.bias").dtype == ml_dtypes.bfloat16


def test_a_parameter_that_is_never_used_is_listed():
    module = nn.Sequential(nn.Linear(4, 3))
    module.spare = nn.Parameter(torch.ones(2))
    module.forward = lambda x: module[0](x)
    graph = TorchSide(module).graph({"x": np.ones((2, 5, 4), np.float32)})
    assert graph.unused_parameters == ("spare",)


def test_inputs_are_renamed_and_omitted():
    side = TorchSide(nn.Linear(4, 3), rename_inputs={"input": "inputs_embeds"})
    hidden = np.ones((2, 5, 4), np.float32)
    trace = side.run({"inputs_embeds": hidden, "attention_mask": np.ones((2, 5), np.int64)})
    assert trace.output_shape == (2, 5, 3)
    assert side.omitted_inputs == ("attention_mask",)
    with pytest.raises(
        LoaderError, match=r"^Linear: the model's forward accepts none of the inputs; found \['input_ids'\]"
    ):
        side.run({"input_ids": np.ones((2, 5), np.int64)})


class Outputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = self.layer(x)
        return {"other": x * 2, "last_hidden_state": hidden, "scores": hidden * 3}


def test_the_output_is_chosen():
    inputs = {"x": np.random.default_rng(0).standard_normal((2, 5, 4)).astype(np.float32)}
    module = Outputs()
    default, scores = TorchSide(module), TorchSide(module, output="scores")
    np.testing.assert_array_equal(scores.run(inputs).output, 3 * default.run(inputs).output)
    with pytest.raises(
        LoaderError, match=r"^Outputs: the model's output has no such tensor; found dict; expected logits"
    ):
        TorchSide(Outputs(), output="logits").run(inputs)
    other = TorchSide(Outputs(), output="other")
    assert other.graph(inputs).output_feeds == frozenset()


def test_meta_tensors_are_refused():
    with torch.device("meta"):
        module = nn.Sequential(nn.Linear(4, 3))
    with pytest.raises(LoaderError, match=r"^0\.weight: parameter has no values; found a meta tensor \(2 of 2"):
        TorchSide(module)


def test_a_failing_forward_is_told():
    with pytest.raises(
        LoaderError, match=r"GPT2LMHeadModel: the model's forward failed: .*inputs \{'input_ids': \(1, 60\)"
    ):
        TorchSide(make("gpt2")).run({"input_ids": np.ones((1, 60), np.int64)})


class Restless(nn.Module):
    """Changes its buffers, its mode and the random state while it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.register_buffer("count", torch.zeros(()), persistent=False)
        self.register_buffer("table", torch.ones(3), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1
        self.register_buffer("table", self.table * 2, persistent=False)
        self.train()
        return self.layer(x) * self.table + torch.rand(()) * self.count


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_found(fails):
    module = Restless()
    inputs = {"x": np.ones((2, 5, 4 + fails), np.float32)}
    side, state = TorchSide(module), torch.get_rng_state()
    weight, buffers = module.layer.weight, {name: tensor.clone() for name, tensor in module.named_buffers()}
    module.layer.eval()
    outputs = []
    for promoted in (False, True, False):
        if fails:
            with pytest.raises(LoaderError):
                side.run(inputs, promoted=promoted, values={"layer.bias": np.ones(3)})
        else:
            outputs.append(side.run(inputs, promoted=promoted, values={"layer.bias": np.ones(3)}).output)
    assert module.layer.weight is weight
    assert all(torch.equal(tensor, buffers[name]) for name, tensor in module.named_buffers())
    assert (module.training, module.layer.training) == (True, False)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_default_dtype() == torch.float32
    assert torch.backends.mha.get_fastpath_enabled()
    if outputs:
        # The same but for the random number: that must not repeat, or a model that draws some would not be noticed.
        moved = outputs[0] - outputs[2]
        assert moved.any()
        np.testing.assert_allclose(moved, moved[0, 0], atol=1e-5)


def test_values_are_used_for_one_run_only():
    side, inputs = TorchSide(make("gpt2")), inputs_of("gpt2")
    name = "transformer.h.2.mlp.c_fc.weight"
    before = side.run(inputs)
    changed = side.run(inputs, values={name: side.read(name) * 1.5})
    assert relative(changed.output, before.output) > 1e-3
    np.testing.assert_array_equal(side.run(inputs).output, before.output)
    np.testing.assert_array_equal(side.run(inputs, values={name: side.read(name)}).output, before.output)


def test_a_planted_input_is_used_there_only():
    side, inputs = TorchSide(make("llama")), inputs_of("llama")
    graph, before = side.graph(inputs), side.run(inputs)
    query, key = (
        next(a for a in graph.anchors if f"1.self_attn.{part}" in a.parameters[0]) for part in ("q_proj", "k_proj")
    )
    mask = np.zeros(before.records[query.index].input.shape, bool)
    mask[5, 2] = True
    plant = Plant(input=np.full(mask.shape, 9.0), input_mask=mask)
    after = side.run(inputs, plants={query.index: plant})
    np.testing.assert_array_equal(after.records[key.index].output, before.records[key.index].output)
    np.testing.assert_array_equal(after.records[query.index].input, before.records[query.index].input)
    moved = after.records[query.index].output != before.records[query.index].output
    assert moved[5].all()
    assert not np.delete(moved, 5, 0).any()
    expected = np.where(mask, 9.0, before.records[query.index].input)[5] @ side.read(query.parameters[0]).T
    np.testing.assert_allclose(after.records[query.index].output[5], expected, rtol=1e-4, atol=1e-5)


def test_a_planted_output_stands_before_the_bias():
    side = TorchSide(randomise(nn.Linear(4, 3)), rename_inputs={"input": "x"})
    values = np.random.default_rng(0).standard_normal((10, 3)).astype(np.float32)
    trace = side.run({"x": np.ones((2, 5, 4), np.float32)}, plants={0: Plant(output=values)})
    np.testing.assert_array_equal(trace.output, values + side.read("bias"))
    np.testing.assert_allclose(trace.records[0].output, np.ones((10, 4)) @ side.read("weight").T, rtol=1e-5)
    with pytest.raises(HarnessError, match=r"planted values have the wrong shape; found \(2, 3\); expected \(10, 3\)"):
        side.run({"x": np.ones((2, 5, 4), np.float32)}, plants={0: Plant(output=values[:2])})


def test_the_first_nonfinite_place_is_named():
    side, inputs = TorchSide(make("llama")), inputs_of("llama")
    name = "model.layers.1.mlp.up_proj.weight"
    value = side.read(name)
    value[3, 2] = np.nan
    trace = side.run(inputs, values={name: value})
    assert trace.nonfinite is not None
    assert trace.nonfinite.startswith(f"out of anchor 13 ({name})")
    norm = "model.layers.2.input_layernorm.weight"
    trace = side.run(inputs, values={norm: np.full_like(side.read(norm), np.inf)})
    assert "in of anchor 15 (model.layers.2.self_attn.q_proj.weight)" in (trace.nonfinite or "")


def test_feeds_and_meetings_tell_the_order_of_things():
    side = TorchSide(make("llama"))
    graph = side.graph(inputs_of("llama"))
    place = {anchor.parameters[0].removeprefix("model."): anchor for anchor in graph.anchors}
    norms = {meeting.index: meeting.parameters[0] for meeting in graph.meetings}
    attention, mlp = "layers.1.self_attn", "layers.1.mlp"
    names = {anchor.index: name for name, anchor in place.items()}
    residual = {"embed_tokens.weight", "layers.0.self_attn.o_proj.weight", "layers.0.mlp.down_proj.weight"}
    assert {names[feed] for feed in place[f"{attention}.q_proj.weight"].feeds} == residual
    assert {names[feed] for feed in place[f"{attention}.o_proj.weight"].feeds} == {
        f"{attention}.{part}_proj.weight" for part in "qkv"
    }
    assert {names[feed] for feed in place[f"{mlp}.down_proj.weight"].feeds} == {
        f"{mlp}.gate_proj.weight", f"{mlp}.up_proj.weight"
    }  # fmt: skip
    assert {norms[met] for met in place[f"{attention}.q_proj.weight"].met} >= {"model.layers.1.input_layernorm.weight"}
    assert place[f"{attention}.o_proj.weight"].met == frozenset()
    assert graph.output_feeds == {place["lm_head.weight"].index}
    assert place["lm_head.weight"].where.scope == "lm_head"
    assert (place[f"{mlp}.up_proj.weight"].where.file or "").endswith("modeling_llama.py")


def test_blocks_are_the_residual_stream():
    module, inputs = make("llama"), inputs_of("llama")
    side = TorchSide(module)
    graph, trace = side.graph(inputs), side.run(inputs)
    assert graph.blocks == ("model.layers.0", "model.layers.1", "model.layers.2", "model.norm")
    inside = [graph.anchors[i] for i in sorted(graph.block_anchors[1])]
    assert len(inside) == 7
    assert all(name.startswith("model.layers.1.") for anchor in inside for name in anchor.parameters)
    assert graph.block_anchors[3] == frozenset()  # a norm
    with torch.no_grad():
        hidden = module(**{k: torch.from_numpy(v) for k, v in inputs.items()}, output_hidden_states=True).hidden_states
    for block, expected in zip((trace.blocks[0], trace.blocks[1], trace.blocks[3]), hidden[1:], strict=True):
        np.testing.assert_array_equal(block, expected.numpy().reshape(block.shape))


class Transposed(nn.Module):
    """Holds its matrix the other way round in memory, and reshapes it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.matrix = nn.Embedding(11, 12), nn.Parameter(torch.randn(12, 5).t())

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(self.embed(input_ids), self.matrix.reshape(60).view(5, 12))


def test_an_anchor_is_known_again_whatever_the_strides_of_given_values():
    side, inputs = TorchSide(Transposed()), {"input_ids": np.arange(6).reshape(2, 3)}
    side.graph(inputs)
    own = side.read("matrix")
    for values in (own, np.asfortranarray(own)):
        for promoted in (False, True):
            trace = side.run(inputs, values={"matrix": values.astype(np.float64)}, promoted=promoted)
            assert trace.records[1].output.shape == (6, 5)
            np.testing.assert_allclose(trace.records[1].output, trace.output)


def test_graphs_are_the_same_again():
    module = make("qwen3-moe-eager")
    first, second = (TorchSide(copy.deepcopy(module)).graph(inputs_of("qwen3-moe-eager")) for _ in range(2))
    assert first.anchors == second.anchors
    assert replace(first, anchors=()) == replace(second, anchors=())


def test_an_expert_that_only_other_tokens_choose_is_an_anchor_of_their_graph():
    module, inputs = make("qwen3-moe-eager"), inputs_of("qwen3-moe-eager")
    side, one_token = TorchSide(module), {n: np.zeros_like(x) if n == "input_ids" else x for n, x in inputs.items()}
    few, many = side.graph(one_token), side.graph(inputs)
    assert len(few.anchors) < len(many.anchors)
    assert many == TorchSide(module).graph(inputs)
    trace = side.run(inputs)
    assert len(trace.records) == len(many.anchors)
    assert len(side.run(one_token).records) == len(few.anchors)
    assert sum(record.rows.size for record in trace.records) == _rows_of_all(module, inputs)


def _rows_of_all(module, inputs) -> int:
    return sum(record.rows.size for record in TorchSide(module).run(inputs).records)
