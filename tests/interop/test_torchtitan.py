"""torchtitan's own Llama 3 and Qwen 3 against Hugging Face's, through mappings written by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from checks import assert_healthy, entries, only_finding
from place import place
from safetensors.torch import load_file, save_file

from ckptdbg.models.loaders.function import find_function
from ckptdbg.samples.pairs import sample_configs
from ckptdbg.session import open_session

QUERY_KEY = {"attention.wq", "attention.wk"}


def without_permutation(mapping: dict[str, Any]) -> None:
    for name in QUERY_KEY:
        del mapping[name]["ops"]


def convert(folder: Path, permute: bool) -> None:
    """``target.safetensors`` from ``source``, by torchtitan's own adapter."""
    from torchtitan.models.llama3.state_dict_adapter import Llama3StateDictAdapter

    configure = find_function("torchtitan_models.py:configure", sample_configs() / "interop")
    sizes = {"layers": 4, "dim": 48, "heads": 6, "kv_heads": 3, "head_dim": 12, "mlp": 112, "vocab": 131}
    config = configure("llama3", **sizes, norm_epsilon=1e-6, rope_theta=10000.0, max_length=64)
    adapter = Llama3StateDictAdapter(config, None)
    if not permute:
        adapter._reverse_permute = lambda weight, *_: weight
    made = adapter.from_hf(load_file(folder / "source" / "model.safetensors"))
    save_file({name: value.contiguous() for name, value in made.items()}, folder / "target.safetensors")


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "separate"])
def test_llama3_is_equivalent(tmp_path, table, fused):
    config = place("torchtitan_llama3", tmp_path, "llama", options={"fuse_qkv": fused})
    how = "wqkv fused" if fused else "wq, wk, wv"
    assert_healthy(table.compare(f"torchtitan Llama 3, {how}", "", lambda: open_session(config).compare()))


def test_llama3_converted_by_torchtitan_is_equivalent(tmp_path, table):
    config = place("torchtitan_llama3", tmp_path, "llama", target="target.safetensors")
    convert(tmp_path, permute=True)
    result = table.compare("torchtitan Llama 3, its from_hf", "", lambda: open_session(config).compare())
    assert_healthy(result)


def test_a_mapping_without_the_permutation_is_found(tmp_path, table):
    config = place("torchtitan_llama3", tmp_path, "llama", edit=without_permutation, options={"fuse_qkv": False})
    result = table.compare(
        "torchtitan Llama 3, wq, wk, wv", "no permutation in the mapping", lambda: open_session(config).compare()
    )
    finding = only_finding(result)
    assert set(entries(finding)) == QUERY_KEY
    assert finding.layers == ["0", "1", "2", "3"]


def test_a_fused_mapping_without_the_permutation_is_found(tmp_path, table):
    """Values share the fused anchor with queries and keys, so they are under suspicion too, after them."""
    config = place("torchtitan_llama3", tmp_path, "llama", edit=without_permutation)
    result = table.compare(
        "torchtitan Llama 3, wqkv fused", "no permutation in the mapping", lambda: open_session(config).compare()
    )
    finding = only_finding(result)
    assert set(entries(finding)[:2]) == QUERY_KEY
    assert finding.layers == ["0", "1", "2", "3"]


def test_a_checkpoint_without_the_permutation_is_found(tmp_path, table):
    config = place("torchtitan_llama3", tmp_path, "llama", target="target.safetensors")
    convert(tmp_path, permute=False)
    result = table.compare(
        "torchtitan Llama 3, its from_hf", "no permutation in from_hf", lambda: open_session(config).compare()
    )
    assert result.verdict == "divergent"
    assert {name for finding in result.findings for name in entries(finding)} == QUERY_KEY
    assert {finding.kind for finding in result.findings} == {"tensor"}


def test_qwen3_is_equivalent(tmp_path, table):
    config = place("torchtitan_qwen3", tmp_path, "qwen3")
    assert_healthy(table.compare("torchtitan Qwen 3", "", lambda: open_session(config).compare()))


def test_qwen3_with_its_head_norms_exchanged_is_found(tmp_path, table):
    def exchange(mapping: dict[str, Any]) -> None:
        query, key = mapping["attention.q_norm"], mapping["attention.k_norm"]
        query["source"], key["source"] = key["source"], query["source"]

    config = place("torchtitan_qwen3", tmp_path, "qwen3", edit=exchange)
    result = table.compare("torchtitan Qwen 3", "q_norm and k_norm exchanged", lambda: open_session(config).compare())
    assert result.verdict == "divergent"
    assert {"attention.q_norm", "attention.k_norm"} <= {n for f in result.findings for n in entries(f)}
