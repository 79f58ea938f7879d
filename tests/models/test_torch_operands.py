"""Effective operands: what the parameters are at the place where they are used."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torch_families import inputs_of, make, randomise

from ckptdbg.errors import HarnessError, LoaderError
from ckptdbg.models.torch_side import TorchSide


def _by_parameter(side, graph, operands):
    return {anchor.parameters: operand for anchor, operand in zip(graph.anchors, operands.anchors, strict=True)}


def test_operands_of_a_decoder_are_its_weights():
    side = TorchSide(make("llama"))
    graph = side.graph(inputs_of("llama"))
    found = _by_parameter(side, graph, side.operands({}))
    assert len(found) == len(graph.anchors) == 3 * 7 + 2
    for names, operand in found.items():
        weight = side.read(names[0]).astype(np.float64)
        np.testing.assert_array_equal(operand, weight.T if "embed" in names[0] else weight)


def test_values_given_replace_the_models_own():
    side = TorchSide(make("gpt2"))
    graph = side.graph(inputs_of("gpt2"))
    name = "transformer.h.1.attn.c_attn.weight"
    value = np.random.default_rng(0).standard_normal(side.parameters()[name].shape)
    found = _by_parameter(side, graph, side.operands({name: value}))
    np.testing.assert_array_equal(found[name,], value.T)  # this layer is stored transposed
    other = "transformer.h.0.attn.c_attn.weight"
    np.testing.assert_array_equal(found[other,], side.read(other).astype(np.float64).T)


def test_a_scale_stored_as_its_difference_from_one_is_met_whole():
    side = TorchSide(make("gemma3"))
    graph, name = side.graph(inputs_of("gemma3")), "model.layers.1.self_attn.q_norm.weight"
    (index,) = [meeting.index for meeting in graph.meetings if meeting.parameters == (name,)]
    operand = side.operands({}).meetings[index]
    np.testing.assert_array_equal(operand.ravel(), 1.0 + side.read(name).astype(np.float64))


@pytest.mark.parametrize("family", ["mixtral-eager", "mixtral-grouped", "qwen3-moe-eager", "qwen3-moe-grouped"])
def test_stacked_experts_are_one_anchor_each(family):
    side = TorchSide(make(family))
    graph = side.graph(inputs_of(family))
    operands, name = side.operands({}), "model.layers.1.mlp.experts.down_proj"
    stack = list(side.read(name).astype(np.float64))
    found = [operands.anchors[anchor.index] for anchor in graph.anchors if anchor.parameters == (name,)]
    assert len(found) == len(stack) or family.endswith("eager")  # the eager loop skips experts without a token
    for operand in found:
        assert any(np.array_equal(operand, expert) for expert in stack)
    assert len({operand.tobytes() for operand in found}) == len(found)


def test_a_tied_table_is_told_apart_by_its_use():
    module = make("gemma2")
    side = TorchSide(module)
    graph = side.graph(inputs_of("gemma2"))
    table, head = graph.anchors[0], graph.anchors[-1]
    assert (table.kind, head.kind) == ("lookup", "contraction")
    assert table.parameters == ("model.embed_tokens.weight", "lm_head.weight")
    assert head.parameters == ("lm_head.weight", "model.embed_tokens.weight")
    assert module.lm_head.weight is module.model.embed_tokens.weight
    other = np.random.default_rng(1).standard_normal(side.parameters()["lm_head.weight"].shape)
    both = side.operands({"model.embed_tokens.weight": other})
    np.testing.assert_array_equal(both.anchors[-1], other)
    one = side.operands({"lm_head.weight": other, "model.embed_tokens.weight": 2 * other})
    np.testing.assert_array_equal(one.anchors[-1], other)
    np.testing.assert_array_equal(one.anchors[0], 2 * other.T)


class Derived(nn.Module):
    """Weights that are computed before use: dequantised, low-rank sums, slices, written in place, normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(6, 5, bias=False)
        self.down, self.up = nn.Linear(6, 2, bias=False), nn.Linear(2, 5, bias=False)
        self.fused = nn.Parameter(torch.randn(3, 7, 5))
        self.norm = weight_norm(nn.Linear(7, 4))
        self.register_buffer("packed", torch.randint(-8, 8, (9, 4), dtype=torch.int8))
        self.steps = nn.Parameter(torch.rand(9, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x @ (self.base.weight + 0.5 * self.up.weight @ self.down.weight).t()
        assembled = torch.zeros(7, 5)
        assembled[:3] = self.fused[1, :3]
        assembled[3:] = self.fused[2, 3:].to(torch.bfloat16)
        x = torch.einsum("btk,nk->btn", x, assembled)
        x = self.norm(x)
        return nn.functional.linear(x, self.packed.float() * self.steps)


def test_operands_follow_what_the_model_computes():
    side = TorchSide(randomise(Derived()))
    graph = side.graph({"x": np.random.default_rng(0).standard_normal((2, 3, 6)).astype(np.float32)})
    read = {name: side.read(name).astype(np.float64) for name in side.parameters()}
    first, second, third, fourth = side.operands({}).anchors
    np.testing.assert_allclose(first, read["base.weight"] + 0.5 * read["up.weight"] @ read["down.weight"], rtol=1e-12)
    np.testing.assert_array_equal(second, np.concatenate([read["fused"][1, :3], read["fused"][2, 3:]]))
    length, direction = (read[f"norm.parametrizations.weight.original{part}"] for part in (0, 1))
    expected = length * direction / np.linalg.norm(direction, axis=1, keepdims=True)
    np.testing.assert_allclose(third, expected, rtol=1e-12)
    np.testing.assert_array_equal(fourth, read["packed"] * read["steps"])
    assert graph.anchors[0].parameters == ("base.weight", "up.weight", "down.weight")
    assert graph.anchors[3].parameters == ("packed", "steps")
    assert graph.unused_parameters == ()
    changed = {"fused": read["fused"] * 3, "packed": (read["packed"] + 1).astype(np.int8)}
    again = side.operands(changed).anchors
    np.testing.assert_allclose(again[1], 3 * second, rtol=1e-12)
    np.testing.assert_array_equal(again[3], (read["packed"] + 1) * read["steps"])


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Conv1d(6, 8, 3, padding=1)
        self.grouped = nn.Conv1d(8, 10, 3, padding=2, dilation=2, groups=2, bias=False)
        self.depthwise = nn.Conv1d(10, 10, 3, padding=1, groups=10)
        self.positions = nn.Parameter(torch.randn(11, 10))

    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        x = self.depthwise(self.grouped(self.plain(x.transpose(1, 2)))).transpose(1, 2)
        return x + self.positions[position_ids]


def test_convolutions_and_indexed_tables():
    side = TorchSide(randomise(Convolutions()))
    rng = np.random.default_rng(0)
    inputs = {"x": rng.standard_normal((2, 7, 6)).astype(np.float32), "position_ids": rng.integers(0, 11, (2, 7))}
    graph = side.graph(inputs)
    assert [anchor.group for anchor in graph.anchors] == [None, 0, 1, None]
    assert [anchor.kind for anchor in graph.anchors] == ["contraction"] * 3 + ["lookup"]
    trace, operands = side.run(inputs, promoted=True), side.operands({}).anchors
    for record, operand in list(zip(trace.records, operands, strict=True))[:3]:
        np.testing.assert_allclose(record.output, record.input @ operand.T, rtol=1e-10, atol=1e-12)
        assert list(record.rows) == list(range(14))
    np.testing.assert_array_equal(operands[3], side.read("positions").astype(np.float64).T)
    met = {name for meeting in graph.meetings for name in meeting.parameters}
    assert met == {"plain.bias", "depthwise.weight", "depthwise.bias"}


class Batched(nn.Module):
    """Products with a batch axis: shared with the operand (experts) or only stretched over it."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.Parameter(torch.randn(3, 6, 5))
        self.shared = nn.Parameter(torch.randn(5, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.einsum("btk,ekn->ebtn", x, self.experts)
        each = torch.bmm(x.flatten(1, 2), self.experts.transpose(1, 2)[:, :, :5] * 2)
        return torch.bmm(each, self.shared.expand(3, 5, 4))


def test_a_shared_batch_axis_is_one_anchor_each_and_a_stretched_one_is_rows():
    side = TorchSide(randomise(Batched()))
    inputs = {"x": np.random.default_rng(0).standard_normal((2, 7, 6)).astype(np.float32)}
    graph = side.graph(inputs)
    trace, operands = side.run(inputs, promoted=True), side.operands({}).anchors
    for record, operand in zip(trace.records, operands, strict=True):
        np.testing.assert_allclose(record.output, record.input @ operand.T, rtol=1e-10, atol=1e-12)
    assert [anchor.group for anchor in graph.anchors][-4:] == [0, 1, 2, None]
    np.testing.assert_array_equal(operands[-1], side.read("shared").astype(np.float64).T)
    assert list(trace.records[-1].rows) == 3 * list(range(14))


def test_what_cannot_be_seen_into_is_listed():
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mixer = nn.LSTM(6, 5, batch_first=True)
            self.head = nn.Linear(5, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.mixer(x)[0])

    side = TorchSide(randomise(Recurrent()))
    graph = side.graph({"x": np.ones((2, 7, 6), np.float32)})
    names = {name for opaque in graph.opaque for name in opaque.parameters}
    assert names == {f"mixer.{kind}_{where}_l0" for kind in ("weight", "bias") for where in ("ih", "hh")}
    assert [anchor.parameters for anchor in graph.anchors] == [("head.weight",)]


def test_wrong_values_are_refused():
    side = TorchSide(make("gpt2"))
    with pytest.raises(HarnessError, match=r"call graph\(inputs\) first"):
        side.operands({})
    side.graph(inputs_of("gpt2"))
    with pytest.raises(LoaderError, match=r"^nowhere\.weight: no such parameter in the model"):
        side.operands({"nowhere.weight": np.ones(3)})
    with pytest.raises(LoaderError, match=r"ln_f\.bias: value has the wrong shape; found \(3,\); expected \(24,\)"):
        side.operands({"transformer.ln_f.bias": np.ones(3)})
