"""Every healthy sample computes what its source computes, to float32 rounding."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from safetensors.numpy import load_file

from ckptdbg.samples import build_sample, list_pairs
from ckptdbg.samples.checkpoints import FAMILIES, write_checkpoint
from ckptdbg.samples.pairs import PAIRS, sample_configs

from .conftest import make_tokens, read_config, relative, run_source, run_target

# Measured 3.5e-7 (BERT) to 8.3e-7 (Qwen3) over 4 to 12 layers.
ROUNDING = 2e-6


@pytest.mark.parametrize("pair", list_pairs())
def test_healthy_sample_matches_its_source(pair, healthy):
    source, target = run_source(healthy(pair)), run_target(healthy(pair))
    assert target.dtype == np.float32
    assert source.std() > 0.5  # logits of nearly equal size would hide everything
    assert relative(target, source) < ROUNDING


@pytest.mark.parametrize("pair", list_pairs())
def test_samples_heed_padding(pair, healthy):
    mask = np.ones_like(make_tokens(healthy(pair)))
    mask[0, 29:] = 0
    source = run_source(healthy(pair), attention_mask=mask)
    target = run_target(healthy(pair), attention_mask=mask)
    real = mask.astype(bool)
    assert relative(target[real], source[real]) < ROUNDING


@pytest.mark.parametrize("pair", [pair for pair in list_pairs() if pair != "bert_to_jax"])
def test_samples_heed_positions(pair, healthy):
    tokens = make_tokens(healthy(pair))
    positions = np.broadcast_to(np.arange(tokens.shape[1]) * 3 + 1, tokens.shape).copy()
    moved, plain = run_target(healthy(pair), position_ids=positions), run_target(healthy(pair))
    assert relative(moved, plain) > 1e-3
    assert relative(moved, run_source(healthy(pair), position_ids=positions)) < ROUNDING


@pytest.mark.parametrize("pair", ["llama_to_scan", "qwen3_moe_to_jax", "bert_to_jax"])
def test_sizes_can_be_overridden(pair, tmp_path):
    config = build_sample(tmp_path, pair, num_hidden_layers=2, hidden_size=72)
    options = read_config(config)["target"]["options"]
    assert (options["layers"], options["embed"]) == (2, 72)
    assert relative(run_target(config), run_source(config)) < ROUNDING


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_is_random(family, tmp_path):
    tensors = load_file(write_checkpoint(family, tmp_path) / "model.safetensors")
    for name, value in tensors.items():
        assert len(np.unique(value)) > 0.9 * value.size, name
    others = load_file(write_checkpoint(family, tmp_path / "other", seed=1) / "model.safetensors")
    assert not any(np.array_equal(tensors[name], others[name]) for name in tensors)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "llama_square"])
def test_sizes_all_differ(family):
    sizes = [
        value for value in FAMILIES[family].sizes.values() if isinstance(value, int) and not isinstance(value, bool)
    ]
    assert len(set(sizes)) == len(sizes)


def test_norms_are_centred_where_the_model_expects_it(tmp_path):
    gemma = load_file(write_checkpoint("gemma2", tmp_path / "gemma") / "model.safetensors")
    llama = load_file(write_checkpoint("llama", tmp_path / "llama") / "model.safetensors")
    assert abs(gemma["model.norm.weight"].mean()) < 0.2
    assert abs(llama["model.norm.weight"].mean() - 1) < 0.2


def test_checkpoints_repeat(tmp_path):
    one, two = (write_checkpoint("llama", tmp_path / name) / "model.safetensors" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_checkpoint_in_bfloat16(tmp_path):
    folder = write_checkpoint("llama", tmp_path, dtype="bfloat16", num_hidden_layers=1)
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"


def test_square_llama_is_square(tmp_path):
    tensors = load_file(write_checkpoint("llama_square", tmp_path) / "model.safetensors")
    assert {value.shape for value in tensors.values() if value.ndim == 2} == {(64, 64)}


@pytest.mark.parametrize("pair", [pair for pair in PAIRS if pair != "llama_square_to_nnx"])
def test_sample_configs_hold_the_sizes_of_their_sample(pair, healthy):
    """So that a config from ``sample_configs`` runs on a sample as it stands."""
    written = read_config(sample_configs() / f"{PAIRS[pair].config}.yaml")
    built = read_config(healthy(pair))
    assert built == written
    assert all(not isinstance(v, float) or math.isfinite(v) for v in built["target"]["options"].values())
