"""Coverage: the smallest change that it says is seen is seen, a tenth of it is not; and what is not seen is listed."""

import numpy as np
import pytest

from ckptdbg.compare.noise import DIVERGENT
from ckptdbg.config import load_config
from ckptdbg.diagnose.coverage import propose
from ckptdbg.diagnose.nudges import rms
from ckptdbg.samples.build import build_sample
from ckptdbg.session import open_session

# Per pair: sizes that make it quick, and tensors of every kind.
CASES = {
    "llama_to_torch": (
        {"num_hidden_layers": 2},
        ["embedding", "attention.norm", "attention.qkv", "attention.out", "mlp.down", "final_norm", "head"],
    ),
    "gpt2_to_jax": (
        {"n_layer": 2},
        ["embedding", "positions", "attention.norm_bias", "attention.qkv", "mlp.up_bias", "mlp.down_bias"],
    ),
    "mixtral_to_jax": ({"num_hidden_layers": 1}, ["moe.router", "moe.gate", "moe.down", "mlp.norm"]),
    "llama_to_scan": ({"num_hidden_layers": 2}, ["attention.key", "mlp.norm", "mlp.up"]),
}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A session of each pair with its coverage, made once."""
    known = {}

    def measure(pair):
        if pair not in known:
            session = open_session(build_sample(tmp_path_factory.mktemp(pair), pair, **CASES[pair][0]))
            known[pair] = session, session.with_coverage(session.compare(repair=False)).coverage
        return known[pair]

    return measure


def worst_ratio(session, tensor, value):
    """The largest ratio of any piece by itself, in working precision, with another value of one target tensor."""
    comparison = session.repaired(session.unbound_mapping, {tensor: value}).comparison
    return max(site.isolated.working.ratio for site in [*comparison.sites, comparison.output])


def planted(session, row, size):
    value = np.array(session.target.read(row.tensor), np.float64)
    value[tuple(row.worst)] += size * rms(value)
    return value


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pair", "entry"), [(pair, entry) for pair, (_, entries) in CASES.items() for entry in entries]
)
def test_the_smallest_change_that_is_seen(measured, pair, entry):
    session, coverage = measured(pair)
    row = next(r for r in coverage.tensors if r.entry == entry and r.element is not None)
    assert worst_ratio(session, row.tensor, planted(session, row, 2 * row.element)) >= DIVERGENT
    assert worst_ratio(session, row.tensor, planted(session, row, row.element / 10)) < DIVERGENT
    value = np.array(session.target.read(row.tensor), np.float64)
    assert worst_ratio(session, row.tensor, value * (1 + 2 * row.whole)) >= DIVERGENT
    assert worst_ratio(session, row.tensor, value * (1 + row.whole / 10)) < DIVERGENT


@pytest.mark.slow
def test_rows_of_the_vocabulary_and_positions_that_no_token_meets_are_not_seen(measured):
    session, coverage = measured("llama_to_torch")
    ids, vocabulary = session.inputs["input_ids"], session.model_config["vocab_size"]
    (row,) = [r for r in coverage.tensors if r.entry == "embedding"]
    missed = sorted(set(range(vocabulary)) - set(ids.flat))
    assert row.unseen == len(missed) * session.model_config["hidden_size"]
    assert any(
        line.startswith(f"{row.tensor}: {len(missed)} of {vocabulary} are never met") for line in coverage.unseen
    )
    value = np.array(session.target.read(row.tensor), np.float64)
    value[missed[0]] *= -3
    assert worst_ratio(session, row.tensor, value) < DIVERGENT
    session, coverage = measured("gpt2_to_jax")
    (row,) = [r for r in coverage.tensors if r.entry == "positions"]
    length, positions = session.inputs["input_ids"].shape[1], row.elements // session.model_config["n_embd"]
    assert row.unseen == (positions - length) * session.model_config["n_embd"]
    assert coverage.proposal == "probe: {tokens: cover}"


@pytest.mark.slow
def test_a_key_bias_is_not_seen_because_softmax_takes_it_away(measured):
    _, coverage = measured("gpt2_to_jax")
    rows = {r.tensor: r for r in coverage.tensors if r.entry == "attention.qkv_bias"}
    (key,) = [r for name, r in rows.items() if "key" in name and "0" in name]
    assert key.whole is None
    assert key.element is None
    assert key.unseen == key.elements
    assert all(r.element is not None for name, r in rows.items() if "key" not in name)


def test_a_covering_probe_is_proposed_only_where_it_helps():
    assert propose(["embedding: 3 of 9 are never met"], cover=False) == "probe: {tokens: cover}"
    assert propose(["embedding: 3 of 9 are never met"], cover=True) is None
    assert propose([], cover=False) is None


def covering(folder, pair, **sizes):
    config = load_config(build_sample(folder, pair, **sizes))
    probe = config.probe.model_copy(update={"tokens": "cover", "length": 16})
    return open_session(config.model_copy(update={"probe": probe}))


@pytest.mark.parametrize("pair", ["llama_to_torch", "gpt2_to_jax", "gemma2_to_jax"])
def test_a_covering_probe_has_every_token_and_reaches_far_enough(pair, tmp_path):
    session = covering(tmp_path, pair)
    ids, config = session.inputs["input_ids"], session.model_config
    assert set(ids.flat) == set(range(config["vocab_size"]))
    assert ids.shape[0] != ids.shape[1]
    assert ids.shape[1] >= {"gpt2_to_jax": config.get("n_positions", 0)}.get(pair, 16)
    assert ids.shape[1] > (config.get("sliding_window") or 0)


def test_a_covering_probe_draws_more_rows_until_every_expert_is_chosen(tmp_path, monkeypatch):
    session = covering(tmp_path, "mixtral_to_jax", num_hidden_layers=1)
    assert session._unrouted(session.inputs) == 0
    told = iter([3, 1, 0])
    other = open_session(session.config)
    vars(other)["source"] = session.source
    monkeypatch.setattr(other, "_unrouted", lambda inputs: next(told))
    assert len(other.inputs["input_ids"]) >= 4 * len(session.inputs["input_ids"]) - 2


@pytest.mark.slow
def test_a_covering_probe_leaves_nothing_unseen(tmp_path):
    session = covering(tmp_path, "llama_to_torch", num_hidden_layers=1)
    coverage = session.with_coverage(session.compare(repair=False)).coverage
    assert coverage.unseen == []
    assert coverage.proposal is None
