"""Routers: what was chosen, by how much, and pinning it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch_families import inputs_of, make, randomise, relative

from ckptdbg.errors import HarnessError
from ckptdbg.models.torch_side import TorchSide

moe = pytest.mark.parametrize("family", ["qwen3-moe-eager", "qwen3-moe-grouped", "mixtral-eager", "mixtral-grouped"])


@moe
def test_routers_are_found(family):
    side = TorchSide(make(family))
    graph = side.graph(inputs_of(family))
    assert len(graph.choices) == 3
    for choice in graph.choices:
        (router,) = choice.feeds
        assert choice.options == graph.anchors[router].features
        assert "gate" in graph.anchors[router].parameters[0]
    options, chosen = (12, 3) if family.startswith("qwen3") else (5, 2)
    assert {(choice.options, choice.chosen) for choice in graph.choices} == {(options, chosen)}


def test_dense_models_choose_nothing():
    assert TorchSide(make("llama")).graph(inputs_of("llama")).choices == ()


@moe
def test_indices_and_margins_are_those_of_the_router(family):
    side = TorchSide(make(family))
    inputs = inputs_of(family)
    graph, trace = side.graph(inputs), side.run(inputs)
    for choice, choose in zip(graph.choices, trace.choices, strict=True):
        (router,) = choice.feeds
        logits = trace.records[router].output.astype(np.float64)
        scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        ranked = np.sort(scores, 1)[:, ::-1]
        np.testing.assert_allclose(choose.margin, ranked[:, choice.chosen - 1] - ranked[:, choice.chosen], atol=1e-6)
        np.testing.assert_array_equal(np.sort(choose.indices), np.sort(np.argsort(-scores)[:, : choice.chosen]))


@moe
def test_pinning_the_own_choice_changes_nothing_and_another_does(family):
    side, inputs = TorchSide(make(family)), inputs_of(family)
    trace = side.run(inputs)
    pins = [choose.indices for choose in trace.choices]
    np.testing.assert_array_equal(side.run(inputs, choices=pins).output, trace.output)
    other = [np.array(pin) for pin in pins]
    options = side.graph(inputs).choices[0].options
    other[0][3] = (other[0][3] + 1) % options
    moved = side.run(inputs, choices=other)
    np.testing.assert_array_equal(moved.choices[0].indices, other[0])
    assert (moved.choices[0].margin[3] < 0) == (sorted(other[0][3]) != sorted(pins[0][3]))
    assert relative(moved.output, trace.output) > 1e-4


def test_an_expert_that_is_not_reached_has_an_empty_record():
    side, inputs = TorchSide(make("mixtral-eager")), inputs_of("mixtral-eager")
    graph, trace = side.graph(inputs), side.run(inputs)
    pins = [np.tile(np.array([0, 1]), (26, 1)) for _ in trace.choices]
    moved = side.run(inputs, choices=pins)
    experts = [anchor for anchor in graph.anchors if "experts" in anchor.parameters[0]]
    rows = [len(moved.records[anchor.index].rows) for anchor in experts]
    assert sorted(set(rows)) == [0, 26]
    assert rows.count(26) == 3 * 2 * 2
    operands = side.operands({}).anchors
    for anchor in graph.anchors:  # what is recorded still belongs to its anchor
        record = moved.records[anchor.index]
        if record.input is not None:
            np.testing.assert_allclose(record.output, record.input @ operands[anchor.index].T, rtol=1e-3, atol=1e-5)


def test_pins_that_do_not_fit_are_refused():
    side, inputs = TorchSide(make("mixtral-eager")), inputs_of("mixtral-eager")
    with pytest.raises(
        HarnessError, match=r"^choice 0: choices to pin do not fit; found \(26, 3\); expected \(26, 2\)"
    ):
        side.run(inputs, choices=[np.zeros((26, 3), np.int64)] * 3)
    with pytest.raises(HarnessError, match=r"^choice 1: choices to pin do not fit"):
        side.run(inputs, choices=[np.zeros((26, 2), np.int64)])


class Selecting(nn.Module):
    """Chooses along the first axis, and by sorting."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 5), nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values, _ = self.first(x).transpose(1, 2).topk(2, dim=1)
        order = self.second(x).argsort(-1, descending=True)[..., :2]
        return values.transpose(1, 2) * order + self.second(x).argmax(-1, keepdim=True)


def test_other_ways_to_choose():
    side = TorchSide(randomise(Selecting()))
    inputs = {"x": np.random.default_rng(0).standard_normal((2, 7, 6)).astype(np.float32)}
    graph, trace = side.graph(inputs), side.run(inputs)
    assert [(choice.options, choice.chosen) for choice in graph.choices] == [(5, 2), (4, 4), (4, 1)]
    assert all(list(choose.rows) == list(range(14)) for choose in trace.choices)
    pins = [choose.indices for choose in trace.choices]
    np.testing.assert_array_equal(side.run(inputs, choices=pins).output, trace.output)
    assert graph.choices[2].feeds == {2}
    first = trace.records[0].output + side.read("first.bias")
    np.testing.assert_array_equal(pins[0], np.argsort(-first)[:, :2])
