"""torchtitan's adapters by model name: their own bits in both directions, and in a comparison that finds a fault."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from checks import assert_healthy, entries
from place import place
from safetensors.numpy import load_file, save_file
from titan_configs import DEEPSEEK, deepseek_v3
from typer.testing import CliRunner

from ckptdbg.checkpoint import open_checkpoint
from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.cli.app import app
from ckptdbg.documents import dump_yaml, parse_yaml
from ckptdbg.errors import CkptdbgError
from ckptdbg.mapping.tracing import trace
from ckptdbg.models.importers import Given, find_conversion
from ckptdbg.models.loaders.function import find_function
from ckptdbg.samples.pairs import sample_configs
from ckptdbg.session import open_session

HERE, READY = Path(__file__).parent, sample_configs() / "interop"
SIZES = {"layers": 12, "dim": 48, "heads": 6, "kv_heads": 3, "head_dim": 12, "mlp": 112, "vocab": 131}
DENSE = {**SIZES, "norm_epsilon": 1e-6, "rope_theta": 10000.0, "max_length": 64}
CONFIGURE = f"{READY}/torchtitan_models.py:configure"
MODELS = {
    "llama3": ("Llama3StateDictAdapter", CONFIGURE, {"family": "llama3", **DENSE}),
    "qwen3": ("Qwen3StateDictAdapter", CONFIGURE, {"family": "qwen3", **DENSE}),
    "deepseek_v3": ("DeepSeekV3StateDictAdapter", f"{HERE}/titan_configs.py:deepseek_v3", {}),
}


def specs_of(tensors):
    return {name: TensorSpec(value.shape, value.dtype.name) for name, value in tensors.items()}


def adapter_of(name):
    module = importlib.import_module(f"torchtitan.models.{name}.state_dict_adapter")
    return getattr(module, MODELS[name][0])


def random_state(config):
    with torch.device("meta"):
        state = config.build().state_dict()
    generator = np.random.default_rng(3)
    return {name: generator.standard_normal(value.shape).astype(np.float32) for name, value in state.items()}


def by_torchtitan(function, tensors):
    return {n: v.numpy() for n, v in function({n: torch.from_numpy(v.copy()) for n, v in tensors.items()}).items()}


@pytest.mark.parametrize("name", MODELS)
def test_an_adapter_by_name_is_the_adapter_in_both_directions(name):
    _, model, options = MODELS[name]
    adapter_class = adapter_of(name)
    config = find_function(model, HERE)(**options)
    own = random_state(config)
    theirs = by_torchtitan(adapter_class(config, None).to_hf, own)
    home = by_torchtitan(adapter_class(config, None).from_hf, theirs)
    asked = {"torchtitan": name, "model": model, "options": options}
    for given, wanted, direction in ((own, theirs, "to_hf"), (theirs, home, "from_hf")):
        found = find_conversion(asked, Given(specs_of(given), {}, dict, HERE, "c.yaml"))
        assert found.name == f"{adapter_class.__module__}:{adapter_class.__name__}.{direction}"
        traced = trace(found.convert, specs_of(given), {}, found.name, given)
        assert traced.untraced == traced.inexact == ()
        assert len(traced.mapping.entries) < 30
        made = {n: v for n, v, _ in traced.mapping.bind({}, specs_of(given), traced.specs).values(given.__getitem__)}
        assert made.keys() == wanted.keys()
        assert {n for n, value in made.items() if value.tobytes() != wanted[n].tobytes()} == set()


def test_deepseek_reads_what_hugging_face_writes(tmp_path):
    import transformers

    model = transformers.DeepseekV3ForCausalLM(transformers.DeepseekV3Config(**DEEPSEEK))
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.normal_()
    model.save_pretrained(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    real = {name: np.array(checkpoint.read(name)) for name in checkpoint.specs}
    asked = {"torchtitan": "deepseek_v3", "model": f"{HERE}/titan_configs.py:deepseek_v3"}
    found = find_conversion(asked, Given(checkpoint.specs, checkpoint.config, dict, HERE, "c.yaml"))
    traced = trace(found.convert, checkpoint.specs, checkpoint.config, found.name, real)
    wanted = by_torchtitan(adapter_of("deepseek_v3")(deepseek_v3(), None).from_hf, real)
    bound = traced.mapping.bind(checkpoint.config, checkpoint.specs, traced.specs)
    made = {name: value for name, value, _ in bound.values(real.__getitem__)}
    assert (made.keys(), traced.untraced, traced.unused) == (wanted.keys(), (), ())
    assert {name for name, value in made.items() if value.tobytes() != wanted[name].tobytes()} == set()


def placed(folder, family, **changes):
    """The ready config with torchtitan's own adapter in its mapping's place."""
    config = place(f"torchtitan_{'llama3' if family == 'llama' else family}", folder, family, **changes)
    told = parse_yaml(config.read_text(), str(config), CkptdbgError)
    options = told["target"]["options"]
    told["mapping"] = {"torchtitan": options["family"], "model": CONFIGURE, "options": options}
    config.write_text(dump_yaml(told))
    return config


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_a_comparison_with_an_imported_mapping_is_healthy(tmp_path, table, family):
    config = placed(tmp_path, family)
    name = "Llama 3" if family == "llama" else "Qwen 3"
    assert_healthy(
        table.compare(f"torchtitan {name}, its adapter imported", "", lambda: open_session(config).compare())
    )


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_from_the_command_line_to_a_fault_that_is_named(tmp_path, monkeypatch, table):
    config = placed(tmp_path, "llama", target="target.safetensors")
    (tmp_path / "target.safetensors").write_bytes(b"")  # yet to come
    monkeypatch.chdir(tmp_path)
    written = run("mapping", "trace", "config.yaml", "-o", "traced.yaml")
    assert written.exit_code == 0, written.output
    assert "39 of 39 tensors in 12 entries" in written.output
    assert Path("traced.yaml").read_text().startswith("# from torchtitan.models.llama3.state_dict_adapter:Llama3State")
    assert run("convert", "config.yaml", "-o", "target.safetensors", "--overwrite").exit_code == 0
    assert run("verify", "config.yaml").exit_code == 0
    tensors = load_file("target.safetensors")
    key = "layers.2.attention.qkv_linear.wk.weight"
    rows = tensors[key].reshape(3, 6, 2, 48)  # as if it had not been permuted
    tensors[key] = np.ascontiguousarray(rows.transpose(0, 2, 1, 3)).reshape(36, 48)
    save_file(tensors, "target.safetensors")
    assert f"differs  {key}" in run("verify", "config.yaml").output
    what = "torchtitan Llama 3, its adapter imported", "key of layer 2 not permuted"
    result = table.compare(*what, lambda: open_session(config).compare())
    assert result.verdict == "divergent"
    (finding,) = result.findings
    assert (finding.kind, finding.cause, finding.layers) == ("tensor", "checkpoint", ["2"])
    assert entries(finding) == ["layers.attention.qkv_linear.wk.weight"]
    assert finding.entries[0].file.endswith("Llama3StateDictAdapter.from_hf")


def failure(source, config, **asked):
    with pytest.raises(CkptdbgError) as error:
        find_conversion(asked, Given(source, config, dict, HERE, "c.yaml"))
    return str(error.value)


def test_flavors_and_names_that_do_not_fit_are_said():
    source = {"model.norm.weight": TensorSpec((4096,), "float32")}
    assert failure(source, {}, torchtitan="llama4").startswith("c.yaml: torchtitan has no model 'llama4'; expected ")
    assert "has no flavor '9B'; expected debugmodel, 1B, 3B, 8B, 70B" in failure(
        source, {}, torchtitan="llama3", flavor="9B"
    )
    sizes = {"hidden_size": 48, "vocab_size": 131, "num_hidden_layers": 4}
    told = failure(source, sizes, torchtitan="llama3")
    assert "no flavors of torchtitan.models.llama3 have the checkpoint's sizes; found hidden_size 48" in told
    assert "name one (flavor: debugmodel, 1B, 3B, 8B, 70B, 405B) or a function" in told
    other = {"h.0.weight": TensorSpec((1,), "float32")}
    assert "do not tell the direction; found h.0.weight" in failure(other, {}, torchtitan="llama3", flavor="8B")
    sizes = {"hidden_size": 4096, "vocab_size": 128256, "num_hidden_layers": 32}
    sides = Given(source, sizes, dict, HERE, "c.yaml")
    assert find_conversion({"torchtitan": "llama3"}, sides).name.endswith("Llama3StateDictAdapter.from_hf")


def test_an_error_in_an_adapter_is_said_at_its_line():
    source = {"model.layers.0.self_attn.q_proj.bias": TensorSpec((4,), "float32")}
    sides = Given(source, {}, dict, HERE, "c.yaml")
    found = find_conversion({"torchtitan": "llama3", "flavor": "8B", "direction": "from_hf"}, sides)
    with pytest.raises(CkptdbgError, match=r"llama3/state_dict_adapter\.py:\d+: the conversion raised KeyError"):
        found.convert({name: np.zeros(spec.shape, np.float32) for name, spec in source.items()})
