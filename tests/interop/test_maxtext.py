"""MaxText's tables and hooks, traced by model name: the mapping gives the bits of MaxText's own loops."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import maxtext_own as own
import numpy as np
import pytest
from maxtext.checkpoint_conversion.utils.hf_shape import HF_SHAPE
from maxtext.checkpoint_conversion.utils.param_mapping import HOOK_FNS, PARAM_MAPPING
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from ckptdbg.checkpoint import open_checkpoint
from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.cli.app import app
from ckptdbg.documents import dump_yaml
from ckptdbg.mapping.agent_plan import Rules
from ckptdbg.mapping.tracing import trace
from ckptdbg.models.importers import Given, find_conversion
from ckptdbg.models.importers.maxtext import key_of
from ckptdbg.samples.checkpoints import write_checkpoint

MODELS = {
    "llama": ("llama3.1-8b", {}),
    "gemma2": ("gemma2-2b", {}),
    "qwen3": ("qwen3-8b", {}),
    "qwen3_moe": ("qwen3-30b-a3b", {}),
    # MaxText counts on heads that fill the hidden size
    "mixtral": ("mixtral-8x7b", {"num_experts": 5, "head_dim": 6}),
}


class Case:
    """A tiny checkpoint, and MaxText's tables for it."""

    def __init__(self, family, scan, folder):
        self.name, self.options = MODELS[family]
        sizes = {"hidden_size": 48} if family == "mixtral" else {}
        checkpoint = open_checkpoint(write_checkpoint(family, folder, **sizes))
        self.hf = {name: np.array(checkpoint.read(name)) for name in checkpoint.specs}
        self.hf_specs, self.config, self.scan = checkpoint.specs, checkpoint.config, scan
        self.settings = SimpleNamespace(
            scan_layers=scan, param_scan_axis=1, weight_dtype="float32", **{"num_experts": 1, **self.options}
        )
        arguments = (self.config, self.settings, scan)
        self.names = PARAM_MAPPING[self.name](*arguments)
        self.into, self.back = (HOOK_FNS[self.name](*arguments, saving_to_hf=saving) for saving in (False, True))
        if "lm_head.weight" not in self.hf:
            self.names.pop("params-decoder-logits_dense-kernel", None)
        if family.startswith("qwen"):
            self.names = {key: value for key, value in self.names.items() if not key.endswith("-bias")}
        layers = self.config["num_hidden_layers"] // (2 if family == "gemma2" else 1)
        vocab = self.config["vocab_size"] + (5 if family in ("gemma2", "qwen3") else 0)
        self.shapes = own.shapes_of(self.config, self.names, layers if scan else None, vocab)
        self.paths = {key.removeprefix("params-").replace("-", "/"): key for key in self.names}

    def find(self, source, target=None, **asked):
        specs = {name: TensorSpec(np.shape(value), "float32") for name, value in (target or {}).items()}
        asked = {"maxtext": self.name, "scan": self.scan, "options": self.options, **asked}
        return find_conversion(asked, Given(source, self.config, lambda: specs, None, "c.yaml"))

    def made(self):
        """MaxText's tensors, by MaxText's loops."""
        get = self.hf.__getitem__
        made = {}
        for path, key in self.paths.items():
            value = own.from_hf(key, self.names[key], get, self.into.get(key), self.shapes[key], self.settings)
            made[path] = np.asarray(value)
        return made

    def returned(self, tensors):
        shapes, found = HF_SHAPE[self.name](self.config), []
        for path, key in self.paths.items():
            weight = jnp.asarray(tensors[path])
            found += own.to_hf(key, weight, self.names, self.back, shapes, self.settings)
        return {name: np.asarray(value) for name, value in found}


@pytest.fixture(params=[(family, scan) for family in MODELS for scan in (False, True)], ids=str)
def case(request, tmp_path):
    return Case(*request.param, tmp_path)


def differing(traced, given, wanted, config):
    specs = {name: TensorSpec(value.shape, value.dtype.name) for name, value in given.items()}
    made = {n: v for n, v, _ in traced.mapping.bind(config, specs, traced.specs).values(given.__getitem__)}
    assert made.keys() == wanted.keys()
    return {name for name, value in made.items() if value.tobytes() != wanted[name].tobytes()}


def test_the_mapping_makes_what_maxtext_makes(case):
    wanted = case.made()
    found = case.find(case.hf_specs, wanted)
    traced = trace(found.convert, case.hf_specs, case.config, found.name, case.hf)
    assert traced.untraced == traced.inexact == ()
    assert found.name.endswith("MAXTEXT_TO_HF_PARAM_MAPPING (from_hf)")
    assert differing(traced, case.hf, wanted, case.config) == set()


def test_and_back(case):
    tensors = case.made()
    specs = {name: TensorSpec(value.shape, "float32") for name, value in tensors.items()}
    found = case.find(specs)
    traced = trace(found.convert, specs, case.config, found.name, tensors)
    assert traced.untraced == traced.inexact == ()
    assert differing(traced, tensors, case.returned(tensors), case.config) == set()


def test_keys_fold_numbers_into_the_part_before():
    assert key_of("params/decoder/layers/3/mlp/wi_0/kernel/value") == "params-decoder-layers_3-mlp-wi_0-kernel"


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_from_the_command_line_to_a_fault_that_is_named(tmp_path, monkeypatch):
    case = Case("llama", True, tmp_path / "source")
    made = case.made()
    monkeypatch.chdir(tmp_path)
    save_file({name: np.ascontiguousarray(value) for name, value in made.items()}, "target.safetensors")
    told = {
        "source": {"loader": "huggingface", "path": "source"},
        "target": {"loader": "ckptdbg.samples.targets.scan_llama:load", "path": "target.safetensors"},
        "mapping": {"maxtext": "llama3.1-8b", "scan": True},
    }
    Path("c.yaml").write_text(dump_yaml(told))
    written = run("mapping", "trace", "c.yaml", "-o", "m.yaml")
    assert written.exit_code == 0, written.output
    assert "12 of 12 tensors in 12 entries" in written.output
    assert "LLAMA31_MAXTEXT_TO_HF_PARAM_MAPPING (from_hf)" in Path("m.yaml").read_text().splitlines()[0]
    assert run("verify", "c.yaml").exit_code == 0
    assert run("convert", "c.yaml", "-o", "out.safetensors").exit_code == 0
    converted = load_file("out.safetensors")
    assert {name for name, value in converted.items() if value.tobytes() != made[name].tobytes()} == set()
    key = made["decoder/layers/self_attention/key/kernel"]
    halves = key.reshape(*key.shape[:-1], key.shape[-1] // 2, 2)  # as if rotary pairs had not been put side by side
    converted["decoder/layers/self_attention/key/kernel"] = np.ascontiguousarray(
        np.swapaxes(halves, -1, -2).reshape(key.shape)
    )
    save_file(converted, "target.safetensors")
    found = run("verify", "c.yaml")
    assert found.exit_code == 1
    assert "differs  decoder/layers/self_attention/key/kernel" in found.output
    assert "entry  decoder.layers.self_attention.key.kernel" in found.output


def test_the_rules_of_its_agent_are_read():
    rules = Rules.load(own.FOLDER.parent / "experimental/agent/ckpt_conversion_agent/context/dsl.txt")
    assert len(rules.rules) > 4
    target = {"reshape_kernel": (5, 2, 3), "pos_embed": (1, 4, 5)}
    source = {"reshape_kernel": (6, 5), "patch": (2, 3, 4, 5), "pos_embed": (4, 5), "pad_and_scale_embedding": (6, 5)}
    for name in rules.rules:
        assert rules.ops(name, "from_hf", source.get(name, (6,)), target.get(name, (6, 5)))
    assert rules.ops("reshape_kernel", "from_hf", (6, 5), (5, 2, 3)) == [{"transpose": [1, 0]}, {"reshape": [5, 2, 3]}]
