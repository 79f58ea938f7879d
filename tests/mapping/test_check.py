"""``mapping check``: silent on what is right, and every check catches the mistake that it is for."""

import json

import pytest
from typer.testing import CliRunner

from ckptdbg.checkpoint import open_checkpoint, write_safetensors
from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.cli.app import app
from ckptdbg.config import load_config
from ckptdbg.errors import MappingError
from ckptdbg.mapping import Mapping
from ckptdbg.mapping.check import Checked, check_mapping
from ckptdbg.mapping.ops import Scale, Transpose
from ckptdbg.samples.build import build_sample
from ckptdbg.samples.pairs import list_pairs

HEALTHY = """\
version: 1
variables:
  heads: num_heads
entries:
  - name: embedding
    source: embed.weight
    target: embedding
  - name: query
    source: layers.{layer}.q.weight
    target: h_{layer}/q
    ops:
      - rearrange: "(h d) m -> m h d"
        h: heads
  - name: out
    source: layers.{layer}.o.weight
    target: h_{layer}/o
    ops:
      - transpose
  - name: norm
    source: layers.{layer}.norm.weight
    target: h_{layer}/norm
  - name: final_norm
    source: norm.weight
    target: norm
  - name: experts
    source: layers.{layer}.experts.{expert}.weight
    target: h_{layer}/experts
    stack: [{over: expert, axis: 0}]
ignore: {source: ["*.inv_freq"], target: []}
"""
LAYERS, EXPERTS = 4, 12
CONFIG = {"num_heads": 3, "hidden": 10}


def specs():
    """Names and shapes of both sides; every axis has a size of its own, but for the square ``o``."""
    source = {"embed.weight": (31, 10), "norm.weight": (10,), "rotary.inv_freq": (4,)}
    target = {"embedding": (31, 10), "norm": (10,)}
    for i in range(LAYERS):
        source |= {f"layers.{i}.q.weight": (24, 10), f"layers.{i}.o.weight": (10, 24), f"layers.{i}.norm.weight": (10,)}
        source |= {f"layers.{i}.experts.{e}.weight": (6, 10) for e in range(EXPERTS)}
        target |= {f"h_{i}/q": (10, 3, 8), f"h_{i}/o": (24, 10), f"h_{i}/norm": (10,), f"h_{i}/experts": (12, 6, 10)}
    return tuple({n: TensorSpec(s, "float32") for n, s in side.items()} for side in (source, target))


def checked(text=HEALTHY, source=(), target=(), config=CONFIG, left_out=()) -> Checked:
    """The mapping between the tensors of ``specs``, some replaced or left out."""
    sides = tuple(side | dict(more) for side, more in zip(specs(), (source, target), strict=True))
    sides = tuple({n: s for n, s in side.items() if n not in left_out} for side in sides)
    return check_mapping(Mapping.loads(text, "m.yaml"), config, *sides)


def told(found):
    """What it says but for what a round trip leaves open, which is said of every mapping."""
    return [r for r in found.remarks if not r.found.startswith("a round trip passes")]


def test_a_healthy_mapping_gets_no_remark_but_what_a_round_trip_leaves_open():
    found = checked()
    assert told(found) == []
    (left,) = found.remarks
    assert (left.level, left.where) == ("note", "m.yaml:4")
    assert "order of rows and axes: embedding, query, out, experts" in left.found
    assert "which tensor goes where: experts" in left.found


NOTES = {"square", "ignore", "round-trip"}


@pytest.mark.parametrize("pair", list_pairs())
def test_the_sample_mappings_have_no_error_and_true_notes(pair, tmp_path):
    config = load_config(build_sample(tmp_path, pair))
    source, target = open_checkpoint(config.source.path), open_checkpoint(config.target.path)
    found = check_mapping(Mapping.load(config.mapping), source.config, source.specs, target.specs)
    assert found.errors == ()
    assert {r.topic for r in found.remarks} <= NOTES
    for remark in found.remarks:
        if remark.topic == "square":
            entry = next(e for e in Mapping.load(config.mapping).entries if e.name == remark.entry)
            name = entry.sources[0].text.replace("{layer}", "0")
            assert len(set(source.specs[name].shape)) == 1


SQUARE = {f"layers.{i}.o.weight": TensorSpec((10, 10), "float32") for i in range(LAYERS)}
SQUARE_MADE = {f"h_{i}/o": TensorSpec((10, 10), "float32") for i in range(LAYERS)}
BFLOAT = {f"h_{i}/o": TensorSpec((24, 10), "bfloat16") for i in range(LAYERS)}
TEXT_ORDER = sorted(range(EXPERTS), key=str)
ADD = "\n    ops:\n      - add: "


def edited(old, new):
    assert old in HEALTHY
    return {"text": HEALTHY.replace(old, new, 1)}


NORM = "target: h_{layer}/norm"
OUT = "target: h_{layer}/o\n    ops:\n      - transpose"
CASES = {
    # name: (what is changed, level, topic, line, entry, part of what is said)
    "source unused": (
        {"source": {"layers.2.bias": TensorSpec((7,), "float32")}},
        ("error", "coverage", 8, None, "source tensor layers.2.bias (7,) is used by no entry"),
    ),
    "target not made": (
        {"target": {"head": TensorSpec((31, 10), "float32")}},
        ("error", "coverage", 4, None, "target tensor head (31, 10) is made by no entry"),
    ),
    "a layer that one side lacks": (
        {"left_out": ["layers.2.q.weight"]},
        ("error", "binding", 9, "query", "source tensor layers.2.q.weight is missing"),
    ),
    "made twice": (
        edited("name: final_norm", "name: again\n    source: norm.weight\n    target: norm\n  - name: final_norm"),
        ("error", "twice", 25, "final_norm", "target tensor norm is made twice, by entry again (m.yaml:22)"),
    ),
    "layers not in the name": (
        edited(NORM, "target: norm_of_all") | {"target": {"norm_of_all": TensorSpec((10,), "float32")}},
        ("error", "twice", 19, "norm", "is made twice, by layers 0 and 1 of entry norm"),
    ),
    "range without the last layer": (
        edited(NORM, f'{NORM}\n    for: {{layer: "0 .. 3"}}'),
        ("error", "layers", 22, "norm", "layers.3.norm.weight (10,) is used by no entry; entry norm has the rest"),
    ),
    "ranges that overlap": (
        edited(
            NORM,
            f'{NORM}\n    for: {{layer: "0 .. 2"}}\n  - name: others\n    source: layers.{{layer}}.norm.weight\n'
            f'    {NORM}\n    for: {{layer: "1 .. 4"}}',
        ),
        ("error", "twice", 23, "others", "h_1/norm is made twice, by entry norm (m.yaml:19)"),
    ),
    "a layer twice in a range": (
        edited(NORM, f"{NORM}\n    for: {{layer: [0, 1, 2, 3, 3]}}"),
        ("error", "twice", 22, "norm", "for layer has 3 more than once"),
    ),
    "a layer missing on both sides": (
        {"left_out": ["layers.2.norm.weight", "h_2/norm"]},
        ("note", "layers", 19, "norm", "the source has layers.*.norm.weight for 0 to 3, but not for 2"),
    ),
    "experts as text": (
        edited("stack: [{over: expert", f"for: {{expert: {TEXT_ORDER}}}\n    stack: [{{over: expert"),
        ("error", "order", 28, "experts", "for expert has 0, 1, 10, 11, 2, 3, ...: sorted as text"),
    ),
    "rows as text": (
        edited("- transpose", f"- {{take: 1, indices: {sorted(range(24), key=str)}}}\n      - transpose"),
        ("error", "order", 18, "out", "take has 0, 1, 10, 11, 12, 13, ...: sorted as text"),
    ),
    "a glob for nothing": (
        edited('"*.inv_freq"', '"*.inv_freq", "*.mask"'),
        ("note", "ignore", 29, None, "ignore.source: *.mask matches no tensor"),
    ),
    "a glob that hides matrices": (
        {"source": {"rotary.big.inv_freq": TensorSpec((40, 50), "float32")}},
        ("note", "ignore", 29, None, "ignore.source: *.inv_freq hides 27.92% of the source's elements: rotary.big"),
    ),
    "a reshape for a transposition": (
        edited("- transpose", "- reshape: [24, 10]"),
        ("error", "axes", 18, "out", "axes 0 and 1 of layers.0.o.weight (10, 24) come out mixed"),
    ),
    "axes mixed by a pattern": (
        {
            **edited("- transpose", '- rearrange: "m (h d) -> (m h) d"\n        h: 3'),
            "target": {f"h_{i}/o": TensorSpec((30, 8), "float32") for i in range(LAYERS)},
        },
        ("note", "axes", 14, "out", "axes 1 and 0 of layers.0.o.weight (10, 24) come out mixed on axis 0"),
    ),
    "a square matrix": (
        {"source": SQUARE, "target": SQUARE_MADE},
        ("note", "square", 14, "out", "(10, 10) is square and is transposed; of the 3 entries of other matrices 1 is"),
    ),
    "a square matrix that is not turned": (
        {**edited(OUT, "target: h_{layer}/o"), "source": SQUARE, "target": SQUARE_MADE},
        ("note", "square", 14, "out", "(10, 10) is square and is not transposed; of the 3 entries"),
    ),
    "one norm plus one": (
        edited(NORM, f"{NORM}{ADD}1"),
        ("note", "norms", 23, "norm", "adds 1 where others add nothing: final_norm"),
    ),
    "a norm plus two": (
        edited(NORM, f"{NORM}{ADD}1\n      - add: 1"),
        ("error", "norms", 23, "norm", "adds 2 to a norm scale"),
    ),
    "an op for nothing": (
        edited(OUT, OUT + '\n      - rearrange: "a b -> a b"'),
        ("note", "idle", 19, "out", 'rearrange: "a b -> a b" changes nothing here'),
    ),
    "a factor of one": (
        edited(OUT, OUT + "\n      - scale: heads // 3"),
        ("note", "idle", 19, "out", "scale: heads // 3 changes nothing here"),
    ),
    "ops that undo each other": (
        {
            **edited("- transpose", "- transpose\n      - transpose: [1, 0]"),
            "target": {f"h_{i}/o": TensorSpec((10, 24), "float32") for i in range(LAYERS)},
        },
        ("note", "idle", 14, "out", "its 2 ops undo each other"),
    ),
    "a variable for nothing": (
        edited("heads: num_heads", "heads: num_heads\n  width: hidden"),
        ("note", "variables", 4, None, "variable width is used by nothing"),
    ),
    "a variable without a value": (
        edited("heads: num_heads", "heads: num_haeds"),
        ("error", "variables", 3, None, "variable heads has no value"),
    ),
    "no way back": (
        edited("- transpose", "- transpose\n      - scale: 0"),
        ("note", "round-trip", 19, "out", "has no reverse: scale by 0 cannot be undone"),
    ),
    "lost on the way": (
        {
            **edited("target: embedding", "target: embedding\n    ops:\n      - {slice: 0, start: 0, stop: 30}"),
            "target": {"embedding": TensorSpec((30, 10), "float32")},
        },
        ("note", "round-trip", 9, "embedding", "drops 1 of 31 on axis 0"),
    ),
    "kept in fewer bits": (
        {"target": BFLOAT},
        ("note", "round-trip", 4, None, "float32 is kept as bfloat16 (out)"),
    ),
    "a tie": (
        edited("name: final_norm", "name: tied\n    source: embed.weight\n    target: head\n  - name: final_norm")
        | {"target": {"head": TensorSpec((31, 10), "float32")}},
        ("note", "round-trip", 22, "tied", "embed.weight is used by entries embedding, tied"),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_planted_mistake_is_found(case):
    changed, (level, topic, line, entry, said) = CASES[case]
    found = told(checked(**changed))
    right = [r for r in found if (r.level, r.topic, r.where, r.entry) == (level, topic, f"m.yaml:{line}", entry)]
    assert any(said in r.found for r in right), found
    others = [r for r in found if r not in right and r.topic != "round-trip"]
    assert others == [] or case in SEVERAL, others


# What is wrong there is wrong in more ways than one.
SEVERAL = {
    "made twice",
    "layers not in the name",
    "range without the last layer",
    "a layer twice in a range",
    "a layer that one side lacks",
    "experts as text",
    "rows as text",
    "a variable without a value",
    "one norm plus one",
    "a norm plus two",
    "a reshape for a transposition",
    "axes mixed by a pattern",
}


def test_all_errors_are_found_at_once():
    text = HEALTHY.replace("h: heads", "h: 5").replace("- transpose", "- transpose: [0, 1]").replace("norm\n", "nrm\n")
    assert {(r.topic, r.entry) for r in checked(text).errors} >= {("binding", "query"), ("binding", "out")}
    (shape,) = [r for r in checked(text).errors if r.entry == "out"]
    assert shape.found.startswith("h_0/o gets shape (10, 24), expected (24, 10)")
    assert shape.found.endswith("(and 3 more like it)")


def test_an_inverse_that_is_wrong_is_caught(monkeypatch):
    monkeypatch.setattr(Transpose, "undo", lambda self, shape: (Transpose(()), Transpose(()), Transpose(())))
    assert checked().errors == ()  # three transpositions are one
    monkeypatch.undo()
    monkeypatch.setattr(Scale, "undo", lambda self, shape: (Scale(2 / self.factor),))
    scaled = checked(**edited("- transpose", "- transpose\n      - scale: 0.3"))
    assert [r.found for r in scaled.errors] == ["scale: 0.3 is not undone by scale: 6.666666666666667"]
    flipped = HEALTHY.replace("- transpose", "- {take: 0, indices: [1, 0, 2, 3, 4, 5, 6, 7, 8, 9]}\n      - transpose")
    monkeypatch.setattr("ckptdbg.mapping.ops.pieces.Take.undo", lambda self, shape: (self,))
    assert checked(flipped).errors == ()  # it is its own inverse
    cycle = flipped.replace("[1, 0, 2, 3, 4, 5, 6, 7, 8, 9]", "[1, 2, 0, 3, 4, 5, 6, 7, 8, 9]")
    assert [r.found for r in checked(cycle).errors] == ["layers.0.o.weight does not come back as it was"]


def test_large_tensors_are_not_copied(monkeypatch):
    """A vocabulary of half a million rows is looked at along lines; nothing of its size is made but what goes round."""
    monkeypatch.setattr("ckptdbg.mapping.check.round_trip._moved", lambda bound, back: "")
    big = {"embed.weight": TensorSpec((2**19, 2**13), "float32")}
    found = checked(
        HEALTHY.replace("target: embedding", "target: embedding\n    ops:\n      - transpose"),
        big,
        {"embedding": TensorSpec((2**13, 2**19), "float32")},
    )
    assert told(found) == []


def run(*arguments):
    return CliRunner().invoke(app, ["mapping", "check", *map(str, arguments)])


@pytest.fixture
def files(tmp_path):
    """A sample's config, with a mistake in its mapping that no shape shows."""
    config = build_sample(tmp_path, "llama_to_nnx")
    mapping = tmp_path / "mappings" / "llama_to_nnx.yaml"
    return config, mapping, ("--source", tmp_path / "source", "--target", tmp_path / "target.safetensors")


def test_both_forms_of_the_command(files, tmp_path):
    config, mapping, sides = files
    healthy = run(config)
    assert healthy.exit_code == 0, healthy.output
    assert healthy.stdout == run(mapping, *sides).stdout
    assert healthy.stdout.splitlines()[-1] == "12 entries: no errors, 2 notes"
    mapping.write_text(mapping.read_text().replace('rearrange: "m f -> f m"', "reshape: [-1, hidden_size]"))
    wrong = run(mapping, *sides, "--json", tmp_path / "found.json")
    assert wrong.exit_code == 1
    first = wrong.stdout.splitlines()[0]
    assert first.startswith(f"error  axes       {mapping}:59: entry mlp.down: axes 0 and 1 of model.layers.0.mlp.down")
    stored = Checked.model_validate_json((tmp_path / "found.json").read_text())
    assert [r.where for r in stored.errors] == [f"{mapping}:59"]
    assert json.loads((tmp_path / "found.json").read_text())["schema"] == "ckptdbg.mapping-check/1"


# Half a minute each: both models are loaded and compiled.
MODELS = [
    ("llama_to_torch", None, []),
    ("llama_to_torch", "qkv-not-interleaved", [("rotary", "attention.qkv")]),
    *(
        pytest.param(*case, marks=pytest.mark.slow)
        for case in [
            ("llama_to_nnx", "query-not-interleaved", [("rotary", "attention.query")]),
            ("llama_to_nnx", "key-not-interleaved", [("rotary", "attention.key")]),
            ("llama_to_scan", "query-scale-twice", [("scale", "attention.query")]),
            ("llama_to_nnx", "query-scale-inverted", [("scale", "attention.query")]),
            ("gemma2_to_jax", "norm-plus-one-missing", [("norms", "attention.norm")]),
            ("llama_to_torch", "norm-plus-one", [("norms", "mlp.norm")]),
            *((pair, None, []) for pair in list_pairs() if pair != "llama_to_torch"),
        ]
    ),
]


@pytest.mark.parametrize(("pair", "fault", "expected"), MODELS)
def test_the_models_are_asked(pair, fault, expected, tmp_path):
    config = build_sample(tmp_path, pair, (fault,) if fault else ())
    done = run(config, "--models", "--json", tmp_path / "found.json")
    found = Checked.model_validate_json((tmp_path / "found.json").read_text())
    assert [(r.topic, r.entry) for r in found.errors] == expected, done.output
    assert done.exit_code == bool(expected)
    rotary = [r.found for r in found.remarks if r.topic == "rotary" and r.level == "note"]
    if fault is None and pair.startswith("llama"):
        assert rotary == [
            "found by running: the source turns halves, the target neighbours, and the mapping carries one to the other"
        ]
    if pair.startswith("gpt2"):
        assert rotary[0].startswith("not known: ")


def test_bad_input_is_one_line_and_status_2(files, tmp_path):
    config, mapping, sides = files
    (tmp_path / "other.yaml").write_text("a: 1\n")
    (tmp_path / "empty.yaml").write_text("")
    (tmp_path / "broken.yaml").write_text("entries: [{\n")
    write_safetensors(tmp_path / "one.safetensors", [])
    for arguments, said in [
        ((mapping,), "expected --source CHECKPOINT --target CHECKPOINT"),
        ((mapping, *sides, "--models"), "expected a config"),
        ((config, *sides), "a config names both checkpoints itself"),
        ((tmp_path / "other.yaml",), "other.yaml:1: neither a mapping nor a config"),
        ((tmp_path / "empty.yaml",), "empty.yaml:1: not a document"),
        ((tmp_path / "broken.yaml",), "broken.yaml:2: not valid YAML"),
        ((tmp_path / "none.yaml",), "none.yaml: no such file"),
        ((mapping, *sides[:3], tmp_path / "gone"), "no such checkpoint"),
    ]:
        done = run(*arguments)
        assert done.exit_code == 2, (arguments, done.output)
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1
    nothing = run(mapping, *sides[:3], tmp_path / "one.safetensors")
    assert nothing.exit_code == 1
    assert nothing.stdout.splitlines()[-1].startswith("12 entries: 12 errors, ")


def test_a_subject_never_raises_what_bind_raises():
    with pytest.raises(MappingError):
        Mapping.loads(HEALTHY, "m.yaml").bind({}, *specs())
    assert checked(config={}).errors
