"""A fault of the mapping and a definition that differs, in one region: both are found, and the repair is proved."""

from __future__ import annotations

import numpy as np
import pytest

from ckptdbg.diagnose.definitions.experiments import Experiments
from ckptdbg.diagnose.definitions.readings import Rows
from ckptdbg.result import Result
from ckptdbg.samples.build import build_sample
from ckptdbg.session import Session, open_session

TOGETHER = {
    "one layer of several has a wrong order too": (
        "llama_to_nnx",
        ("attention-scale", "query-interleaved-backwards@1"),
        {"attention.query@1"},
        "The scale of the attention scores differs",
    ),
    "no configuration names the definition": (
        "qwen3_moe_to_jax",
        ("out-dim-major", "qk-norm-after-rope"),
        {"attention.out"},
        "are applied at another point than in the source",
    ),
    "what travels on hides later faults": (
        "gemma2_to_jax",
        ("norm-epsilon", "norm-offset-in-both"),
        {"attention.norm", "attention.norm_after", "mlp.norm", "mlp.norm_after", "final_norm"},
        "The epsilon of the norms differs",
    ),
    "where the norms are alike something else is wrong": (
        "qwen3_moe_to_jax",
        ("norm-plus-one@1", "norm-epsilon"),
        {"mlp.norm@1"},
        "The epsilon of the norms differs",
    ),
    "one layer has a wrong order where all apply a scale elsewhere": (
        "qwen3_to_nnx",
        ("value-dim-major@1", "qk-norm-after-rope"),
        {"attention.value@1"},
        "are applied at another point than in the source",
    ),
    "the definition shows at later places alone": (
        "mixtral_to_jax",
        ("router-top-k", "norms-swapped"),
        {"attention.norm", "mlp.norm"},
        "The number of experts per token differs: the target chooses 2 of 5 where the source chooses 3",
    ),
    "rows of a table are read from another start": (
        "bert_to_jax",
        ("position-offset", "norms-swapped"),
        {"attention.norm", "mlp.norm"},
        "The first position differs: the target uses rows 1 to",
    ),
}


def _compared(folder, pair: str, faults: tuple[str, ...]) -> tuple[Session, Result]:
    session = open_session(build_sample(folder, pair, faults, num_hidden_layers=2))
    return session, session.compare()


def _repaired(result: Result) -> set[str]:
    repairs = [r for f in result.findings if f.repair is not None for r in f.repair.parts()]
    assert all(r.verified for r in repairs)
    return {r.entry for r in repairs}


@pytest.mark.slow
@pytest.mark.parametrize("case", list(TOGETHER))
def test_both_are_found_and_the_mapping_is_mended(case, tmp_path):
    pair, faults, entries, sentence = TOGETHER[case]
    session, result = _compared(tmp_path / "faulty", pair, faults)
    assert result.verdict == "divergent"
    assert _repaired(result) == entries
    definitions = [f for f in result.findings if f.kind == "definition"]
    assert definitions
    assert all(sentence in f.explanation for f in definitions)
    bound = session.diagnosis.mapping.bind(session.model_config, session.source_specs, session.target.specs)
    right = open_session(build_sample(tmp_path / "right", pair, num_hidden_layers=2)).target
    for name, value, _ in bound.values(session.read_source):
        # a target that adds 1 to its norm scales takes them without
        added = 1 if "norm-offset-in-both" in faults and "norm" in name else 0
        np.testing.assert_allclose(value + added, right.read(name), rtol=1e-6, err_msg=name)


@pytest.mark.slow
def test_without_looking_behind_the_definition_the_order_is_not_found(tmp_path, monkeypatch):
    monkeypatch.setattr("ckptdbg.repair.solver.behind", lambda *_: iter(()))
    monkeypatch.setattr("ckptdbg.repair.solver.behind_proved", lambda *_: iter(()))
    pair, faults, *_ = TOGETHER["no configuration names the definition"]
    _, result = _compared(tmp_path, pair, faults)
    assert _repaired(result) == set()


def test_where_the_rows_are_not_moved_the_exchange_is_not_found(tmp_path, monkeypatch):
    monkeypatch.setattr(Rows, "undone", lambda _, table: np.array(table))
    pair, faults, *_ = TOGETHER["rows of a table are read from another start"]
    _, result = _compared(tmp_path, pair, faults)
    assert _repaired(result) == set()


TWO_DEFINITIONS = {
    "one is an order": (
        "qwen3_to_nnx",
        ("qk-norm-after-rope", "no-causal-mask"),
        "diagnose.definitions.causes.Definitions.beside_scales",
        ["applied at another point", "The causal mask differs: True in the source, False in the target"],
    ),
    "no configuration names both": (
        "llama_to_torch",
        ("no-causal-mask", "attention-scale"),
        "diagnose.definitions.trials.Trials.prove_two",
        ["The causal mask and the scale of the attention scores differ: True and"],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("looked", [True, False])
@pytest.mark.parametrize("case", list(TWO_DEFINITIONS))
def test_two_definitions_in_one_region_are_told_where_both_are_looked_for(case, looked, tmp_path, monkeypatch):
    pair, faults, search, said = TWO_DEFINITIONS[case]
    monkeypatch.setattr(Experiments, "readings", lambda *_: [])  # as where the configuration names neither
    if not looked:
        monkeypatch.setattr(f"ckptdbg.{search}", lambda *_: None)
    _, result = _compared(tmp_path, pair, faults)
    (finding,) = result.findings
    assert finding.kind == "definition"
    assert [sentence in finding.explanation for sentence in said] == [looked] * len(said)


@pytest.mark.slow
def test_what_a_proved_setting_leaves_unexplained_is_searched_by_itself(tmp_path, monkeypatch):
    """Without that the wrong norm of one layer hides the setting that differs in all."""
    monkeypatch.setattr("ckptdbg.repair.round.Round._with_the_rest", lambda _, places, outcome: [(places, outcome)])
    pair, faults, *_ = TOGETHER["where the norms are alike something else is wrong"]
    _, result = _compared(tmp_path, pair, faults)
    assert _repaired(result) == set()


def test_what_was_said_before_rows_were_moved_is_not_said_again(tmp_path):
    _, result = _compared(tmp_path, "bert_to_jax", ("position-offset", "causal-mask"))
    assert [f.kind for f in result.findings] == ["definition", "definition"]
    assert len({f.site for f in result.findings}) == 2
