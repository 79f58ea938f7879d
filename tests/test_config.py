"""Configs: what is read, and the file and line of whatever is wrong."""

import pytest
from pydantic import ValidationError

from ckptdbg.config import Config, ProbeConfig, load_config
from ckptdbg.errors import ConfigError

GOOD = """\
source: {loader: huggingface, path: hf}
target: {loader: my_target.py:load, path: tgt.safetensors, under: model, options: {layers: 4},
         inputs: {decoder_input_tokens: input_ids}, output: logits}
mapping: maps/llama.yaml
probe: {tokens: random, batch: 3, length: 64, seed: 7}
precision: bfloat16
"""


@pytest.fixture
def folder(tmp_path):
    for name in ("hf", "maps"):
        (tmp_path / name).mkdir()
    for name in ("my_target.py", "tgt.safetensors", "maps/llama.yaml", "ids.npy", "in.safetensors"):
        (tmp_path / name).write_text("")
    return tmp_path


def load(folder, text):
    (folder / "c.yaml").write_text(text)
    return load_config(folder / "c.yaml")


def test_a_whole_config(folder):
    config = load(folder, GOOD)
    assert config.source.model_dump() == {
        "loader": "huggingface",
        "path": folder / "hf",
        "under": None,
        "options": {},
        "inputs": {},
        "output": None,
    }
    assert config.target.model_dump() == {
        "loader": f"{folder}/my_target.py:load",
        "path": folder / "tgt.safetensors",
        "under": "model",
        "options": {"layers": 4},
        "inputs": {"decoder_input_tokens": "input_ids"},
        "output": "logits",
    }
    assert (config.mapping, config.precision, config.file) == (
        folder / "maps/llama.yaml",
        "bfloat16",
        folder / "c.yaml",
    )
    assert (config.probe.tokens, config.probe.batch, config.probe.length, config.probe.seed) == ("random", 3, 64, 7)


def test_what_is_left_out(folder):
    config = load(
        folder, "source: {loader: huggingface, path: hf}\ntarget: {loader: pkg.mod:load}\nmapping: maps/llama.yaml"
    )
    assert (config.target.loader, config.target.path) == ("pkg.mod:load", None)
    assert (config.probe.tokens, config.probe.batch, config.probe.length, config.precision) == (
        "random",
        2,
        128,
        "float32",
    )


def test_paths_are_relative_to_the_config_and_not_to_where_one_stands(folder, monkeypatch):
    (folder / "c.yaml").write_text(GOOD)
    monkeypatch.chdir(folder)
    assert load_config("c.yaml").mapping == folder / "maps/llama.yaml"
    monkeypatch.chdir(folder / "hf")
    assert load_config("../c.yaml").source.path == folder / "hf"


@pytest.mark.parametrize(
    "probe",
    [
        "{prompt: Hello, tokenizer: hf}",
        "{ids: ids.npy}",
        "{inputs: in.safetensors}",
        "{tokens: random, attention_mask: left-padded}",
    ],
)
def test_kinds_of_probes(folder, probe):
    found = load(folder, GOOD.replace("{tokens: random, batch: 3, length: 64, seed: 7}", probe)).probe
    paths = [found.tokenizer, found.ids, found.inputs]
    assert all(path is None or path.parent == folder for path in paths)
    assert sum(value is not None for value in (found.tokens, found.prompt, found.ids, found.inputs)) == 1


@pytest.mark.parametrize(
    "kind", ["trace: convert.py:convert", "maxtext: llama3.1-8b", "torchtitan: llama3", "recover: true"]
)
def test_other_places_a_mapping_comes_from(folder, kind):
    mapping = load(folder, GOOD.replace("maps/llama.yaml", f"{{{kind}}}")).mapping
    assert list(mapping) == [kind.split(":")[0]]


def test_left_padding_differs_from_row_to_row():
    def padding(**more):
        return ProbeConfig(tokens="random", batch=4, length=64, **more).padding

    assert padding() is None
    assert padding(attention_mask="left-padded") == [0, 8, 16, 24]
    assert padding(attention_mask="left-padded", pad=[5, 0, 1, 63]) == [5, 0, 1, 63]
    assert padding(pad=[0, 5, 0, 0]) == [0, 5, 0, 0]


def test_records_do_not_change(folder):
    config = load(folder, GOOD)
    with pytest.raises(ValidationError, match="frozen"):
        config.precision = "float32"  # type: ignore[misc]
    assert isinstance(config.model_copy(update={"precision": "float32"}), Config)


# what is replaced, by what, the message
ERRORS = [
    ("path: hf", "pth: hf", "1: source has no key pth; did you mean path?"),
    ("precision:", "precison:", "6: config has no key precison; did you mean precision?"),
    ("precision:", "file:", "6: config has no key file; it takes source, target, mapping, probe, precision"),
    ("seed: 7", "sed: 7", "5: probe has no key sed; did you mean seed?"),
    ("mapping: maps/llama.yaml\n", "", "1: config has no mapping; add mapping:"),
    ("loader: huggingface, ", "", "1: source has no loader; add loader:"),
    (
        "loader: huggingface",
        "loader: ':load'",
        "1: source.loader: unknown loader; found ':load'; expected huggingface, module:function or file.py:function; "
        "a function of your own is called as load(path, **options)",
    ),
    (
        "loader: my_target.py:load",
        "loader: maxtext",
        "2: target.loader: unknown loader; found 'maxtext'; expected huggingface, module:function or file.py:function; "
        "a function of your own is called as load(path, **options)",
    ),
    ("{loader: huggingface, path: hf}", "hf", "1: source is not right; found 'hf'; expected keys and values"),
    ("{layers: 4}", "4", "2: target.options is not right; found 4; expected keys and values"),
    ("output: logits", "output: [a]", "3: target.output is not right; found ['a']; expected text"),
    ("input_ids}", "5}", "3: target.inputs.decoder_input_tokens is not right; found 5; expected text"),
    ("batch: 3", "batch: three", "5: probe.batch is not right; found 'three'; expected a whole number"),
    ("batch: 3", "batch: 2.5", "5: probe.batch is not right; found 2.5; expected a whole number"),
    ("batch: 3", "batch: 0", "5: probe.batch is not right; found 0; expected greater than or equal to 1"),
    ("batch: 3", "batch: 64", "5: probe: batch and length are both 64; expected different sizes"),
    ("tokens: random", "tokens: zeros", "5: probe.tokens is not right; found 'zeros'; expected 'random' or 'cover'"),
    ("tokens: random, ", "", "5: probe: found nothing; expected exactly one of tokens, prompt, ids, inputs"),
    ("seed: 7", "ids: ids.npy", "5: probe: found tokens, ids; expected exactly one of tokens, prompt, ids, inputs"),
    ("tokens: random", "prompt: hello", "5: probe: prompt and tokenizer belong together"),
    ("seed: 7", "pad: [1, 2]", "5: probe: pad has 2 numbers; expected one per batch row (3)"),
    ("seed: 7", "pad: [1, 2, 64]", "5: probe: pad is [1, 2, 64]; expected 0 to 63"),
    ("bfloat16", "int8", "6: precision is not right; found 'int8'; expected 'float32', 'bfloat16' or 'float16'"),
    ("maps/llama.yaml", "3", "4: mapping is not right; found 3; expected a path"),
    (
        "maps/llama.yaml",
        "{trac: x}",
        "4: mapping: found {'trac': 'x'}; expected a path or one of {trace: ...}, {torchtitan: ...}, {maxtext: ...}, "
        "{maxtext_plan: ...}, {transformers: ...}, {recover: ...}, {propose: ...}",
    ),
    (
        "maps/llama.yaml",
        "{torchtitan: llama3, flavour: 8B}",
        "4: mapping: it has no key flavour; it takes torchtitan, flavor, model, options, direction",
    ),
    ("maps/llama.yaml", "{maxtext: 8}", "4: mapping: maxtext is 8; expected text"),
    ("maps/llama.yaml", "{maxtext: llama3.1-8b, scan: 1}", "4: mapping: scan is 1; expected true or false"),
    ("maps/llama.yaml", "{transformers: false}", "4: mapping: transformers is False; expected true"),
    (
        "maps/llama.yaml",
        "{transformers: true, direction: from_hf}",
        "4: mapping: direction is 'from_hf'; expected to_memory or to_disk",
    ),
    ("GOOD", "", "1: not a document; found nothing; expected keys and values"),
    ("path: hf}", "path: hf", "2: not valid YAML: expected ',' or '}', but got ':'"),
]


@pytest.mark.parametrize(("old", "new", "message"), ERRORS)
def test_what_is_wrong_is_said_with_its_line(folder, old, new, message):
    text = GOOD.replace(old, new) if old != "GOOD" else new
    assert text != GOOD
    with pytest.raises(ConfigError) as caught:
        load(folder, text)
    assert str(caught.value) == f"{folder}/c.yaml:{message}"


@pytest.mark.parametrize(
    ("old", "key", "line"),
    [
        ("path: hf", "source.path", 1),
        ("my_target.py", "target.loader", 2),
        ("tgt.safetensors", "target.path", 2),
        ("maps/llama.yaml", "mapping", 4),
    ],
)
def test_a_missing_file_is_said_with_its_line(folder, old, key, line):
    with pytest.raises(ConfigError) as caught:
        load(folder, GOOD.replace(old, old.replace(old.split("/")[-1].split(": ")[-1], "none.py")))
    missing = folder / ("maps/none.py" if key == "mapping" else "none.py")
    assert str(caught.value) == (
        f"{folder}/c.yaml:{line}: {key}: no such file or directory; found {missing}; paths are relative to c.yaml"
    )


def test_a_config_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"c\.yaml: no such file; check the path"):
        load_config(tmp_path / "c.yaml")
    with pytest.raises(ConfigError, match=r"cannot be read as text \(.*Is a directory"):
        load_config(tmp_path)
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ConfigError, match=r"b\.yaml: cannot be read as text"):
        load_config(tmp_path / "b.yaml")
