"""A mapping may speak of a Hugging Face model's names on disk or of those in memory, everywhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from ckptdbg.checkpoint import open_checkpoint
from ckptdbg.cli.app import app
from ckptdbg.documents import dump_yaml
from ckptdbg.errors import MappingError
from ckptdbg.mapping import Mapping
from ckptdbg.mapping.naming import names_in_memory
from ckptdbg.samples.checkpoints import write_checkpoint
from ckptdbg.session import open_session

LOADER = """
import json
import transformers

def load(path, fault=False):
    name = json.loads((path / "config.json").read_text())["architectures"][0]
    model = getattr(transformers, name).from_pretrained(path)
    if fault:
        fused = model.model.layers[1].mlp.experts.gate_up_proj
        fused.data = fused.data.roll(fused.shape[1] // 2, 1)
    return model
"""


def names_of(folder: Path) -> list[str]:
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    return list(model.state_dict())


def place(folder: Path, family: str, *, target: dict, mapping=None, tied: bool = True, **sizes) -> Path:
    """A config with the sample as its source, and by default every name in memory mapped to itself."""
    source = write_checkpoint(family, folder / "source", **sizes)
    names = [name for name in names_of(source) if tied or name != "lm_head.weight"]
    document = {"version": 1, "entries": [{"source": name, "target": name} for name in names]}
    (folder / "m.yaml").write_text(dump_yaml(document))
    (folder / "load.py").write_text(LOADER)
    told = {"source": {"loader": "huggingface", "path": "source"}, "target": {"path": "source", **target}}
    told |= {"mapping": mapping or "m.yaml", "probe": {"tokens": "random", "batch": 2, "length": 24}}
    (folder / "c.yaml").write_text(dump_yaml(told))
    return folder / "c.yaml"


MINE = {"loader": "load.py:load"}
SMALL = {"num_hidden_layers": 2}


@pytest.mark.parametrize("family", [pytest.param("mixtral", marks=pytest.mark.slow), "gemma2"])
@pytest.mark.parametrize("target", [MINE, {"loader": "huggingface"}], ids=["own", "huggingface"])
def test_a_mapping_of_names_in_memory_is_compared(tmp_path, family, target):
    result = open_session(place(tmp_path, family, target=target, **SMALL)).compare()
    assert (result.verdict, result.findings) == ("equivalent", [])


@pytest.mark.slow
def test_a_tied_head_need_not_be_spoken_of_in_memory_either(tmp_path):
    config = place(tmp_path, "gemma2", target={"loader": "huggingface"}, tied=False, **SMALL)
    assert open_session(config).compare().verdict == "equivalent"


@pytest.mark.slow
@pytest.mark.parametrize("mapping", [None, {"transformers": True}], ids=["memory", "disk"])
def test_fused_experts_that_are_wrong_are_named_under_either_name(tmp_path, mapping):
    target = {**MINE, "options": {"fault": True}}
    result = open_session(place(tmp_path, "mixtral", target=target, mapping=mapping, **SMALL)).compare()
    assert result.verdict == "divergent"
    (finding,) = result.findings
    (entry,) = finding.entries
    assert entry.name.endswith("experts.gate_up_proj")
    assert ".1." in str(finding.site)


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_weights_alone_are_verified_and_converted_by_names_in_memory(tmp_path, monkeypatch):
    place(tmp_path, "mixtral", target={**MINE, "path": "made.safetensors"}, **SMALL)
    (tmp_path / "made.safetensors").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    made = run("convert", "c.yaml", "-o", "made.safetensors", "--overwrite")
    assert made.exit_code == 0, made.output
    disk, memory = load_file("source/model.safetensors"), load_file("made.safetensors")
    prefix = "model.layers.1."
    fused = memory[f"{prefix}mlp.experts.gate_up_proj"]
    gate = disk[f"{prefix}block_sparse_moe.experts.3.w1.weight"]
    np.testing.assert_array_equal(fused[3, : len(gate)], gate)
    assert run("verify", "c.yaml").exit_code == 0
    fused[3, 0, 0] += 1
    save_file(memory, "made.safetensors")
    assert f"differs  {prefix}mlp.experts.gate_up_proj: 1 of" in run("verify", "c.yaml").output


@pytest.mark.slow
def test_a_bfloat16_checkpoint_keeps_its_bits(tmp_path):
    place(tmp_path, "mixtral", target={"loader": "huggingface"}, dtype="bfloat16", **SMALL)
    session = open_session(tmp_path / "c.yaml")
    name = "model.layers.1.mlp.experts.down_proj"
    assert session.source.specs[name].dtype == "bfloat16"
    disk = open_checkpoint(tmp_path / "source")
    experts = [f"model.layers.1.block_sparse_moe.experts.{i}.w2.weight" for i in range(5)]
    assert session.source.read(name).tobytes() == np.stack([disk.read(one) for one in experts]).tobytes()
    assert session.compare().verdict == "equivalent"


MIXED = """
version: 1
entries:
- {source: "model.layers.{layer}.mlp.experts.gate_up_proj", target: "a.{layer}"}
- {source: "model.layers.{layer}.block_sparse_moe.experts.0.w2.weight", target: "b.{layer}"}
"""


def test_a_mapping_that_mixes_both_is_refused(tmp_path):
    config = place(tmp_path, "mixtral", target=MINE, **SMALL)
    (tmp_path / "m.yaml").write_text(MIXED.strip())
    with pytest.raises(MappingError) as error:
        _ = open_session(config).source
    assert str(error.value) == (
        f"{tmp_path}/m.yaml:3: the mapping mixes names of the source on disk with names in memory; "
        "found model.layers.0.mlp.experts.gate_up_proj, in memory alone, and "
        f"model.layers.0.block_sparse_moe.experts.0.w2.weight ({tmp_path}/m.yaml:4), on disk alone; "
        "write all of it for one of the two"
    )


def test_only_a_name_that_is_in_memory_alone_tells():
    mapping = Mapping.loads("version: 1\nentries: [{source: 'a.{i}', target: b}, {source: head, target: c}]")
    disk, memory = ["a.0", "a.1"], ["a.0", "a.1", "head"]
    assert names_in_memory(mapping, "source", disk, memory, {"head"}) == memory
    assert names_in_memory(mapping, "target", disk, memory, {"head"}) is None
    alone = Mapping.loads("version: 1\nentries: [{source: 'a.{i}', target: b}]")
    assert names_in_memory(alone, "source", disk, memory, {"head"}) is None
    assert names_in_memory(alone, "source", ["x"], [*memory, "other"], {"head"}) == ["a.0", "a.1", "other"]


def test_a_source_that_ran_elsewhere_is_read_under_its_names_in_memory(tmp_path):
    config = place(tmp_path, "gemma2", target=MINE, **SMALL)
    open_session(config).capture(tmp_path / "trace")
    session = open_session(config, source_trace=tmp_path / "trace")
    assert "lm_head.weight" in session.source_specs
    assert session.read_source("lm_head.weight").shape == (139, 42)
    assert session.compare().verdict == "equivalent"
