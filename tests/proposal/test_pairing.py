"""What is paired with what, by names and shapes."""

import dataclasses

import pytest
from pairs import FAMILIES, generated, llama, maxtext, public, specs

from ckptdbg.errors import MappingError
from ckptdbg.mapping.grids import judge_bound
from ckptdbg.mapping.proposal import propose


def pairs_of(proposal):
    return {str(t): [str(s) for s in item.sources] for item in proposal.items for t in item.targets}


def nearest(proposal, true):
    """The proposal with, choice by choice, the alternative under which most is as in the true mapping."""
    judged = judge_bound(true, proposal.bound())
    entry_of = proposal.bound().entry_of_target
    for choice in proposal.choices:
        if {entry_of[t.target].name for t in judged.differing} & set(choice.items):
            options = [proposal.taking(choice.name, i) for i in range(1, len(choice.alternatives))]
            scored = [(proposal, judged), *((option, judge_bound(true, option.bound())) for option in options)]
            proposal, judged = max(scored, key=lambda pair: pair[1].score["values"])
    return judged


def check(source, target, true, config):
    """All paired, by the true pairs; the true mapping is among the choices. What differs without any choice settled."""
    proposal = propose(source, target, config)
    assert proposal.complete
    bound = true.bind(config, source, target)
    found = judge_bound(bound, proposal.bound())
    assert found.score["names"] == 1
    assert nearest(proposal, bound).differing == ()
    return {t.same for t in found.differing}


DIFFERING = {"llama3": {"layout"}, "qwen3": set(), "gemma3": {"values"}}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_parameter_of_the_public_pairs_is_paired_and_the_true_mapping_is_among_the_choices(name):
    source, target, true = public(name)
    assert check(source, target, true, {}) == DIFFERING[name]


@pytest.mark.parametrize("name", FAMILIES)
def test_so_it_is_with_the_classes_of_transformers(name):
    assert check(*generated(name)) == DIFFERING[name]


@pytest.mark.parametrize("join", ["-", "/"])
def test_a_llama_of_real_size_from_its_classes_alone(join):
    source, config = llama()
    proposal = propose(source, maxtext(join=join), config)
    assert proposal.complete
    assert proposal.mapping.scope(config).values == {"heads": 32, "kv_heads": 8}
    assert {item.sure for item in proposal.items} == {"names"}
    names = [choice.name for choice in proposal.choices]
    assert names[:3] == ["rotary order", "attention scale", "head order"]
    assert "axes of decoder.layers.self_attention.query.kernel" in names  # 4096 x 4096
    query = next(item for item in proposal.items if item.name.endswith("query.kernel"))
    assert query.recipe.ops() == [{"rearrange": "(h d) c -> c h d", "h": "heads"}]  # as the key's shape says


def test_a_tensor_that_nothing_makes_and_one_that_nobody_uses_are_said():
    source, target = maxtext(layers=2), maxtext(layers=2)
    target["params-decoder-extra-kernel"] = dataclasses.replace(next(iter(target.values())), shape=(5, 7, 11))
    source["params-more-kernel"] = dataclasses.replace(next(iter(source.values())), shape=(13, 17))
    proposal = propose(source, target)
    assert not proposal.complete
    assert [str(f) for f in proposal.draft.unexplained] == ["params-decoder-extra-kernel"]
    assert [str(f) for f in proposal.draft.unused] == ["params-more-kernel"]
    assert proposal.mapping.ignore.target == ("params-decoder-extra-kernel",)


def test_norms_that_share_no_word_are_told_by_their_place():
    source = {f"m.l.{i}.{n}.weight": (8,) for i in range(2) for n in ("input_layernorm", "post_attention_layernorm")}
    target = {f"l.{i}.{n}.weight": (8,) for i in range(2) for n in ("attention_norm", "ffn_norm")}
    found = pairs_of(propose(specs(source), specs(target)))
    assert found == {
        "l.{l}.attention_norm.weight": ["m.l.{l}.input_layernorm.weight"],
        "l.{l}.ffn_norm.weight": ["m.l.{l}.post_attention_layernorm.weight"],
    }


def test_blocks_of_six_scanned():
    """Six kinds of layers in a block, the blocks stacked: number 6 * block + inner."""
    source = {f"layers.{i}.{n}.weight": s for i in range(24) for n, s in (("mlp.up_proj", (9, 5)), ("norm", (5,)))}
    target = {f"layers/layers_{i}/mlp/wi/kernel": (5, 4, 9) for i in range(6)}
    target |= {f"layers/layers_{i}/norm/scale": (5, 4) for i in range(6)}
    proposal = propose(specs(source), specs(target))
    assert proposal.complete
    up = next(item for item in proposal.items if "wi" in item.name)
    bound = {e.targets[0]: e for e in proposal.bound().entries}["layers/layers_2/mlp/wi/kernel"]
    assert bound.sources == tuple(f"layers.{6 * block + 2}.mlp.up_proj.weight" for block in range(4))
    assert up.alignment.blocks[0].period == 6


def test_the_stacked_axis_is_where_other_tensors_have_it_and_stays_a_choice():
    """Four layers of width 4: either axis of the norm may run over them."""
    source = {f"layers.{i}.{n}.weight": s for i in range(4) for n, s in (("mlp.up_proj", (9, 4)), ("norm", (4,)))}
    source |= {f"layers.{i}.mlp.down_proj.weight": (4, 9) for i in range(4)}
    target = {"layers/mlp/wi/kernel": (4, 4, 9), "layers/norm/scale": (4, 4), "layers/mlp/wo/kernel": (9, 4, 4)}
    target |= {"layers/mlp/gate/kernel": (6, 4, 9)}
    source |= {f"layers.{i}.mlp.gate.weight": (9, 6) for i in range(4)}
    proposal = propose(specs(source), specs(target))
    axes = {item.name: item.alignment.target_axes for item in proposal.items}
    assert set(axes.values()) == {(1,)}
    stacked = [choice for choice in proposal.choices if choice.name == "stacked axis of layers.norm.scale"]
    assert [a.text for a in stacked[0].alternatives] == ["axis 1", "axis 0"]
    other = proposal.taking(stacked[0].name, 1).bound()
    assert other.entry_of_target["layers/norm/scale"].stacks[0].axis == 0


def test_layers_that_fill_no_block_lie_elsewhere():
    """Gemma3's 34 layers scanned: five blocks of six, and four more."""
    source = {f"layers.{i}.{n}.weight": s for i in range(34) for n, s in (("mlp.up_proj", (9, 7)), ("norm", (7,)))}
    target = {f"layers/layers_{i}/mlp/wi/kernel": (7, 5, 9) for i in range(6)}
    target |= {f"layers/layers_{i}/norm/scale": (7, 5) for i in range(6)}
    target |= {f"layers_remainder/layers_{i}/mlp/wi/kernel": (7, 9) for i in range(4)}
    target |= {f"layers_remainder/layers_{i}/norm/scale": (7,) for i in range(4)}
    proposal = propose(specs(source), specs(target))
    assert proposal.complete
    made = {e.targets[0]: e.sources for e in proposal.bound().entries}
    assert made["layers/layers_5/norm/scale"] == tuple(f"layers.{i}.norm.weight" for i in (5, 11, 17, 23, 29))
    assert made["layers_remainder/layers_3/mlp/wi/kernel"] == ("layers.33.mlp.up_proj.weight",)


def test_a_stacked_source_is_taken_apart():
    source = {"moe/wi_0": (3, 5, 7), "moe/wo": (3, 7, 5)}
    target = {f"moe.experts.{i}.{n}.weight": s for i in range(3) for n, s in (("w1", (7, 5)), ("w2", (5, 7)))}
    proposal = propose(specs(source), specs(target))
    assert proposal.complete
    assert [e.stacks[0].side for e in proposal.bound().entries] == ["source", "source"]


def test_fused_and_split_projections():
    source = {f"h.{i}.attn.c_attn.weight": (6, 24) for i in range(2)} | {
        f"h.{i}.mlp.c_fc.weight": (6, 10) for i in range(2)
    }
    target = {f"h_{i}/attn/{n}/kernel": (6, 2, 4) for i in range(2) for n in ("key", "query", "value")}
    target |= {f"h_{i}/mlp/fc/kernel": (6, 10) for i in range(2)}
    proposal = propose(specs(source), specs(target), {"n_head": 2, "n_embd": 6})
    fused = next(item for item in proposal.items if len(item.targets) == 3)
    assert [str(t) for t in fused.targets] == [f"h_{{layer}}/attn/{n}/kernel" for n in ("query", "key", "value")]
    assert fused.recipe.ops() == [{"rearrange": "a (h d) -> a h d", "d": "head_dim"}, {"split": 1}]
    back = propose(specs(target), specs(source), {})
    assert back.complete


def test_a_vocabulary_that_was_padded_and_a_head_that_is_tied():
    source = {"embed_tokens.weight": (50, 6), "norm.weight": (6,)}
    target = {"token_embedder/embedding": (64, 6), "decoder_norm/scale": (6,), "logits_dense/kernel": (6, 50)}
    proposal = propose(specs(source), specs(target))
    assert proposal.complete
    assert {item.name: item.sure for item in proposal.items}["logits_dense.kernel"] == "tie"
    assert [op for item in proposal.items for op in item.recipe.ops()] == [
        {"pad": 64, "axis": 0},
        {"rearrange": "a b -> b a"},
    ]


def test_nothing_is_refused():
    with pytest.raises(MappingError, match="nothing to pair"):
        propose({}, specs({"a": (2,)}))
    with pytest.raises(MappingError, match="no shapes agree; are these two checkpoints of one model"):
        propose(specs({"a.weight": (3,)}), specs({"a.weight": (2,)}))


def test_a_hostile_name_stays_on_its_line():
    name = "a\n  - name: evil\u202e"
    proposal = propose(specs({name: (3,), "b.weight": (4,)}), specs({"b.kernel": (4,)}))
    assert not proposal.complete
    assert proposal.mapping.ignore.source == (name,)
    assert [entry.name for entry in proposal.mapping.entries] == ["b.kernel"]


def test_every_alternative_of_every_choice_binds():
    source, config = llama(layers=2, hidden=64, heads=8, kv_heads=8, head_dim=8, mlp=64, vocab=64)
    proposal = propose(source, maxtext(layers=2, hidden=64, heads=8, kv_heads=8, head_dim=8, mlp=64, vocab=64), config)
    texts = {
        proposal.taking(choice.name, i).mapping.text
        for choice in proposal.choices
        for i in range(len(choice.alternatives))
        if proposal.taking(choice.name, i).bound()
    }
    assert len(texts) == 1 + sum(len(choice.alternatives) - 1 for choice in proposal.choices)
