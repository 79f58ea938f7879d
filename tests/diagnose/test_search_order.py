"""What is tried first, and what is then not tried any more."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ruamel.yaml import YAML
from safetensors.numpy import save_file

from ckptdbg.diagnose import pairs
from ckptdbg.diagnose.definitions.candidate import Candidate, joined
from ckptdbg.diagnose.definitions.causes import Causes, Definitions, Proved
from ckptdbg.diagnose.definitions.meanings import BASE, SCALE
from ckptdbg.diagnose.edit import Edit
from ckptdbg.diagnose.regions import Place
from ckptdbg.diagnose.search import Mend, Outcome
from ckptdbg.repair.solver import Solver
from ckptdbg.result import Result
from ckptdbg.samples.build import build_sample
from ckptdbg.session import open_session


def _compared(folder, pair: str, *faults: str) -> Result:
    return open_session(build_sample(folder, pair, faults, num_hidden_layers=2)).compare()


def _repaired(result: Result) -> set[str]:
    repairs = [r for f in result.findings if f.repair is not None for r in f.repair.parts()]
    assert all(r.verified for r in repairs)
    return {r.entry for r in repairs}


def _all_seen(causes: Causes | None) -> Causes | None:
    return None if causes is None else replace(causes, unseen=())


@pytest.fixture
def tried_in_pairs(monkeypatch) -> list[set[str]]:
    """The entries of which pairs were tried that nothing pointed to, by search."""
    found, usual = [], pairs.of_one_family

    def noted(singles):
        found.append({edit.entry for one in singles for candidate in one for edit in candidate})
        return usual(singles)

    monkeypatch.setattr(pairs, "of_one_family", noted)
    return found


def test_pairs_that_nothing_points_to_are_not_tried_where_one_definition_explains_the_places(
    tmp_path, tried_in_pairs, monkeypatch
):
    monkeypatch.setattr(Definitions, "known", lambda *_: None)  # no configuration names it
    result = _compared(tmp_path, "bert_to_jax", "gelu-tanh")
    assert [f.kind for f in result.findings] == ["definition"]
    assert tried_in_pairs == []


def test_they_are_tried_where_none_does(tmp_path, tried_in_pairs, monkeypatch):
    monkeypatch.setattr(Definitions, "known", lambda *_: None)
    monkeypatch.setattr(Definitions, "alone", lambda *_: None)
    _compared(tmp_path, "bert_to_jax", "gelu-tanh")
    assert tried_in_pairs
    assert {"mlp.up", "mlp.up_bias"} <= tried_in_pairs[0]


@pytest.mark.parametrize("beside", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_one_edit_beside_what_the_configuration_names_comes_before_pairs(beside, tmp_path, tried_in_pairs, monkeypatch):
    if not beside:
        monkeypatch.setattr(Solver, "_mended_beside_named", lambda *_: None)
    result = _compared(tmp_path, "llama_to_nnx", "rope-theta", "out-dim-major")
    assert _repaired(result) == {"attention.out"}
    assert {f.definition.name for f in result.findings if f.definition is not None} == {"the rotary base"}
    assert (tried_in_pairs == []) is beside


def test_where_no_single_edit_does_without_the_setting_the_factor_beside_it_is_told(tmp_path):
    result = _compared(tmp_path, "llama_to_scan", "query-scale-missing", "rope-partial")
    assert _repaired(result) == {"attention.query"}
    assert "definition" in {f.kind for f in result.findings}


FACTOR, MOVED = (Edit("entry", family, "", 1, (), ()) for family in ("scale", "head order"))


class _Bench:
    """A place whose ratio with the source as it is becomes this with any edit."""

    def __init__(self, edited: float) -> None:
        self.edited = edited

    def ratios(self, attempts: list) -> list[float]:
        return [self.edited if attempt.edits else 1e6 for attempt in attempts]

    def breaks(self, *_: object) -> bool:
        return False


@pytest.mark.parametrize(
    ("beside", "edited", "plain", "told"),
    [
        (MOVED, 1e5, None, "beside"),
        (MOVED, 0.5, None, "plain"),  # the setting has no effect there
        (FACTOR, 1e5, None, "beside"),
        (FACTOR, 1e5, FACTOR, "plain"),  # the model need not do what its configuration says
        (None, 1e5, FACTOR, None),
    ],
)
def test_a_setting_is_told_beside_an_edit_where_no_edit_does_without_it(beside, edited, plain, told, monkeypatch):
    bench = _Bench(edited)

    def found(edit: Edit | None) -> Outcome:
        return Outcome(None if edit is None else Mend((edit,), 1e6, 0.5, bench=bench), (), 1)  # type: ignore[arg-type]

    solver = object.__new__(Solver)
    monkeypatch.setattr("ckptdbg.repair.solver.behind_named", lambda *_: [None])
    for name, value in {
        "why": None,
        "_bench": bench,
        "_searched_beside": lambda *_, at_once: found(beside),
        "_searched": lambda *_, at_once: found(plain),
        "_kept": lambda *_: "beside",
        "_plainly": lambda *_: "plain",
    }.items():
        monkeypatch.setattr(solver, name, value, raising=False)
    assert solver._mended_beside_named([Place("in", (1,), frozenset(), frozenset(), 1e6)]) == told


@pytest.mark.slow
def test_where_scales_are_applied_elsewhere_only_theirs_are_tried(tmp_path, tried_in_pairs):
    result = _compared(tmp_path, "qwen3_to_nnx", "qk-norm-after-rope")
    assert [f.kind for f in result.findings] == ["definition"]
    assert tried_in_pairs == [{"attention.query_norm", "attention.key_norm"}]


@pytest.mark.slow
@pytest.mark.parametrize("tried", [True, False])
def test_scales_that_both_missed_a_permutation_are_not_called_applied_elsewhere(tried, tmp_path, monkeypatch):
    if not tried:
        order = Definitions._order
        monkeypatch.setattr(Definitions, "_order", lambda *given: _all_seen(order(*given)))
    config = build_sample(tmp_path, "qwen3_to_nnx", num_hidden_layers=2)
    mapping = next((tmp_path / "mappings").glob("*.yaml"))
    yaml = YAML()
    written = yaml.load(mapping.read_text())
    for entry in written["entries"]:
        if entry["name"] in ("attention.query_norm", "attention.key_norm"):
            entry["ops"] = [op for op in entry["ops"] if "rearrange" not in op]
    with mapping.open("w") as file:
        yaml.dump(written, file)
    session = open_session(config)
    save_file({name: np.ascontiguousarray(value) for name, value in session.made.items()}, session.config.target.path)
    result = open_session(config).compare()
    assert (_repaired(result) == {"attention.query_norm", "attention.key_norm"}) is tried


@pytest.mark.slow
@pytest.mark.parametrize("tried", [True, False])
def test_a_factor_that_makes_up_for_a_definition_is_not_told_beside_another_edit(tried, tmp_path, monkeypatch):
    if not tried:
        monkeypatch.setattr(Solver, "_mended_beside_named", lambda *_: None)
    result = _compared(tmp_path, "llama_to_scan", "attention-scale", "key-permuted-with-query-heads")
    assert _repaired(result) == ({"attention.key"} if tried else {"attention.query", "attention.key"})
    assert ("definition" in {f.kind for f in result.findings}) is tried


@pytest.mark.slow
@pytest.mark.parametrize("known", [True, False])
def test_what_is_proved_of_one_layer_is_not_looked_for_in_the_next(known, tmp_path, monkeypatch):
    looked, usual = [], Definitions.alone
    monkeypatch.setattr(Definitions, "alone", lambda self, places: looked.append(places) or usual(self, places))
    if not known:
        monkeypatch.setattr("ckptdbg.repair.solver.behind_proved", lambda *_: iter(()))
    result = _compared(tmp_path, "qwen3_to_nnx", "qk-norm-after-rope", "out-dim-major@1")
    assert _repaired(result) == {"attention.out@1"}
    assert (len(looked) == 1) is known


def test_a_setting_that_is_proved_again_is_known_once():
    proved = Proved()
    for values in ([1.0, 0.5], [1.0, 0.5], [1.0, 0.25]):  # tables, as of rotary frequencies
        setting = Candidate(BASE, "10000", str(values[1]), {"rotary.table": np.array(values)})
        proved.add(Causes("It differs.", BASE, setting=setting))
    assert [s.after for s in proved.settings] == ["0.5", "0.25"]


def test_several_settings_are_named_in_step_with_their_values():
    held = [Candidate(SCALE, "1", "2", {"a.scale": 2}), Candidate(SCALE, "1", "2", {"b.scale": 2})]
    base = Candidate(BASE, "5", "6", {"table": 6})
    both, alone = joined([*held, base]), joined(held)
    assert (both.meaning.name, both.before, both.after) == (f"{SCALE.name} and {BASE.name}", "1 and 5", "2 and 6")
    assert (alone.meaning, alone.before, alone.after) == (SCALE, "1", "2")
    assert set(both.changes) == {"a.scale", "b.scale", "table"}
