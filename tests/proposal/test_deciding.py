"""The choices of a proposal settled by running: the samples, and small models in MaxText's own conventions."""

import json

import pytest
from pairs import FOUR_NORMS, TWO_NORMS, decoder, generated
from typer.testing import CliRunner

from ckptdbg.checkpoint import open_checkpoint
from ckptdbg.cli.mapping import app
from ckptdbg.documents import dump_yaml, parse_yaml
from ckptdbg.errors import ConfigError
from ckptdbg.mapping import Mapping
from ckptdbg.mapping.grids import judge_bound
from ckptdbg.mapping.proposal import propose
from ckptdbg.mapping.proposal.settled import read_plan, settled_like
from ckptdbg.samples.build import build_sample
from ckptdbg.samples.checkpoints import FAMILIES, Family, write_checkpoint
from ckptdbg.samples.pairs import PAIRS


def run(*arguments, status=0):
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    assert done.exit_code == status, done.output
    return done.output


def without_mapping(config, *, weights):
    """The config without its mapping and, where the target's weights are not to be used, without their path."""
    document = parse_yaml(config.read_text(), str(config), ConfigError)
    del document["mapping"]
    if not weights:
        del document["target"]["path"]
    config.write_text(dump_yaml(document))
    return config


def proposed(folder, pair, *, weights=False, **overrides):
    """What the command line makes of a sample: the mapping it wrote against the true one, and its plan."""
    config = build_sample(folder, pair, **overrides)
    true = Mapping.load(folder / "mappings" / f"{PAIRS[pair].config}.yaml")
    source, target = open_checkpoint(folder / "source"), open_checkpoint(folder / "target.safetensors")
    out, plan = folder / "proposed.yaml", folder / "plan.json"
    status = 1 if pair == "bert_to_jax" else 0  # its pooler goes nowhere
    run("propose", without_mapping(config, weights=weights), "--run", "-o", out, "--json", plan, status=status)
    bound = (m.bind(source.config, source.specs, target.specs) for m in (true, Mapping.load(out)))
    return judge_bound(*bound), json.loads(plan.read_text())


def decisions(plan):
    return {d["choice"]: d for d in plan["decided"]["decisions"]}


def test_a_symmetry_is_named_as_one(tmp_path):
    """The sample turns its values as well as its queries and keys, and its outputs after them: an equal model."""
    judged, plan = proposed(tmp_path, "llama_to_torch", num_hidden_layers=2)
    assert plan["decided"]["verdict"] == "equivalent"
    assert plan["decided"]["on_another_seed"]
    rotary = decisions(plan)["rotary order"]
    assert (rotary["taken"], rotary["how"]) == ("halves in the source, neighbours in the target", "running")
    assert rotary["also"] == ["halves in the source, neighbours in the target, values and outputs as well"]
    assert {t.target.split(".", 2)[2] for t in judged.differing} == {"attention.wqkv.weight", "attention.wo.weight"}
    source, target = open_checkpoint(tmp_path / "source"), open_checkpoint(tmp_path / "target.safetensors")
    other = propose(source.specs, target.specs, source.config)
    names = [a.text for a in other.choices[0].alternatives]
    other = other.taking("rotary order", names.index(rotary["also"][0]))
    true = Mapping.load(tmp_path / "mappings" / "llama_to_torch.yaml").bind(source.config, source.specs, target.specs)
    assert judge_bound(true, other.bound()).differing == ()


def test_where_the_target_has_weights_they_decide(tmp_path):
    """The weights know the symmetry as well: what is written is the true mapping."""
    judged, plan = proposed(tmp_path, "llama_to_torch", weights=True, num_hidden_layers=2)
    assert judged.differing == ()
    rotary = decisions(plan)["rotary order"]
    assert (rotary["how"], rotary["also"]) == ("tensors", [])
    assert dict(rotary["others"])["as in the source"] == 4  # wqkv and wo of two layers


@pytest.mark.slow
@pytest.mark.parametrize("pair", sorted(PAIRS.keys() - {"llama_to_torch"}))
def test_running_decides_everything_for_the_samples(tmp_path, pair):
    judged, plan = proposed(tmp_path, pair)
    assert plan["decided"]["verdict"] == "equivalent"
    assert plan["decided"]["on_another_seed"]
    assert judged.differing == ()
    assert {d["how"] for d in plan["decided"]["decisions"] if d["others"]} <= {"running"}


@pytest.mark.slow
def test_a_small_llama_settles_the_choices_of_a_large_one(tmp_path):
    _, plan = proposed(tmp_path, "llama_to_nnx")
    assert carried_over("llama3", plan, tmp_path).differing == ()


def carried_over(name, plan, folder):
    """The large pair, its choices as in the small one's plan, against the true mapping."""
    source, target, true, config = generated(name)
    path = folder / "plan.json"
    path.unlink(missing_ok=True)
    path.write_text(json.dumps(plan))
    settled, _ = settled_like(propose(source, target, config), read_plan(path))
    return judge_bound(true.bind(config, source, target), settled.bound())


SMALL = {"num_hidden_layers": 4, "vocab_size": 131, "intermediate_size": 76, "head_dim": 12}
FAMILIES_HERE = {
    "qwen3": Family("Qwen3Config", "Qwen3ForCausalLM", {
        **SMALL, "hidden_size": 42, "num_attention_heads": 6, "num_key_value_heads": 3, "tie_word_embeddings": True,
    }),
    "gemma3": Family("Gemma3TextConfig", "Gemma3ForCausalLM", {
        **SMALL, "hidden_size": 42, "num_attention_heads": 6, "num_key_value_heads": 3, "sliding_window": 17,
        "query_pre_attn_scalar": 12,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
    }, norm_centre=0.0),
}  # fmt: skip


def small(folder, monkeypatch, name):
    """A config of a small model of a family, and the target in MaxText's conventions."""
    monkeypatch.setitem(FAMILIES, name, FAMILIES_HERE[name])
    source = write_checkpoint(name, folder / "source")
    config = json.loads((source / "config.json").read_text())
    norms = FOUR_NORMS if name == "gemma3" else TWO_NORMS
    shapes = decoder(4, 42, 6, 3, 12, 76, norms, qk_norm=True) | {"token_embedder/embedding": (131, 42)}
    options = {"model": name, "shapes": {n: list(s) for n, s in shapes.items()}, "layers": 4, "epsilon": 1e-6}
    if name == "gemma3":
        rope, window = config["rope_parameters"], config["sliding_window"]
        options["thetas"] = [rope[kind]["rope_theta"] for kind in config["layer_types"]]
        options["windows"] = [window if kind == "sliding_attention" else None for kind in config["layer_types"]]
    else:
        options["theta"] = config["rope_parameters"]["rope_theta"]
    here = __file__.replace("test_deciding.py", "maxtext_targets.py")
    document = {
        "source": {"loader": "huggingface", "path": "source"},
        "target": {"loader": f"{here}:load", "options": options},
        "probe": {"tokens": "random", "batch": 2, "length": 48, "seed": 0},
    }
    (folder / "config.yaml").write_text(dump_yaml(document))
    return folder / "config.yaml"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen3", "gemma3"])
def test_small_models_in_maxtexts_conventions_settle_the_choices_of_large_ones(tmp_path, monkeypatch, name):
    config, plan = small(tmp_path, monkeypatch, name), tmp_path / "plan.json"
    run("propose", config, "--run", "--json", plan)
    found = json.loads(plan.read_text())
    assert found["decided"]["verdict"] == "equivalent"
    judged = carried_over(name, found, tmp_path)
    # MaxText rounds the embedding's factor to bfloat16; in float32, as here, transformers does not
    expected = {"gemma3": [("params-token_embedder-embedding", "values")], "qwen3": []}
    assert [(t.target, t.same) for t in judged.differing] == expected[name]


def test_two_checkpoints_cannot_be_run(tmp_path):
    done = CliRunner().invoke(app, ["propose", "a.json", "b.json", "--run"])
    assert done.exit_code == 2
    assert "two checkpoints alone cannot be run; give one CONFIG" in done.output
