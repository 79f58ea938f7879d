"""What transformers does between disk and memory, traced: its own bits, in both directions, in every family."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from ckptdbg.checkpoint import open_checkpoint
from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.cli.app import app
from ckptdbg.documents import dump_yaml
from ckptdbg.errors import ConfigError, LoaderError
from ckptdbg.mapping.tracing import trace
from ckptdbg.models.importers import Given, find_conversion
from ckptdbg.samples.checkpoints import write_checkpoint

DECODER = {
    "vocab_size": 61, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 10, "max_position_embeddings": 64,
    "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
}  # fmt: skip
EXPERTS = {"num_experts_per_tok": 3, "moe_intermediate_size": 16}
SAMPLES = ("llama", "gemma2", "gpt2", "bert", "mixtral", "qwen3_moe")
OTHERS = {
    "OlmoeForCausalLM": {**DECODER, **EXPERTS, "num_experts": 12},
    "Qwen2MoeForCausalLM": {**DECODER, **EXPERTS, "num_experts": 5, "shared_expert_intermediate_size": 20},
    "DeepseekV3ForCausalLM": {
        **DECODER, **EXPERTS, "n_routed_experts": 12, "n_group": 3, "topk_group": 2, "first_k_dense_replace": 1,
        "q_lora_rank": 14, "kv_lora_rank": 18, "qk_nope_head_dim": 6, "qk_rope_head_dim": 4, "v_head_dim": 7,
        "num_key_value_heads": 4, "head_dim": 4,
    },
    "MiniMaxForCausalLM": {**DECODER, "num_local_experts": 5},
    "JambaForCausalLM": {**DECODER, "num_experts": 5, "use_mamba_kernels": False, "mamba_dt_rank": 3},
    "PhimoeForCausalLM": {**DECODER, "num_local_experts": 5},
    "GraniteMoeForCausalLM": {**DECODER, "num_local_experts": 5},
}  # fmt: skip


def write(name: str, folder: Path) -> Path:
    """A checkpoint with every parameter random."""
    if name in SAMPLES:
        return write_checkpoint(name, folder)
    import torch
    import transformers

    model_class = getattr(transformers, name)
    model = model_class(model_class.config_class(**OTHERS[name]))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
    model.save_pretrained(folder)
    return folder


def specs_of(tensors):
    return {name: TensorSpec(value.shape, value.dtype.name) for name, value in tensors.items()}


def memory_of(folder: Path) -> dict[str, np.ndarray]:
    import transformers

    name = json.loads((folder / "config.json").read_text())["architectures"][0]
    model = getattr(transformers, name).from_pretrained(folder)
    return {name: value.numpy() for name, value in model.state_dict().items()}


def traced(tensors, config, **asked):
    sides = Given(specs_of(tensors), config, dict, Path("folder"), "c.yaml")
    found = find_conversion({"transformers": True, **asked}, sides)
    return trace(found.convert, sides.source, config, found.name, tensors)


def made(mapping, tensors, config):
    bound = mapping.mapping.bind(config, specs_of(tensors), mapping.specs)
    return {name: value for name, value, _ in bound.values(tensors.__getitem__)}


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    assert {name for name, value in found.items() if value.tobytes() != wanted[name].tobytes()} == set()


QUICK = ("gemma2", "mixtral", "qwen3_moe", "DeepseekV3ForCausalLM")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in (*SAMPLES, *OTHERS)]
)
def test_disk_becomes_memory_and_memory_disk(name, tmp_path):
    folder = write(name, tmp_path)
    config, disk = open_checkpoint(folder).config, load_file(folder / "model.safetensors")
    memory = memory_of(folder)
    into = traced(disk, config)
    assert into.untraced == into.inexact == ()
    assert into.mapping.file == "transformers.core_model_loading:convert_and_load_state_dict_in_model"
    assert_same(made(into, disk, config), memory)
    back = traced(memory, config, direction="to_disk")
    assert back.untraced == back.inexact == ()
    assert_same(made(back, memory, config), disk)


def test_the_direction_is_told_from_the_names(tmp_path):
    folder = write("mixtral", tmp_path)
    config, memory = open_checkpoint(folder).config, memory_of(folder)
    assert traced(memory, config).mapping.file == "transformers.core_model_loading:revert_weight_conversion"
    tied = write("gemma2", tmp_path / "tied")
    with_head = load_file(tied / "model.safetensors")
    with_head["lm_head.weight"] = with_head["model.embed_tokens.weight"].copy()
    mapping = traced(with_head, open_checkpoint(tied).config).mapping
    assert mapping.file.endswith(":convert_and_load_state_dict_in_model")


def test_what_is_missing_is_said(tmp_path):
    folder = write("mixtral", tmp_path)
    config, disk = open_checkpoint(folder).config, load_file(folder / "model.safetensors")
    with pytest.raises(ConfigError, match=r"^c\.yaml: transformers converts by a model's config; found none; put conf"):
        traced(disk, {})
    lost = "model.layers.2.self_attn.q_proj.weight"
    del disk[lost]
    with pytest.raises(LoaderError, match=f"the source: MixtralForCausalLM has parameters .*1 missing .*: {lost};"):
        traced(disk, config)


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_from_the_command_line_a_checkpoint_is_converted_and_a_fault_in_it_named(tmp_path, monkeypatch):
    folder = write("qwen3_moe", tmp_path / "source")
    memory = memory_of(folder)
    save_file(memory, tmp_path / "target.safetensors")
    monkeypatch.chdir(tmp_path)
    side = {"loader": "huggingface", "path": "source"}
    target = {"loader": "m.py:load", "path": "target.safetensors"}
    (tmp_path / "m.py").write_text("")
    Path("c.yaml").write_text(dump_yaml({"source": side, "target": target, "mapping": {"transformers": True}}))
    written = run("mapping", "trace", "c.yaml", "-o", "mapping.yaml")
    assert written.exit_code == 0, written.output
    assert f"{len(memory)} of {len(memory)} tensors in 14 entries" in written.output
    assert run("verify", "c.yaml").exit_code == 0
    converted = run("convert", "c.yaml", "-o", "out.safetensors")
    assert converted.exit_code == 0, converted.output
    assert_same(load_file("out.safetensors"), memory)
    fused = "model.layers.1.mlp.experts.gate_up_proj"
    memory[fused] = np.ascontiguousarray(np.roll(memory[fused], 28, axis=1))  # up before gate
    save_file(memory, tmp_path / "target.safetensors")
    found = run("verify", "c.yaml")
    assert found.exit_code == 1
    assert f"differs  {fused}" in found.output
    assert "entry  model.layers.mlp.experts.gate_up_proj" in found.output
