"""Wrong tensors that have one cause are one finding; those that have not are not."""

from __future__ import annotations

import re

import pytest

from ckptdbg.checkpoint import open_checkpoint, write_safetensors
from ckptdbg.diagnose.wrong_tensors import wrong_tensors
from ckptdbg.report.changes import changes
from ckptdbg.samples.build import build_sample
from ckptdbg.session import Session, open_session

ALL = "elements beyond rounding of the stored dtype"


def changed(folder, pair, change, **sizes) -> Session:
    """A sample whose target has the tensors that ``change`` gives in the place of its own."""
    config = build_sample(folder, pair, **sizes)
    path = open_session(config).config.target.path
    checkpoint = open_checkpoint(path)
    tensors = {name: checkpoint.read(name) for name in checkpoint.specs}
    path.unlink()
    write_safetensors(path, {**tensors, **change(tensors)}.items())
    return open_session(config)


def told(session):
    return [wrong.finding(None) for wrong in wrong_tensors(session.differences, session.mapping)]


def told_after(folder, pair, change, **sizes):
    return told(changed(folder, pair, change, **sizes))


def named(finding):
    return [entry.name for entry in finding.entries]


def taken(tensors, instead):
    """Every tensor from the one whose name ``instead`` makes of its own."""
    return {name: tensors[instead(name)] for name in tensors}


def exchanged(first, second):
    """Of two parts of names, each for the other."""
    other = {first: second, second: first}
    return lambda name: re.sub(f"{first}|{second}", lambda m: other[m[0]], name)


def in_layers(order):
    """In the place of each layer of a GPT-2 the one that stands there in ``order``."""
    return lambda name: re.sub(r"^h_(\d+)/", lambda m: f"h_{order[int(m[1])]}/", name)


AS_TEXT = sorted(range(12), key=str)
GATE, UP = "wi_0", "wi_1"
gate_and_up = exchanged(GATE, UP)


def test_layers_in_another_order_are_one_finding_of_all_entries(tmp_path):
    (finding,) = told_after(tmp_path, "gpt2_to_jax", lambda tensors: taken(tensors, in_layers(AS_TEXT)), n_layer=12)
    assert len(named(finding)) == 12
    assert [repair.entry for repair in finding.repair.parts()] == named(finding)
    assert changes(finding.repair) == [(" ", "each of them: make the tensor again from the source; the mapping stays")]
    moved = ", ".join(f"layer {layer} what layer {AS_TEXT[layer]} should" for layer in range(2, 10))
    assert finding.explanation.startswith(
        "Layers of attention.norm, attention.norm_bias, attention.qkv and 9 more hold what other layers should: "
        f"{moved} and 2 more; worst in h_"
    )
    by_layer = ", ".join(f"{layer}: {AS_TEXT[layer]}" for layer in range(2, 12))
    assert finding.evidence[:2] == [
        f"by layer, whose it holds: {by_layer}",
        f"h_2/ln_1/scale: it holds what h_10/ln_1/scale should; 40 of 40 {ALL}",
    ]
    assert finding.evidence[9:] == [
        "and 152 more, which `ckptdbg verify` lists",
        "no compared site shows it: this probe does not exercise the wrong elements",
    ]


def test_layers_that_all_hold_the_last_one_s_tensors_are_one_finding(tmp_path):
    (finding,) = told_after(tmp_path, "gpt2_to_jax", lambda tensors: taken(tensors, in_layers([2] * 3)), n_layer=3)
    assert len(named(finding)) == 12
    assert "hold what other layers should: layer 0 what layer 2 should, layer 1 what layer 2 should; worst in" in (
        finding.explanation
    )


def test_an_entry_whose_layers_are_in_an_order_of_its_own_is_another_finding(tmp_path):
    def change(tensors):
        rolled, down = in_layers([1, 2, 0, *range(3, 12)]), [n for n in tensors if n.endswith("mlp/proj/kernel")]
        return {**taken(tensors, in_layers(AS_TEXT)), **{name: tensors[rolled(name)] for name in down}}

    found = told_after(tmp_path, "gpt2_to_jax", change, n_layer=12)
    assert sorted(len(named(f)) for f in found) == [1, 11]
    alone = next(f for f in found if len(named(f)) == 1)
    assert named(alone) == ["mlp.down"]
    assert "layer 0 what layer 1 should, layer 1 what layer 2 should, layer 2 what layer 0 should;" in alone.explanation


def test_two_entries_that_changed_places_in_every_layer_are_one_finding(tmp_path):
    (finding,) = told_after(tmp_path, "llama_to_nnx", lambda tensors: taken(tensors, gate_and_up))
    assert named(finding) == ["mlp.gate", "mlp.up"]
    assert "changed places: each holds what the other should (and so did 3 more pairs of" in finding.explanation
    assert finding.explanation.endswith("Convert or load these tensors again.")
    assert [line.partition(";")[0] for line in finding.evidence[:8]] == [
        f"decoder/layers_{layer}/mlp/{own}/kernel: it holds what decoder/layers_{layer}/mlp/{other}/kernel should"
        for own, other in ((GATE, UP), (UP, GATE))
        for layer in range(4)
    ]


def test_they_are_one_finding_too_where_one_layer_of_a_scan_has_them(tmp_path):
    session = open_session(build_sample(tmp_path, "llama_to_scan", ("checkpoint-gate-up-swapped@1",)))
    (finding,) = told(session)
    assert named(finding) == ["mlp.gate", "mlp.up"]
    assert "changed places: each holds what the other should; worst in" in finding.explanation
    assert finding.explanation.endswith("Convert or load both again.")


@pytest.mark.parametrize(("own", "other", "entry"), [(UP, GATE, "mlp.up"), (GATE, UP, "mlp.gate")])
def test_an_entry_that_holds_another_s_tensors_in_every_layer_is_one_finding(own, other, entry, tmp_path):
    (finding,) = told_after(tmp_path, "llama_to_nnx", lambda tensors: taken(tensors, lambda n: n.replace(own, other)))
    assert named(finding) == [entry]
    assert "(and 3 more of this entry) is not what the mapping makes" in finding.explanation
    assert [line.partition(";")[0] for line in finding.evidence[:4]] == [
        f"decoder/layers_{layer}/mlp/{own}/kernel: it holds what decoder/layers_{layer}/mlp/{other}/kernel should"
        for layer in range(4)
    ]


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize(("zeros", "entry", "one_sided"), [(GATE, "mlp.gate", "mlp.up"), (UP, "mlp.up", "mlp.gate")])
def test_what_else_is_wrong_with_one_layer_is_told_by_itself(zeros, entry, one_sided, layer, tmp_path):
    def change(tensors):
        name = f"decoder/layers_{layer}/mlp/{zeros}/kernel"
        return {**taken(tensors, gate_and_up), name: 0 * tensors[name]}

    found = {tuple(named(f)): f.explanation for f in told_after(tmp_path, "llama_to_nnx", change)}
    assert found.keys() == {("mlp.gate", "mlp.up"), (entry,), (one_sided,)}
    assert "(and so did 2 more pairs of tensors)" in found["mlp.gate", "mlp.up"]
    assert "all zeros" in found[entry,]
    assert f"layers_{layer}/mlp/{GATE if zeros == UP else UP}/kernel is not what" in found[one_sided,]
    assert f"it holds what decoder/layers_{layer}/mlp/{zeros}/kernel should" in found[one_sided,]


def test_layers_that_moved_say_nothing_of_an_exchange_in_others(tmp_path):
    def change(tensors):
        gate = [f"decoder/layers_{layer}/mlp/{GATE}/kernel" for layer in range(4)]
        first = {n: tensors[gate_and_up(n)] for n in tensors if re.search(r"layers_[01]/mlp/wi", n)}
        return {**first, gate[2]: tensors[gate[3]], gate[3]: tensors[gate[2]]}

    found = {tuple(named(f)): f.explanation for f in told_after(tmp_path, "llama_to_nnx", change)}
    assert found.keys() == {("mlp.gate", "mlp.up"), ("mlp.gate",)}
    assert "(and so did 1 more pair of tensors)" in found["mlp.gate", "mlp.up"]
    assert f"layers_2/mlp/{GATE}/kernel and decoder/layers_3/mlp/{GATE}/kernel changed places" in found["mlp.gate",]


@pytest.mark.parametrize("across", [False, True])
def test_two_targets_of_one_entry_that_changed_places_are_not_called_layers(across, tmp_path):
    query_and_key = exchanged("query/kernel", "key/kernel")

    def change(tensors):
        moved = in_layers([1, 0])
        return taken(
            tensors, lambda name: moved(query_and_key(name)) if across and "y/kernel" in name else query_and_key(name)
        )

    (finding,) = told_after(tmp_path, "gpt2_to_jax", change, n_layer=2)
    assert named(finding) == ["attention.qkv"]
    assert "(and so did 1 more pair of tensors)" in finding.explanation
    assert f"query/kernel: it holds what h_{int(across)}/attn/key/kernel should" in finding.evidence[0]


@pytest.fixture
def reversed_layers(tmp_path) -> Session:
    def other(name):
        return re.sub(r"layers_(\d)", lambda m: f"layers_{1 - int(m[1])}", name)

    return changed(tmp_path, "llama_to_nnx", lambda tensors: taken(tensors, other), num_hidden_layers=2)


def test_compare_tells_it_once_and_proves_its_repair(reversed_layers):
    result = reversed_layers.compare()
    (finding,) = result.findings
    assert (finding.kind, finding.cause, finding.effect, finding.layers) == (
        "tensor", "checkpoint", "diverges", ["0", "1"],
    )  # fmt: skip
    assert all(repair.verified for repair in finding.repair.parts())
    assert reversed_layers.try_(1).mended


def test_it_is_not_proved_where_one_of_its_places_is_left(reversed_layers, monkeypatch):
    left = "decoder/layers_1/mlp/wo/kernel out"
    assert left in {site.site + " " + site.port for site in reversed_layers.compare(repair=False).sites}
    monkeypatch.setattr("ckptdbg.repair.diagnosis._left", lambda session: {left})
    (finding,) = open_session(reversed_layers.config.file).compare().findings
    assert finding.site != left
    assert not finding.repair.verified
