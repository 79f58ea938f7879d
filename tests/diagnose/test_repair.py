"""A planted fault is mended, the repair is proved by a run of the whole model, and the mapping that comes out is
right."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ckptdbg.diagnose.grammar import edits
from ckptdbg.diagnose.regions import find_places
from ckptdbg.diagnose.relabel import Relabel
from ckptdbg.diagnose.search import search
from ckptdbg.errors import MappingError
from ckptdbg.mapping import Mapping
from ckptdbg.samples.build import build_sample
from ckptdbg.session import Session, open_session

PAIR = "llama_to_torch"
MAPPING_FAULTS = [
    "qkv-not-interleaved",
    "gate-up-order",
    "gate-up-interleaved",
    "norm-plus-one",
    "norms-swapped",
    "head-wrongly-tied",
]


@pytest.fixture(scope="module")
def healthy(tmp_path_factory) -> Session:
    return open_session(build_sample(tmp_path_factory.mktemp("healthy"), PAIR))


@pytest.mark.parametrize("fault", MAPPING_FAULTS)
def test_a_mapping_fault_is_mended_and_the_mapping_written(fault, tmp_path, healthy):
    session = open_session(build_sample(tmp_path, PAIR, faults=(fault,)))
    result = session.compare()
    assert result.verdict == "divergent"
    repairs = [f.repair for f in result.findings if f.effect == "diverges"]
    assert repairs
    for repair in repairs:
        assert repair is not None
        assert repair.verified
        assert repair.ratio_after is not None
        assert repair.ratio_after < result.noise.suspect
    # what the corrected mapping makes of the source is what the right mapping makes
    bound = session.diagnosis.mapping.bind(session.model_config, session.source_specs, session.target.specs)
    for name, value, _ in bound.values(session.read_source):
        np.testing.assert_array_equal(value, np.asarray(healthy.target.read(name)), err_msg=name)


def test_a_definition_fault_is_not_mended_and_says_what_was_excluded(tmp_path, monkeypatch):
    session = open_session(build_sample(tmp_path, PAIR, faults=("gelu-for-silu",)))
    monkeypatch.setattr(
        "ckptdbg.diagnose.definitions.experiments.groups", lambda *_: []
    )  # as where no setting can be tried
    monkeypatch.setattr("ckptdbg.diagnose.trial.SECONDS", 3600.0)  # a busy machine is no reason to fail
    result = session.compare()
    assert result.verdict == "definition-differs"
    (finding,) = result.findings
    assert (finding.kind, finding.cause, finding.repair) == ("definition", "model", None)
    assert any("rotary order" in text for text in finding.excluded)
    assert any(text.startswith("fits the evidence: the activation function") for text in finding.evidence)
    assert "between layers." in finding.explanation
    assert "What fits the evidence best: the activation function: the source has hidden_act" in finding.explanation
    assert not session.diagnosis.mended


def test_a_wrong_tensor_is_mended_by_the_tensor_and_the_mapping_stays(tmp_path):
    session = open_session(build_sample(tmp_path, PAIR, faults=("down-zeros",)))
    (finding,) = session.compare().findings
    assert (finding.kind, finding.cause) == ("tensor", "checkpoint")
    assert finding.repair is not None
    assert finding.repair.verified
    assert finding.repair.ops_before == finding.repair.ops_after
    assert not session.diagnosis.mended


@pytest.mark.parametrize(
    ("fault", "named"), [("checkpoint-gate-up-swapped@1", {"mlp.gate", "mlp.up"}), ("layers-swapped@0", {"mlp.down"})]
)
def test_two_tensors_that_changed_places_are_one_finding(fault, named, tmp_path):
    session = open_session(build_sample(tmp_path, "llama_to_nnx", (fault,), num_hidden_layers=2))
    (finding,) = session.compare().findings
    wrong = {d.tensor for d in session.evidence.tensors}
    assert len(wrong) == 2
    assert all(name in finding.explanation for name in wrong)
    assert {e.name for e in finding.entries} == named
    assert finding.repair is not None
    assert {part.entry for part in finding.repair.parts()} == named
    assert all(part.verified for part in finding.repair.parts())


def test_faults_that_hide_each_other_come_out_together(tmp_path):
    faults = ("gate-up-order", "norm-plus-one", "down-element@2", "qkv-not-interleaved")
    session = open_session(build_sample(tmp_path, PAIR, faults=faults))
    result = session.compare()
    named = {e.name for f in result.findings for e in f.entries}
    assert {"mlp.gate_up", "mlp.norm", "mlp.down", "attention.qkv"} <= named
    assert all(f.repair is not None and f.repair.verified for f in result.findings)


IN_ONE_REGION = {
    "two orders": ("llama_to_nnx", ("query-interleaved-backwards", "key-not-interleaved"), {"query", "key"}),
    "an order and a scale": ("llama_to_scan", ("out-dim-major", "query-scale-missing"), {"query", "out"}),
    "an order and an exchange": (
        "mixtral_to_jax", ("out-dim-major@1", "key-value-swapped@1"), {"key@1", "value@1", "out@1"},
    ),
    "an exchange and an order of a third": (
        "qwen3_to_nnx", ("key-value-swapped@1", "query-not-interleaved@1"), {"key@1", "value@1", "query@1"},
    ),
}  # fmt: skip


def _mended_together(folder, case) -> list:
    pair, faults, _ = IN_ONE_REGION[case]
    session = open_session(build_sample(folder, pair, faults, num_hidden_layers=2))
    return [f.repair for f in session.compare().findings]


@pytest.mark.parametrize("case", list(IN_ONE_REGION))
def test_two_faults_in_one_region_are_found_together(case, tmp_path):
    (repair,) = _mended_together(tmp_path, case)
    assert repair is not None
    assert repair.verified
    named = {part.entry for part in repair.parts()}
    assert named == {f"attention.{entry}" for entry in IN_ONE_REGION[case][2]}


@pytest.mark.slow
@pytest.mark.parametrize(("case", "function", "nothing"), [
    ("two orders", "ckptdbg.repair.solver.Apart", lambda *_: None),
    ("an order and a scale", "ckptdbg.diagnose.pairs.led", lambda *_: []),
    ("an order and an exchange", "ckptdbg.diagnose.pairs._beside", lambda *_: []),
    ("an exchange and an order of a third", "ckptdbg.diagnose.pairs.led", lambda *_: []),
])  # fmt: skip
def test_they_are_not_found_where_they_are_not_tried_so(case, function, nothing, tmp_path, monkeypatch):
    monkeypatch.setattr(function, nothing)
    assert _mended_together(tmp_path, case) == [None]


def test_what_mends_one_place_is_tried_at_the_next_before_anything_else(tmp_path, monkeypatch):
    searched = []

    def counted(bench, places, *rest):
        searched.append(places)
        return search(bench, places, *rest)

    monkeypatch.setattr("ckptdbg.repair.solver.search", counted)
    session = open_session(build_sample(tmp_path, "llama_to_nnx", ("layers-in-pairs-swapped",)))
    (finding,) = session.compare().findings
    assert finding.repair is not None
    assert finding.repair.verified
    assert any("also at decoder/layers_1/self_attention/query/kernel in" in line for line in finding.evidence)
    assert len(searched) == 1


def test_a_second_seed_may_choose_experts_that_the_first_did_not(tmp_path):
    session = open_session(build_sample(tmp_path, "qwen3_moe_to_jax", seed=2))
    session = session.repaired(session.unbound_mapping, {}, seed=2)
    other = session.repaired(session.unbound_mapping, {}, seed=3)
    before, after = (len(s.source_side.view.graph.anchors) for s in (session, other))
    assert before < after
    assert find_places(other.comparison) == []


def test_nothing_is_proposed_for_a_healthy_conversion(healthy):
    result = healthy.compare()
    assert (result.verdict, result.findings) == ("equivalent", [])
    assert healthy.diagnosis.mapping.text == healthy.unbound_mapping.text


def test_a_layout_under_an_edit_is_what_pushing_through_the_edited_mapping_gives(healthy):
    """Relabelling takes a short cut; the long way is to bind the edited mapping and read all layouts again."""
    mapping, view = healthy.unbound_mapping, healthy.target_view
    relabel = Relabel(view, healthy.mapping, healthy.source_specs)
    name = "attention.qkv"
    instances = [e for e in healthy.mapping.entries if e.name == name]
    candidates = edits(instances[0], mapping, healthy.sizes)
    assert len(candidates) > 10
    anchors = [a for a, x in enumerate(view.labels) if any(e.name == name for e in x.entries)]
    for edit in candidates[:: len(candidates) // 6]:
        session = healthy.repaired(Mapping.loads(edit.written(mapping).text), {})
        changed = {t: replace(e, ops=edit.ops) for e in instances for t in e.targets}
        for anchor in anchors:
            short, long = relabel.layout(anchor, changed), session.target_view.anchors[anchor]
            assert short is not None
            assert short.scale.role == long.scale.role, edit.text
            for a, b in zip(short.coordinates, long.coordinates, strict=True):
                assert a.role == b.role, edit.text
                np.testing.assert_array_equal(a.values, b.values, err_msg=edit.text)


def test_the_mended_mapping_is_written_to_a_new_file_only(tmp_path):
    session = open_session(build_sample(tmp_path, PAIR, faults=("gate-up-interleaved",)))
    target = tmp_path / "mended.yaml"
    assert session.diagnosis.write(target) == target
    assert "(two f) m -> (f two) m" not in target.read_text()
    assert target.read_text().startswith(session.unbound_mapping.text.splitlines()[0])  # its author's comments stay
    with pytest.raises(MappingError, match="already"):
        session.diagnosis.write(target)


@pytest.mark.slow
def test_a_layout_and_a_definition_in_one_region_are_told_apart(tmp_path):
    session = open_session(build_sample(tmp_path, PAIR, faults=("qkv-not-interleaved", "no-causal-mask")))
    layout, definition = session.compare().findings
    assert (layout.kind, definition.kind) == ("layout", "definition")
    assert layout.repair is not None
    assert layout.repair.verified
    assert "causal mask" in layout.evidence[0]
    assert definition.explanation.startswith("The causal mask differs")
    assert session.diagnosis.mended


def _embedding_without_its_scale(folder) -> list:
    config = build_sample(folder, "gemma2_to_jax", ("embedding-scale-missing",), num_hidden_layers=2)
    return open_session(config).compare().findings


def test_an_edit_that_spoils_what_agrees_elsewhere_is_no_repair(tmp_path):
    """The embedding is the head as well: a scale in it would mend the one and spoil the other."""
    (finding,) = _embedding_without_its_scale(tmp_path)
    assert (finding.kind, finding.cause, finding.repair) == ("definition", "model", None)
    assert finding.explanation.startswith("The scale of the embedding differs")


def test_experts_of_three_entries_in_a_wrong_order_are_put_in_order_one_after_the_other(tmp_path):
    """Their own values agree meanwhile: all three follow one wrong order, which the router does not know of."""
    config = build_sample(tmp_path, "qwen3_moe_to_jax", ("experts-sorted-as-text",), num_hidden_layers=2)
    repairs = [f.repair for f in open_session(config).compare().findings]
    assert all(r is not None and r.verified for r in repairs)
    names = {e.entry for r in repairs if r is not None for e in (r, *r.together)}
    assert names == {"moe.down", "moe.gate", "moe.up"}


@pytest.mark.slow
def test_without_that_rule_it_would_be_called_one(tmp_path, monkeypatch):
    monkeypatch.setattr("ckptdbg.diagnose.trial.Bench.breaks", lambda *_: False)
    assert any(finding.repair is not None for finding in _embedding_without_its_scale(tmp_path))
