"""A plan and rules as MaxText's conversion agent writes them, read as a mapping."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.errors import MappingError
from ckptdbg.mapping.agent_plan import Rules, plan_direction, read_plan, read_shapes

RULES = """
version: 1.0
saving_to_hf: ${saving_to_hf}
rules:
  widen:
    params: {normalizer: sqrt(config.text_config.hidden_size)}
    logic:
      to_hf: {ops: [{scale: 1.0 / normalizer}, {pad: [target_shape[0], null]}]}
      from_hf: {ops: [{scale: normalizer}, {pad: [target_shape[0], null]}]}
  plus_one:
    logic:
      to_hf: {ops: [{adjust: -1.0}, {reshape: target_shape}]}
      from_hf: {ops: [{adjust: 1.0}, {reshape: target_shape}]}
  kernel:
    logic:
      to_hf: {ops: [{reshape: reverse(target_shape)}, {transpose: [1, 0]}]}
      from_hf: {ops: [{transpose: [1, 0]}, {reshape: target_shape}]}
  flat:
    logic:
      to_hf: {ops: [flatten]}
      from_hf: {ops: [{reshape: target_shape}]}
  front:
    logic:
      to_hf: {ops: [{squeeze: 0}]}
      from_hf: {ops: [{expand_dims: 0}]}
  odd:
    logic:
      to_hf: {ops: [{softmax: 0}]}
      from_hf: {ops: [{scale: log(config.hidden_size)}]}
"""
Q = "params-decoder-layers_{i}-query"
PLAN = [
    {"maxtext": ["params-token_embedder-embedding"], "huggingface": "model.embed.weight", "op": "widen()"},
    {
        "maxtext": "params-decoder-layers_{i}-norm-scale",
        "huggingface": "model.layers.{i}.norm.weight",
        "op": "plus_one",
    },
    {
        "maxtext": ["params-decoder-layers_{i}-query-kernel"],
        "huggingface": ["model.layers.{i}.q.weight"],
        "op": "kernel",
    },
    {"maxtext": ["params-decoder-layers_{i}-query-bias"], "huggingface": "model.layers.{i}.q.bias", "op": "flat(x)"},
    {"maxtext": ["params-pos"], "huggingface": "model.pos", "op": "front"},
    {"maxtext": ["params-gate"], "huggingface": "model.gate", "op": None},
    {"maxtext": ["params-other-scale"], "huggingface": "model.other.weight", "op": "plus_one"},
]
HF = {"model.embed.weight": (7, 4), "model.pos": (5, 4), "model.gate": (3,)}
OURS = {"token_embedder/embedding": (9, 4), "pos": (1, 5, 4), "gate": (3,)}
for layer in (0, 1):
    HF |= {f"model.layers.{layer}.{n}": s for n, s in (("norm.weight", (4,)), ("q.weight", (6, 4)), ("q.bias", (6,)))}
    OURS |= {
        f"decoder/layers_{layer}/{n}": s
        for n, s in (("norm/scale", (4,)), ("query/kernel", (4, 2, 3)), ("query/bias", (2, 3)))
    }


def specs(shapes):
    return {name: TensorSpec(shape, "float32") for name, shape in shapes.items()}


@pytest.fixture
def files(tmp_path):
    (tmp_path / "dsl.txt").write_text(RULES.strip())
    fenced = f"```JSON\n{json.dumps(PLAN)}\n```"  # as the agent leaves it: text in text
    (tmp_path / "plan.json").write_text(json.dumps(fenced))
    return tmp_path


def made(mapping, source, target, config):
    generator = np.random.default_rng(0)
    given = {name: generator.standard_normal(shape).astype(np.float32) for name, shape in source.items()}
    values = mapping.bind(config, specs(source), specs(target)).values(given.__getitem__)
    return given, {name: value for name, value, _ in values}


@pytest.mark.parametrize("config", [{"hidden_size": 4}, {"text_config": {"hidden_size": 4}}], ids=["text", "nested"])
def test_a_plan_does_what_its_rules_say(files, config):
    rules = Rules.load(files / "dsl.txt")
    mapping = read_plan(files / "plan.json", rules, "from_hf", specs(HF), specs(OURS))
    given, found = made(mapping, HF, OURS, config)
    padded = np.zeros((9, 4), np.float32)
    padded[:7] = given["model.embed.weight"] * 2
    np.testing.assert_array_equal(found["token_embedder/embedding"], padded)
    np.testing.assert_array_equal(found["decoder/layers_1/norm/scale"], given["model.layers.1.norm.weight"] + 1)
    np.testing.assert_array_equal(
        found["decoder/layers_1/query/kernel"], given["model.layers.1.q.weight"].T.reshape(4, 2, 3)
    )
    np.testing.assert_array_equal(found["pos"], given["model.pos"][None])
    np.testing.assert_array_equal(found["gate"], given["model.gate"])


def test_and_back(files):
    rules = Rules.load(files / "dsl.txt")
    mapping = read_plan(files / "plan.json", rules, "to_hf", specs(OURS), specs(HF))
    given, found = made(mapping, OURS, HF, {"hidden_size": 4})
    np.testing.assert_array_equal(found["model.embed.weight"], given["token_embedder/embedding"][:7] / 2)
    np.testing.assert_array_equal(found["model.layers.0.q.bias"], given["decoder/layers_0/query/bias"].reshape(-1))
    np.testing.assert_array_equal(
        found["model.layers.0.q.weight"], given["decoder/layers_0/query/kernel"].reshape(4, 6).T
    )
    np.testing.assert_array_equal(found["model.pos"], given["pos"][0])


def test_the_direction_is_told_from_the_names(files):
    assert plan_direction(files / "plan.json", specs(HF)) == "from_hf"
    assert plan_direction(files / "plan.json", specs(OURS)) == "to_hf"


def test_shapes_come_from_a_file(tmp_path):
    (tmp_path / "s.json").write_text('{"params-decoder-layers_0-norm-scale": [4]}')
    assert read_shapes(tmp_path / "s.json") == specs({"decoder/layers_0/norm/scale": (4,)})


def failure(folder: Path, plan, direction="from_hf"):
    (folder / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(MappingError) as error:
        read_plan(folder / "plan.json", Rules.load(folder / "dsl.txt"), direction, specs(HF), specs(OURS))
    return str(error.value).replace(f"{folder}/", "")


def test_what_cannot_be_read_is_said(files):
    item = {"maxtext": "params-gate", "huggingface": "model.gate", "op": "kernels"}
    assert failure(files, [item]) == (
        "dsl.txt: there is no rule kernels; expected widen, plus_one, kernel, flat, front, odd"
    )
    assert failure(files, [{**item, "op": "odd"}]) == (
        "plan.json: item 1: a function that no expression has; found log(config.hidden_size)"
    )
    assert failure(files, [{"op": 1}]).startswith("plan.json: item 1 of the plan is none; found {'op': 1}; expected ")
    assert failure(files, [{**item, "maxtext": ["a", "b"]}]) == (
        "plan.json: item 1 of the plan joins tensors, which no rule says how to; "
        "found 2 of MaxText for 1 of Hugging Face"
    )
    assert failure(files, {"a": 1}) == "plan.json: no plan; found dict; expected a list of items"
    assert failure(files, [{**item, "maxtext": "params-x"}]) == (
        "plan.json: the plan is of no tensors of these checkpoints"
    )
    assert failure(files, "no json").startswith("plan.json: no JSON (")
    (files / "dsl.txt").write_text("a: 1")
    assert failure(files, [item]) == "dsl.txt: no file of rules; expected rules: {name: {logic: ...}}"
    (files / "s.json").write_text("[1]")
    with pytest.raises(MappingError, match=r"no file of shapes; found .*; expected \{\"name\": \[size"):
        read_shapes(files / "s.json")


def test_a_step_without_an_op_is_said(files):
    rules = Rules.load(files / "dsl.txt")
    with pytest.raises(MappingError, match="odd has a step that no op says; found softmax; expected scale, adjust"):
        rules.ops("odd", "to_hf", (3,), (3,))
