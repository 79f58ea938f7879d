"""Each row of each site carries the token it belongs to."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch_families import BATCH, LENGTH, Encoder, inputs_of, make, randomise, relative

from ckptdbg.models.records import Plant
from ckptdbg.models.torch_side import TorchSide

TOKENS = list(range(BATCH * LENGTH))


def _by_token(record):
    return record.output[np.argsort(record.rows, kind="stable")]


def test_sequence_first_and_batch_first_agree_token_by_token():
    sides = [TorchSide(randomise(Encoder(batch_first))) for batch_first in (True, False)]
    first, second = (side.run(inputs_of("encoder")) for side in sides)
    assert len(first.records) == len(second.records) == 2 + 2 * 4
    for batch_first, sequence_first in zip(first.records, second.records, strict=True):
        assert sorted(batch_first.rows) == sorted(sequence_first.rows) == TOKENS
        assert relative(_by_token(sequence_first), _by_token(batch_first)) < 1e-6
    # Only the table is looked up before the axes change places; attention is sequence-first inside in both.
    assert [list(record.rows) == TOKENS for record in second.records] == [True] + 9 * [False]
    assert [list(record.rows) == TOKENS for record in first.records] == [True] + 2 * [False, False, True, True] + [True]
    assert relative(second.output, first.output) < 1e-6
    for left, right in zip(first.blocks, second.blocks, strict=True):
        assert relative(right, left) < 1e-6


@pytest.mark.parametrize("family", ["qwen3-moe", "mixtral"])
@pytest.mark.parametrize("experts", ["eager", "grouped"])
def test_expert_rows_are_the_tokens_that_chose_the_expert(family, experts):
    side = TorchSide(make(f"{family}-{experts}"))
    inputs = inputs_of(family)
    graph, trace, operands = side.graph(inputs), side.run(inputs), side.operands({}).anchors
    for layer, choose in enumerate(trace.choices):
        assert list(choose.rows) == TOKENS
        name = f"model.layers.{layer}.mlp.experts.down_proj"
        stack = side.read(name).astype(np.float64)
        seen = 0
        for anchor in (anchor for anchor in graph.anchors if anchor.parameters == (name,)):
            (expert,) = [e for e, weight in enumerate(stack) if np.array_equal(weight, operands[anchor.index])]
            chose_it = np.flatnonzero((choose.indices == expert).any(1))
            assert sorted(trace.records[anchor.index].rows) == list(choose.rows[chose_it])
            seen += len(chose_it)
        assert seen == choose.indices.size


def test_eager_and_grouped_experts_agree_expert_by_expert():
    sides = [TorchSide(make(f"mixtral-{experts}")) for experts in ("eager", "grouped")]
    found = []
    for side in sides:
        graph, trace = side.graph(inputs_of("mixtral")), side.run(inputs_of("mixtral"))
        operands = side.operands({}).anchors
        found.append(
            {
                operands[anchor.index].tobytes(): _by_token(trace.records[anchor.index])
                for anchor in graph.anchors
                if "experts" in anchor.parameters[0]
            }
        )
    eager, grouped = found
    assert set(eager) <= set(grouped)
    assert len(eager) >= 20
    assert all(relative(grouped[key], eager[key]) < 1e-5 for key in eager)


class Mixer(nn.Module):
    """Contracts the token axis with parameters, then pools."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.tokens = nn.Linear(6, 5), nn.Linear(7, 4)
        self.pooled, self.last = nn.Linear(5, 3), nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.features(x)
        mixed = self.tokens(x.transpose(1, 2)).mean(-1)
        return torch.cat([self.pooled(x.mean(1)), self.last(x[:, -1])], -1) + mixed


def test_rows_of_no_token_are_said_to_be_none():
    side = TorchSide(randomise(Mixer()))
    inputs = {"x": np.random.default_rng(0).standard_normal((2, 7, 6)).astype(np.float32)}
    names = [anchor.parameters[0].partition(".")[0] for anchor in side.graph(inputs).anchors]
    rows = dict(zip(names, (list(record.rows) for record in side.run(inputs).records), strict=True))
    assert rows["features"] == list(range(14))
    assert rows["tokens"] == [-1] * 10
    assert rows["pooled"] == [0, 7]  # a mean keeps the first of its tokens
    assert rows["last"] == [6, 13]


def test_equal_batch_and_length_are_not_confused():
    side = TorchSide(randomise(Encoder(False)))
    inputs = {"input_ids": np.random.default_rng(0).integers(0, 61, (5, 5))}
    expected = np.arange(25).reshape(5, 5).T.ravel()
    for record in side.run(inputs).records[1:]:
        np.testing.assert_array_equal(record.rows, expected)


def test_one_batch_and_one_token():
    side = TorchSide(make("llama"))
    for shape in ((1, 5), (3, 1), (1, 1)):
        trace = side.run({"input_ids": np.random.default_rng(0).integers(3, 61, shape)})
        assert all(list(record.rows) == list(range(shape[0] * shape[1])) for record in trace.records)


def test_planted_values_keep_their_tokens():
    side, inputs = TorchSide(make("mixtral-eager")), inputs_of("mixtral")
    trace = side.run(inputs)
    pins = [choose.indices for choose in trace.choices]
    plants = {
        index: Plant(input=None if record.input is None else record.input + 1, output=record.output + 1)
        for index, record in enumerate(trace.records)
    }
    moved = side.run(inputs, plants=plants, choices=pins)
    for before, after in zip(trace.records, moved.records, strict=True):
        np.testing.assert_array_equal(after.rows, before.rows)
