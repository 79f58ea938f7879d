"""penzai's Llama, converted by penzai, against Hugging Face's: named axes, blocks unrolled or scanned."""

from __future__ import annotations

import pytest
from checks import assert_healthy, entries, only_finding
from place import copy_checkpoint, place, swap

from ckptdbg.session import open_session

SIZES = {"head_dim": 8}
"""penzai knows no head size but hidden_size / num_attention_heads."""


@pytest.mark.parametrize("name", ["penzai_llama", "penzai_llama_stacked"])
def test_llama_is_equivalent(tmp_path, table, name):
    config = place(name, tmp_path, "llama", target="source", **SIZES)
    how = "scanned" if name.endswith("stacked") else "unrolled"
    assert_healthy(table.compare(f"penzai Llama, {how}", "", lambda: open_session(config).compare()))


def test_a_layer_with_gate_and_up_exchanged_is_found(tmp_path, table):
    config = place("penzai_llama_stacked", tmp_path, "llama", target="broken", **SIZES)
    names = [f"model.layers.2.mlp.{which}_proj.weight" for which in ("gate", "up")]
    copy_checkpoint(tmp_path / "source", tmp_path / "broken", tensors=lambda tensors: swap(tensors, *names))
    result = table.compare(
        "penzai Llama, scanned", "gate and up of layer 2 exchanged", lambda: open_session(config).compare()
    )
    assert result.verdict == "divergent"
    assert {name for finding in result.findings for name in entries(finding)} == {"mlp.gate", "mlp.up"}
    assert {(f.kind, f.cause, *f.layers) for f in result.findings} == {("tensor", "checkpoint", "2")}


def test_another_rotary_base_is_found(tmp_path, table):
    config = place("penzai_llama_stacked", tmp_path, "llama", target="broken", **SIZES)
    copy_checkpoint(
        tmp_path / "source", tmp_path / "broken", config=lambda told: told["rope_parameters"].update(rope_theta=20000.0)
    )
    result = table.compare("penzai Llama, scanned", "rotary base doubled", lambda: open_session(config).compare())
    finding = only_finding(result, result.verdict)
    assert result.verdict in ("divergent", "definition-differs")
    assert {"attention.query", "attention.key"} <= set(entries(finding))
