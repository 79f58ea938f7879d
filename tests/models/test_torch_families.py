"""What must hold of every model: nothing is overlooked, nothing is changed by looking."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch_families import FAMILIES, inputs_of, make, plain, relative

from ckptdbg.models.records import Plant
from ckptdbg.models.torch_side import TorchSide

families = pytest.mark.parametrize("family", FAMILIES)


@families
def test_every_parameter_is_accounted_for(family):
    side = TorchSide(make(family))
    graph = side.graph(inputs_of(family))
    met = {name for found in (*graph.anchors, *graph.meetings) for name in found.parameters}
    assert graph.opaque == ()
    assert set(side.parameters()) - met == set(graph.unused_parameters)
    unchosen = {name for name in graph.unused_parameters if ".experts." in name}
    assert set(graph.unused_parameters) == unchosen  # none but experts may go unused
    matrices = {name for name, spec in side.parameters().items() if len(spec.shape) >= 2}
    in_anchors = {name for anchor in graph.anchors for name in anchor.parameters}
    # Positions and token types that the model makes up by itself are constants: their rows are added like a bias.
    constant_ids = ("wpe", "position_embeddings", "token_type_embeddings", "relative_attention_bias")
    assert {name for name in matrices - in_anchors if not any(part in name for part in constant_ids)} == unchosen


@families
def test_a_plain_run_is_the_model_bit_for_bit(family):
    module, inputs = make(family), inputs_of(family)
    expected = plain(module, inputs)
    before = copy.deepcopy(module.state_dict())
    module.train()
    trace = TorchSide(module).run(inputs)
    assert trace.output_shape == expected.shape
    if family == "encoder-sequence-first":
        expected = expected.transpose(1, 0, 2)
    np.testing.assert_array_equal(trace.output, expected.reshape(trace.output.shape))
    assert trace.nonfinite is None
    assert all(child.training for child in module.modules())
    after = module.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


@families
def test_a_pass_that_is_ended_tells_its_beginning_and_leaves_no_trace(family):
    side, inputs = TorchSide(make(family)), inputs_of(family)
    whole = side.run(inputs, promoted=True)
    until = len(whole.records) // 2
    begun = side.run(inputs, promoted=True, until=until)
    for index, (record, same) in enumerate(zip(whole.records, begun.records, strict=True)):
        if index > until and not same.output.size:
            continue
        np.testing.assert_array_equal(same.rows, record.rows)
        np.testing.assert_array_equal(same.output, record.output)
        assert (record.input is None and same.input is None) or np.array_equal(record.input, same.input)
    assert not begun.records[-1].output.size
    assert not begun.output.size
    assert whole.output.size
    np.testing.assert_array_equal(side.run(inputs, promoted=True).output, whole.output)
    np.testing.assert_array_equal(side.run(inputs, promoted=True, until=len(whole.records) - 1).output, whole.output)


@families
def test_planting_what_was_recorded_changes_nothing(family):
    side, inputs = TorchSide(make(family)), inputs_of(family)
    trace = side.run(inputs)
    plants = {index: Plant(record.input, output=record.output) for index, record in enumerate(trace.records)}
    pins = [choose.indices for choose in trace.choices]
    again = side.run(inputs, plants=plants, choices=pins)
    np.testing.assert_array_equal(again.output, trace.output)
    for before, after in zip(trace.records, again.records, strict=True):
        np.testing.assert_array_equal(before.output, after.output)


@families
def test_a_changed_plant_reaches_the_output(family):
    side, inputs = TorchSide(make(family)), inputs_of(family)
    graph, trace = side.graph(inputs), side.run(inputs)
    pins = [choose.indices for choose in trace.choices]
    upstream = set(graph.output_feeds)
    for anchor in reversed(graph.anchors):
        upstream |= anchor.feeds if anchor.index in upstream else set()
    reached = [graph.anchors[index] for index in sorted(upstream) if len(trace.records[index].rows) > 1]
    for anchor in (reached[1], reached[len(reached) // 2], reached[-1]):
        mask = np.zeros(trace.records[anchor.index].output.shape, bool)
        mask[1::2] = True  # not row 0 alone: the query of the first token has no say
        changed = Plant(output=trace.records[anchor.index].output * 1.5 + 0.1, output_mask=mask)
        output = side.run(inputs, plants={anchor.index: changed}, choices=pins).output
        assert relative(output, trace.output) > 1e-4, anchor


@families
def test_promotion_removes_rounding(family):
    side, inputs = TorchSide(make(family)), inputs_of(family)
    trace = side.run(inputs)
    pins = [choose.indices for choose in trace.choices]
    promoted = side.run(inputs, promoted=True, choices=pins)
    assert promoted.output.dtype == np.float64
    assert {record.output.dtype for record in promoted.records} == {np.dtype(np.float64)}
    assert 1e-8 < relative(trace.output, promoted.output) < 3e-6
    same = side.run(inputs, promoted=True, choices=pins)
    np.testing.assert_array_equal(same.output, promoted.output)


@families
def test_promotion_is_float64_inside(family):
    """A change of 1e-11 moves the output by about as much: a float32 inside would make it 1e-7, or nothing."""
    side, inputs = TorchSide(make(family)), inputs_of(family)
    pins = [choose.indices for choose in side.run(inputs).choices]
    promoted = side.run(inputs, promoted=True, choices=pins)
    first = next(index for index, record in enumerate(promoted.records) if record.input is None)
    moved = Plant(output=promoted.records[first].output * (1 + 1e-11 * np.sin(np.arange(24))))
    output = side.run(inputs, promoted=True, choices=pins, plants={first: moved}).output
    assert 1e-13 < relative(output, promoted.output) < 1e-9


@families
def test_operands_give_the_output_back(family):
    """Input times effective operand is the recorded output: operand, ports and rows belong together."""
    side, inputs = TorchSide(make(family)), inputs_of(family)
    graph = side.graph(inputs)
    pins = [choose.indices for choose in side.run(inputs).choices]
    promoted, operands = side.run(inputs, promoted=True, choices=pins), side.operands({})
    for anchor, record, operand in zip(graph.anchors, promoted.records, operands.anchors, strict=True):
        assert operand.shape == (anchor.features, anchor.contraction)
        if record.input is None:
            assert {tuple(row) for row in record.output} <= {tuple(row) for row in operand.T}
        else:
            np.testing.assert_allclose(record.output, record.input @ operand.T, rtol=1e-9, atol=1e-11)
    for meeting, operand in zip(graph.meetings, operands.meetings, strict=True):
        assert operand.shape == meeting.shape


@families
def test_rows_name_the_token(family):
    """Every token shows at every site that all tokens pass, and blocks and outputs stand in token order."""
    side, inputs = TorchSide(make(family)), inputs_of(family)
    graph, trace = side.graph(inputs), side.run(inputs)
    for anchor, record in zip(graph.anchors, trace.records, strict=True):
        assert len(record.rows) == len(record.output)
        assert (record.rows >= 0).all(), anchor
        if len(record.rows) in (26, 18) and anchor.group is None and ".experts." not in anchor.parameters[0]:
            assert sorted(record.rows) == list(range(len(record.rows))), anchor
    assert graph.blocks
    assert all(len(block) in (26, 18) for block in trace.blocks)
