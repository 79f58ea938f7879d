"""Wrong tensors that have one cause are one finding; those that have not are not."""

import re

import pytest

from ckptdbg.checkpoint import open_checkpoint, write_safetensors
from ckptdbg.diagnose.wrong_tensors import wrong_tensors
from ckptdbg.samples.build import build_sample
from ckptdbg.session import open_session


def told_after(tmp_path, pair, change, **sizes):
    """What is told of a sample whose target has these tensors in the place of its own."""
    config = build_sample(tmp_path, pair, **sizes)
    path = open_session(config).config.target.path
    checkpoint = open_checkpoint(path)
    tensors = {name: checkpoint.read(name) for name in checkpoint.specs}
    path.unlink()
    write_safetensors(path, {**tensors, **change(tensors)}.items())
    session = open_session(config)
    return [wrong.finding(None) for wrong in wrong_tensors(session.differences, session.mapping)]


def in_text_order(tensors):
    """What a loop over the layers' names in the order of a file listing writes."""
    layers = sorted({int(n) for name in tensors for n in re.findall(r"^h_(\d+)/", name)})
    as_text = dict(zip(layers, sorted(layers, key=str), strict=True))
    return {name: tensors[re.sub(r"^h_(\d+)/", lambda m: f"h_{as_text[int(m[1])]}/", name)] for name in tensors}


def gate_and_up(tensors):
    exchanged = {"wi_0": "wi_1", "wi_1": "wi_0"}
    other = {name: re.sub(r"wi_[01]", lambda m: exchanged[m[0]], name) for name in tensors}
    return {name: tensors[other[name]] for name in tensors}


def names(finding):
    return [entry.name for entry in finding.entries]


def test_layers_in_another_order_are_one_finding_of_all_entries(tmp_path):
    (finding,) = told_after(tmp_path, "gpt2_to_jax", in_text_order, n_layer=12)
    assert len(names(finding)) == 12
    assert [repair.entry for repair in finding.repair.parts()] == names(finding)
    said = (
        "hold what other layers should: layer 2 what layer 10 should, layer 3 what layer 11 should, layer 4 what layer"
    )
    assert said in finding.explanation
    assert finding.evidence[0].startswith("h_2/ln_1/scale: it holds what h_10/ln_1/scale should; 40 of 40 elements")
    assert finding.evidence[8] == "and 152 more tensors"


def test_an_entry_whose_layers_are_in_another_order_still_is_one_of_its_own(tmp_path):
    def change(tensors):
        down = [f"h_{layer}/mlp/proj/kernel" for layer in range(3)]
        rolled = dict(zip(down, (tensors[name] for name in [*down[1:], down[0]]), strict=True))
        return {**in_text_order(tensors), **rolled}

    found = told_after(tmp_path, "gpt2_to_jax", change, n_layer=12)
    assert sorted(len(names(f)) for f in found) == [1, 11]
    alone = next(f for f in found if len(names(f)) == 1)
    assert names(alone) == ["mlp.down"]
    assert "layer 0 what layer 1 should, layer 1 what layer 2 should, layer 2 what layer 0 should" in alone.explanation


def test_two_entries_that_changed_places_in_every_layer_are_one_finding(tmp_path):
    (finding,) = told_after(tmp_path, "llama_to_nnx", gate_and_up)
    assert names(finding) == ["mlp.gate", "mlp.up"]
    assert (
        "changed places: each holds what the other should (and so did 3 more of these entries)" in finding.explanation
    )


def test_an_entry_that_holds_another_s_tensors_in_every_layer_is_one_finding(tmp_path):
    def change(tensors):
        return {name.replace("wi_0", "wi_1"): value for name, value in tensors.items() if "wi_0" in name}

    (finding,) = told_after(tmp_path, "llama_to_nnx", change)
    assert names(finding) == ["mlp.up"]
    assert "(and 3 more of this entry) is not what the mapping makes" in finding.explanation
    assert [re.sub(r"\d", "", line) for line in finding.evidence[:4]] == [
        "decoder/layers_/mlp/wi_/kernel: it holds what decoder/layers_/mlp/wi_/kernel should;  of  elements beyond "
        "rounding of the stored dtype"
    ] * 4


@pytest.mark.parametrize("fault", ["zeros", "scaled"])
def test_what_else_is_wrong_with_one_layer_is_a_finding_of_its_own(fault, tmp_path):
    def change(tensors):
        name = "decoder/layers_1/mlp/wi_0/kernel"
        return {**gate_and_up(tensors), name: tensors[name] * (0 if fault == "zeros" else 3)}

    found = told_after(tmp_path, "llama_to_nnx", change)
    assert any("(and so did 2 more of these" in f.explanation for f in found)
    alone = [f for f in found if "wi_0" in f.site and names(f) == ["mlp.gate"]]
    assert [f.evidence[0].partition(":")[0] for f in alone] == ["decoder/layers_1/mlp/wi_0/kernel"]
    assert ("all zeros" if fault == "zeros" else "every element times 3") in alone[0].explanation


def test_two_targets_of_one_entry_that_changed_places_are_not_called_layers(tmp_path):
    def change(tensors):
        exchanged = {"query/kernel": "key/kernel", "key/kernel": "query/kernel"}
        other = {n: re.sub(r"(query|key)/kernel", lambda m: exchanged[m[0]], n) for n in tensors}
        return {name: tensors[other[name]] for name in tensors}

    (finding,) = told_after(tmp_path, "gpt2_to_jax", change, n_layer=3)
    assert names(finding) == ["attention.qkv"]
    assert "changed places: each holds what the other should (and so did 2 more of these" in finding.explanation
