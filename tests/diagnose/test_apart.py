"""Places of one template that are made of different entries: what is told of some of them, of others, of all."""

from __future__ import annotations

import pytest

from ckptdbg.diagnose.edit import Edit
from ckptdbg.diagnose.findings import each_definition_once
from ckptdbg.diagnose.regions import Place
from ckptdbg.diagnose.search import Mend, Outcome
from ckptdbg.diagnose.trial import Attempt
from ckptdbg.repair.round import _of_all
from ckptdbg.repair.solver import Solver
from ckptdbg.result import Definition, EntryRef, Finding
from ckptdbg.samples.build import build_sample
from ckptdbg.session import open_session

BASE = Definition(name="the rotary base", source="10000", target="500000")
FIRST, SECOND = (Place("in", (consumer,), frozenset(), frozenset(), 1e6) for consumer in (1, 2))


def _edits(text: str) -> tuple[Edit, ...]:
    return (Edit("entry", "order", text, 1, (), ()),)


class _Bench:
    """Ratios at the two places: as they are (no text), and by what the edit says."""

    def __init__(self, ratios: dict[str, tuple[float, float]]) -> None:
        self._ratios = ratios

    def ratios(self, attempts: list[Attempt]) -> list[float]:
        found = [self._ratios["".join(e.text for e in a.edits)] for a in attempts]
        return [ratios[a.place.consumers[0] - 1] for ratios, a in zip(found, attempts, strict=True)]

    def breaks(self, *_: object) -> bool:
        return False


def _mend(ratios: dict[str, tuple[float, float]], also: tuple[str, ...] = ()) -> Mend:
    return Mend(_edits("edit"), 1e6, 0.5, tuple(_edits(text) for text in also), bench=_Bench(ratios))  # type: ignore[arg-type]


def _everywhere(mend: Mend) -> tuple[Outcome | None, list[Mend]]:
    """What is told of both places where the mend was found at one, and the mends that are kept."""
    solver = object.__new__(Solver)
    solver.mends, solver._bench = [mend], mend.bench
    return solver.everywhere(Outcome(mend, (), 1), [FIRST, SECOND]), solver.mends


@pytest.mark.parametrize(
    ("plain", "edited", "mended"),
    [
        ((1e6, 1e6), (0.5, 0.7), True),
        ((1e6, 1e6), (0.5, 1e5), False),
        ((1e6, 0.5), (0.5, 0.7), False),  # one of them needs no edit where the mend was found
    ],
)
def test_a_mend_is_told_of_places_that_all_need_it(plain, edited, mended):
    assert (_mend({"": plain, "edit": edited}).at([FIRST, SECOND]) is not None) is mended


@pytest.mark.parametrize("elsewhere", [0.6, 1e5])
def test_of_edits_that_do_as_well_at_some_places_the_one_that_mends_all_is_told(elsewhere):
    mend = _mend({"": (1e6, 1e6), "edit": (0.5, 1e5), "other": (0.5, elsewhere)}, also=("other",))
    outcome, kept = _everywhere(mend)
    if elsewhere > 1:
        assert outcome is None
        assert kept == [mend]
        return
    assert outcome is not None
    assert outcome.mend is not None
    assert (outcome.mend.edits, outcome.mend.also, outcome.mend.after) == (_edits("other"), (), elsewhere)
    assert kept == [outcome.mend]


def test_the_first_of_them_is_told_where_it_mends_all_and_the_others_with_it():
    mend = _mend({"": (1e6, 1e6), "edit": (0.5, 0.6), "other": (0.5, 0.7), "third": (0.5, 1e5)}, ("other", "third"))
    outcome, kept = _everywhere(mend)
    assert outcome is not None
    assert outcome.mend is not None
    assert (outcome.mend.edits, outcome.mend.also) == (_edits("edit"), (_edits("other"),))
    assert kept == [outcome.mend]


def test_of_parts_of_which_nothing_is_explained_all_that_was_tried_is_told():
    found = [([SECOND], Outcome(None, ("order", "scale"), 3)), ([FIRST], Outcome(None, ("scale", "heads"), 4))]
    outcome = _of_all(found, FIRST)
    assert outcome is not None
    assert (outcome.excluded, outcome.tried, outcome.complete) == (("order", "scale", "heads"), 7, True)


def test_one_part_that_was_not_searched_to_the_end_leaves_all_of_them_open():
    found = [([FIRST], Outcome(None, ("order",), 3)), ([SECOND], Outcome(None, (), 9, complete=False))]
    outcome = _of_all(found, FIRST)
    assert outcome is not None
    assert not outcome.complete
    assert _of_all([([FIRST], None), ([SECOND], Outcome(None, (), 1))], FIRST) is None


@pytest.mark.parametrize("once", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_one_definition_is_one_finding_though_a_layer_has_an_entry_of_its_own(once, tmp_path, monkeypatch):
    if not once:
        monkeypatch.setattr("ckptdbg.repair.diagnosis.each_definition_once", lambda findings: findings)
    config = build_sample(tmp_path, "llama_to_nnx", ("rope-theta", "out-dim-major@1"), num_hidden_layers=2)
    findings = open_session(config).compare().findings
    told = [f for f in findings if f.kind == "definition"]
    assert all(f.definition == BASE for f in told)
    assert [f.layers for f in told] == ([["0", "1"]] if once else [["0"], ["1"]])
    assert [f.entries[0].name for f in findings if f.repair is not None] == ["attention.out@1"]


def _defined(site: str, layer: str, definition: Definition | None, entry: str = "attention.query") -> Finding:
    return Finding(
        kind="definition",
        cause="model",
        effect="diverges",
        entries=[EntryRef(name=entry)],
        layers=[layer],
        site=site,
        ratio=float(layer),
        explanation=f"It differs at {site}.",
        definition=definition,
    )


def test_a_definition_that_differs_alike_at_several_places_is_told_of_the_first_with_all_layers_and_entries():
    found = [_defined("a", "10", BASE), _defined("b", "9", BASE, "attention.key"), _defined("c", "11", None)]
    found[1].evidence.append("not every edit was tried")
    first, other = each_definition_once(found)
    assert other == found[2]
    assert (first.site, first.explanation, first.layers, first.ratio) == ("a", found[0].explanation, ["9", "10"], 10)
    assert [e.name for e in first.entries] == ["attention.query", "attention.key"]
    assert first.evidence == ["so too at b (ratio 9)", "not every edit was tried"]


@pytest.mark.parametrize(
    "second",
    [
        _defined("b", "2", BASE.model_copy(update={"target": "7"})),
        _defined("b", "2", Definition(name="the order of norm and rotation")),
        _defined("b", "2", BASE.model_copy(update={"source": None, "target": "the target uses rows 1 to 9 of b"})),
        _defined("b", "2", None),
        _defined("b", "2", BASE).model_copy(update={"effect": "none"}),
    ],
)
def test_what_differs_otherwise_stays_a_finding_of_its_own(second):
    found = [_defined("a", "1", BASE), second]
    assert each_definition_once(found) == found


def test_an_order_without_values_is_the_same_one_where_it_is_of_the_same_scales():
    order = Definition(name="the order of norm and rotation")
    found = [_defined(s, "1", order, entry) for s, entry in (("a", "key_norm"), ("b", "norm"), ("c", "key_norm"))]
    assert [f.site for f in each_definition_once(found)] == ["a", "b"]
