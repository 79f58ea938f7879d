"""What two models define differently is named, and proved by running the source with the target's value."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from ckptdbg.compare.replay import TargetReplay
from ckptdbg.diagnose.definitions.candidates import groups
from ckptdbg.diagnose.definitions.causes import Definitions
from ckptdbg.diagnose.definitions.fields import field_differences
from ckptdbg.diagnose.definitions.meanings import (
    ACTIVATION,
    BASE,
    CAUSAL,
    EMBEDDING_SCALE,
    EPSILON,
    EXPERTS,
    FINAL_CAP,
    FRACTION,
    ORDER,
    POSITIONS,
    ROPE_TYPE,
    ROUTER_NORM,
    SCALE,
    SCORE_CAP,
    STRETCH,
    WINDOW,
    Meaning,
    meaning_of,
)
from ckptdbg.diagnose.definitions.rotary import frequencies, rotary_groups
from ckptdbg.diagnose.findings import template
from ckptdbg.diagnose.regions import Place, find_places
from ckptdbg.models.torch_side.knobs import Knobs
from ckptdbg.repair.source import definitions
from ckptdbg.samples.build import build_sample
from ckptdbg.samples.faults import FAULTS
from ckptdbg.session import Session, open_session

CAUSES: dict[str, Meaning] = {
    "rope-theta": BASE,
    "rope-partial": FRACTION,
    "norm-epsilon": EPSILON,
    "layer-norm-epsilon": EPSILON,
    "gelu-for-silu": ACTIVATION,
    "gelu-tanh": ACTIVATION,
    "gelu-exact": ACTIVATION,
    "attention-scale": SCALE,
    "no-causal-mask": CAUSAL,
    "causal-mask": CAUSAL,
    "qk-norm-after-rope": ORDER,
    "attention-cap-missing": SCORE_CAP,
    "final-cap-missing": FINAL_CAP,
    "window-missing": WINDOW,
    "window-off-by-one": WINDOW,
    "embedding-scale-missing": EMBEDDING_SCALE,
    "position-offset": POSITIONS,
}
QUICK = [("llama_to_torch", name) for name in ("rope-theta", "gelu-for-silu")]
EVERYWHERE = [(pair, name) for name in CAUSES for pair in FAULTS[name].pairs]


def opened(folder, pair: str, fault: str) -> Session:
    return open_session(build_sample(folder, pair, (fault,)))


def causes(session: Session, *, blind: bool = False):
    """What is said of the places of every template; ``blind``: without looking at the configurations."""
    found: Definitions = definitions(session, session.comparison)
    if blind:
        found.experiments.differences = []
    alike: dict[tuple, list[Place]] = {}
    for place in find_places(session.comparison):
        alike.setdefault(template(session.comparison, place), []).append(place)
    return [found.of(places) for places in alike.values()]


@pytest.mark.parametrize(("pair", "fault"), QUICK)
def test_the_report_names_the_cause_and_how_it_was_proved(pair, fault, tmp_path):
    (finding,) = opened(tmp_path, pair, fault).compare().findings
    assert (finding.kind, finding.cause, finding.repair) == ("definition", "model", None)
    assert finding.explanation.lower().startswith(CAUSES[fault].name)
    assert "the source agrees with the target at all 4 places" in finding.explanation


@pytest.mark.parametrize(
    ("pair", "fault"), [c if c in QUICK else pytest.param(*c, marks=pytest.mark.slow) for c in EVERYWHERE]
)
def test_the_planted_cause_is_proved_everywhere(pair, fault, tmp_path):
    found = causes(opened(tmp_path, pair, fault))
    assert found
    assert all(c.proved for c in found), found
    assert {c.meaning for c in found} == {CAUSES[fault]}


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["rope-theta", "rope-partial", "norm-epsilon", "attention-scale", "no-causal-mask"])
def test_a_cause_is_proved_without_any_configuration(fault, tmp_path):
    """Values are tried, and where they are numbers searched for: 1e-4 is in no list."""
    found = causes(opened(tmp_path, "llama_to_torch", fault), blind=True)
    assert {c.meaning for c in found} == {CAUSES[fault]}


def test_the_value_is_found_where_no_list_has_it(tmp_path):
    session = opened(tmp_path, "llama_to_torch", "norm-epsilon")
    places = find_places(session.comparison)
    found = definitions(session, session.comparison)
    found.experiments.differences = []
    proof = found.experiments.proof(places, lambda candidate: candidate.meaning is EPSILON)
    assert proof is not None
    assert float(proof.candidate.after) == pytest.approx(1e-4, rel=1e-3)
    # and a setting that is not the cause proves nothing
    assert found.experiments.proof(places, lambda candidate: candidate.meaning is BASE) is None


def test_two_settings_are_proved_together_though_a_configuration_repeats_one_of_them(tmp_path):
    """The source's ``config.rms_norm_eps`` changes nothing: its modules hold their own."""
    session = open_session(build_sample(tmp_path, "qwen3_to_nnx", ("rope-theta", "norm-epsilon")))
    scores = [p for p in find_places(session.comparison) if len(p.consumers) == 1 and len(p.met) == 2]
    said = definitions(session, session.comparison).known(scores)
    assert said is not None
    assert said.meaning is not None
    assert said.meaning.name == f"{BASE.name} and {EPSILON.name}"


def test_a_window_that_no_tried_value_reaches_is_not_excluded(tmp_path):
    """A window of 64 and none at all are the same on 48 tokens; the target's 9 is in no list."""
    config = build_sample(tmp_path, "gemma2_to_jax", sliding_window=64)
    config.write_text(config.read_text().replace("window: 64", "window: 9"))
    session = open_session(config)
    found = definitions(session, session.comparison)
    found.experiments.differences = []
    places = find_places(session.comparison)
    assert found.experiments.proof(places, lambda candidate: candidate.meaning is WINDOW) is None
    assert found.experiments.trials is not None
    assert found.experiments.trials.without_effect == []
    assert {c.after for c in found.experiments.trials.in_vain} == {"32", "1"}


def test_a_run_without_a_window_shows_no_more_than_its_tokens(tmp_path):
    (said,) = causes(opened(tmp_path, "gemma2_to_jax", "window-missing"), blind=True)
    assert "17 in the source, none that the probe reaches in the target" in str(said.proved)


def test_settings_of_one_name_are_tried_by_value_too():
    model = nn.Sequential(nn.LayerNorm(3, eps=1e-5), nn.LayerNorm(3, eps=1e-6), nn.LayerNorm(3, eps=1e-5))
    tried = [c for g in groups(Knobs(model), [], {}) if g.meaning is EPSILON for c in g.candidates]
    alone = [c for c in tried if [*c.changes] == ["1.eps"]]
    assert ("1e-06", "1e-05") in {(c.before, c.after) for c in alone}
    (together,) = {c.before for c in tried if len(c.changes) == 3}
    assert together == "1e-05 and 1e-06"


def test_without_a_source_to_run_the_evidence_speaks_and_nothing_is_called_proved(tmp_path):
    session = opened(tmp_path, "llama_to_torch", "rope-theta")
    found = definitions(session, session.comparison)
    found = Definitions(found.comparison, None, found.differences, found.sizes)
    said = found.of(find_places(session.comparison)[:1])
    assert said.proved is None
    fits = [line for line in said.evidence if line.startswith("fits the evidence")]
    assert BASE.name in fits[0]
    assert "500000" in fits[0]


def test_two_settings_of_one_region_are_proved_together(tmp_path):
    faults = ("rope-theta", "no-causal-mask", "norm-epsilon")
    session = open_session(build_sample(tmp_path, "llama_to_torch", faults))
    scores = [p for p in find_places(session.comparison) if len(p.consumers) == 1 and not p.met]
    said = definitions(session, session.comparison).known(scores)
    assert said is not None
    assert said.meaning is not None
    assert set(said.meaning.name.split(" and ")) == {BASE.name, CAUSAL.name}  # the epsilon is not needed here


@pytest.mark.parametrize("fault", ["gelu-for-silu", pytest.param("norm-epsilon", marks=pytest.mark.slow)])
def test_where_the_source_has_no_settings_those_of_the_target_are_varied(fault, tmp_path):
    session = opened(tmp_path, "llama_to_torch", fault)
    found = definitions(session, session.comparison)
    replay = TargetReplay(session.comparison.rerun, session.comparison.plants)
    said = Definitions(found.comparison, replay, found.differences, found.sizes).known(find_places(session.comparison))
    assert said is not None
    assert said.meaning is CAUSES[fault]
    assert said.proved is not None
    assert "the target agrees with the source at all" in said.proved


def test_fields_of_one_meaning_are_compared_by_value():
    source = {"rms_norm_eps": 1e-6, "rope_parameters": {"rope_theta": 1e4}, "hidden_act": "silu", "sliding_window": 4}
    target = {"norm_epsilon": 1e-6, "rope_base": 10000, "activation": "swish", "window": None, "layers": 3}
    (only,) = field_differences(source, target)
    assert (only.meaning, only.source_value, only.target_value) == (WINDOW, 4, None)


@pytest.mark.parametrize(
    ("field", "meaning"),
    [
        ("variance_epsilon", EPSILON),
        ("rotary_emb_base", BASE),
        ("rotary_pct", FRACTION),
        ("num_experts_per_tok", EXPERTS),
        ("norm_topk_prob", ROUTER_NORM),
        ("final_logit_softcapping", FINAL_CAP),
        ("attn_logit_softcapping", SCORE_CAP),
        ("hiddenAct", ACTIVATION),
        ("hidden_size", None),
        ("vocab_size", None),
        ("attention_dropout", None),
    ],
)
def test_names_of_fields(field, meaning):
    assert meaning_of(f"some.path.{field}") is meaning


def llama3(table: np.ndarray, factor: float, context: float) -> np.ndarray:
    """As transformers computes it."""
    config = LlamaConfig(
        hidden_size=2 * len(table),
        num_attention_heads=1,
        rope_parameters={
            "rope_theta": 5e5,
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": int(context),
        },
    )
    return ROPE_INIT_FUNCTIONS["llama3"](config)[0].numpy().astype(np.float64)


def test_rotary_tables_are_told_by_their_values_and_scaled_as_published():
    plain = frequencies(5e5, 16, 16)
    found = {g.meaning: g for g in rotary_groups({"any.name": plain, "other": np.ones(16)}, [])}
    assert set(found) == {BASE, FRACTION, STRETCH, ROPE_TYPE}
    (eight, *_) = found[ROPE_TYPE].candidates
    assert [*eight.changes] == ["any.name"]
    scaled = llama3(plain, 8.0, 8192.0)
    np.testing.assert_allclose(eight.changes["any.name"], scaled, rtol=1e-6)
    (back,) = rotary_groups({"any.name": scaled}, [])
    np.testing.assert_allclose(back.candidates[0].changes["any.name"], plain, rtol=1e-6)


def test_a_scaling_of_the_source_that_the_target_lacks(tmp_path):
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    rope = {"rope_theta": 1e4, "original_max_position_embeddings": 64, **scaling}
    session = open_session(build_sample(tmp_path, "llama_to_torch", rope_parameters=rope))
    (said,) = causes(session)
    assert said.meaning is ROPE_TYPE
    assert said.proved is not None


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.act, self.scale = nn.LayerNorm(3, eps=1e-5), nn.SiLU(), 0.5
        self.register_buffer("table", torch.tensor([1.0, 0.1, 0.01]), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.norm(x)) * self.scale * self.table


def test_settings_are_turned_and_come_back():
    model, x = Small().eval(), torch.randn(4, 3)
    knobs, before = Knobs(model), None
    assert knobs.activations() == {"act": "silu"}
    assert (knobs.values()["norm.eps"], knobs.values()["scale"]) == (1e-5, 0.5)
    with torch.no_grad():
        before = model(x)
        with knobs.turned({"norm.eps": 0.3, "act": "gelu", "scale": 2.0, "table": np.ones(3)}):
            expected = nn.functional.gelu(nn.functional.layer_norm(x, (3,), eps=0.3)) * 2.0
            torch.testing.assert_close(model(x), expected)
        torch.testing.assert_close(model(x), before, rtol=0, atol=0)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_settings_come_back_whatever_happens_and_whenever(error, monkeypatch):
    model = Small().eval()
    knobs = Knobs(model)
    kept = (model.norm.eps, model.act, model.scale, model.table)
    changes = {"norm.eps": 0.3, "act": "gelu", "scale": 2.0, "table": np.ones(3)}
    with pytest.raises(error), knobs.turned(changes):
        raise error
    assert (model.norm.eps, model.act, model.scale, model.table) == kept
    turn = Knobs._turn

    def interrupted(self, path, value):
        turn(self, path, value)
        if path == "table":
            raise error

    monkeypatch.setattr(Knobs, "_turn", interrupted)
    with pytest.raises(error), knobs.turned(changes):
        pytest.fail("it was interrupted before")
    assert model.table is kept[-1]
    assert (model.norm.eps, model.act, model.scale) == kept[:-1]
