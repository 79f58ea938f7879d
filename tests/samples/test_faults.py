"""Every planted fault changes what it says, where it says, and can be planted wherever it claims."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from ckptdbg.checkpoint import Checkpoint, open_checkpoint
from ckptdbg.errors import ConfigError
from ckptdbg.mapping import BoundMapping, Mapping
from ckptdbg.models.loaders import load_model
from ckptdbg.samples import DEMO_FAULTS, DEMO_PAIR, FAULTS, build_sample, list_faults, list_pairs
from ckptdbg.samples.fault import Planted, plan

from .conftest import read_config, relative, run_target

# Healthy builds give the same output bit for bit; the smallest change, one element of one tensor, is far above this.
NOTICEABLE = 1e-5
ONCE = [(fault.pairs[0], fault.name) for fault in FAULTS.values()]
# The first and last place of each; `test_every_place_has_what_the_fault_needs` looks at the others without building.
ENDS = [(pair, fault.name) for fault in FAULTS.values() for pair in dict.fromkeys([fault.pairs[0], fault.pairs[-1]])]


def written_mapping(config: Path) -> Mapping:
    return Mapping.load(config.parent / read_config(config)["mapping"])


def bound_mapping(config: Path) -> tuple[BoundMapping, Checkpoint]:
    """The written mapping, bound to the written source, and that source."""
    target = read_config(config)["target"]
    empty = load_model(
        target["loader"],
        None,
        options=target["options"],
        inputs={},
        output=None,
        base=config.parent,
        precision="float32",
    )
    source = open_checkpoint(config.parent / "source")
    return written_mapping(config).bind(source.config, source.specs, empty.specs), source


def stored(config: Path) -> dict[str, np.ndarray]:
    return load_file(config.parent / "target.safetensors")


def changed(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> set[str]:
    assert one.keys() == other.keys()
    return {name for name in one if not np.array_equal(one[name], other[name])}


@pytest.mark.parametrize(("pair", "name"), ONCE)
def test_fault_changes_the_function(pair, name, healthy, tmp_path):
    faulty = run_target(build_sample(tmp_path, pair, [name]))
    change = relative(faulty, run_target(healthy(pair)))
    if FAULTS[name].effect == "none":
        assert change < 2e-6
    else:
        assert change > NOTICEABLE


@pytest.mark.parametrize(("pair", "name"), ENDS)
def test_fault_lies_where_it_says(pair, name, healthy, tmp_path):
    """Mapping: the target is what the faulty mapping makes. Weights: it is not. Definition: all tensors are right."""
    fault, config = FAULTS[name], build_sample(tmp_path, pair, [name])
    tensors = changed(stored(config), stored(healthy(pair)))
    options = read_config(config)["target"]["options"] != read_config(healthy(pair))["target"]["options"]
    mapping = written_mapping(config).text != written_mapping(healthy(pair)).text
    assert (mapping, bool(tensors), options) == {
        "mapping": (True, True, False),
        "weights": (False, True, False),
        "definition": (False, False, True),
    }[fault.kind]
    bound, source = bound_mapping(config)  # where the definition was changed: the target can be made with it
    blamed = [entry for entry in bound.entries if entry.name in fault.entries]
    assert {entry.name for entry in blamed} == set(fault.entries)
    assert tensors <= {name for entry in blamed for name in entry.targets}
    made = {name: value for name, value, _ in bound.values(source.read)}
    assert bool(changed(stored(config), made)) == (fault.kind == "weights")


@pytest.mark.parametrize("pair", list_pairs())
def test_every_place_has_what_the_fault_needs(pair, healthy):
    entries = {entry.name for entry in written_mapping(healthy(pair)).entries}
    target = read_config(healthy(pair))["target"]
    load = importlib.import_module(target["loader"].partition(":")[0]).load
    for fault in list_faults(pair):
        assert set(fault.entries) <= entries, fault.name
        if fault.kind == "definition":
            options = dict(target["options"])
            fault.edit(options)
            assert options != target["options"], fault.name
            load(None, **options)


@pytest.mark.parametrize("pair", ["llama_to_nnx", "llama_to_torch"])
def test_mapping_fault_in_given_layers_only(pair, healthy, tmp_path):
    config = build_sample(tmp_path, pair, ["norms-swapped@1,3"])
    tensors = changed(stored(config), stored(healthy(pair)))
    assert len(tensors) == 4
    assert all("1" in name or "3" in name for name in tensors)
    assert {"attention.norm@1,3", "mlp.norm@1,3"} <= {entry.name for entry in written_mapping(config).entries}
    assert plan("norms-swapped@1,3", pair, FAULTS).entries() == ("attention.norm@1,3", "mlp.norm@1,3")


def test_fault_in_every_layer_by_number(tmp_path):
    config = build_sample(tmp_path, "llama_to_torch", ["norm-plus-one@0,1"], num_hidden_layers=2)
    assert "mlp.norm" not in {entry.name for entry in written_mapping(config).entries}


@pytest.mark.parametrize("pair", ["llama_to_nnx", "llama_to_scan"])
def test_weight_fault_in_a_given_layer_only(pair, healthy, tmp_path):
    config = build_sample(tmp_path, pair, ["norm-scaled@2"])
    before, after = stored(healthy(pair)), stored(config)
    (name,) = changed(after, before)
    ratio = after[name] / before[name]
    hit = ratio[:, 2] if pair == "llama_to_scan" else ratio
    np.testing.assert_allclose(hit, 1.1, rtol=1e-6)
    assert np.count_nonzero(ratio != 1) == hit.size
    assert pair == "llama_to_scan" or "layers_2" in name


def test_several_faults_at_once(healthy, tmp_path):
    config = build_sample(tmp_path, DEMO_PAIR, [*DEMO_FAULTS, "rope-theta"])
    tensors = changed(stored(config), stored(healthy(DEMO_PAIR)))
    assert len(tensors) == 4 + 2  # the query of every layer; gate and up of one
    assert read_config(config)["target"]["options"]["rope_theta"] == 500000.0


def test_a_stacked_mapping_cannot_differ_by_layer(tmp_path):
    with pytest.raises(
        ConfigError, match=r"entry attention.query makes one tensor for all layers; plant it in every layer"
    ):
        build_sample(tmp_path, "llama_to_scan", ["query-not-interleaved@1"])


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        ("query-backwards", "unknown fault; found 'query-backwards' for gpt2_to_jax; expected qkv-per-head, "),
        ("gate-up-swapped", "this fault cannot be planted here; found 'gate-up-swapped' for gpt2_to_jax"),
        ("norm-scaled@first", "not a list of layers; found 'norm-scaled@first'; expected name@1 or name@1,3"),
    ],
)
def test_faults_that_cannot_be_planted(fault, problem, tmp_path):
    with pytest.raises(ConfigError) as error:
        build_sample(tmp_path, "gpt2_to_jax", [fault])
    assert str(error.value).startswith(problem)


def test_unknown_pair(tmp_path):
    with pytest.raises(ConfigError, match=r"unknown sample conversion; found 'llama'; expected llama_to_nnx, "):
        build_sample(tmp_path, "llama")


def test_there_are_many_faults_of_every_kind():
    kinds = [fault.kind for fault in FAULTS.values()]
    assert min(kinds.count(kind) for kind in ("mapping", "weights", "definition")) >= 10
    assert all(set(fault.pairs) <= set(list_pairs()) for fault in FAULTS.values())
    assert FAULTS["head-bfloat16"].expected == ("precision", "model")
    assert Planted(FAULTS["rope-theta"], None).entries() == ()
