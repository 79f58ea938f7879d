"""Bad input, through the command line: exit status 2 and one line that says where, what was found, what was expected
and what to do; nothing is written and nothing is lost."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from ckptdbg import cli
from ckptdbg.checkpoint import open_checkpoint, write_safetensors
from ckptdbg.result import Result
from ckptdbg.samples.build import build_sample

MAPPING = "mappings/llama_to_torch.yaml"
PROBE = "{tokens: random, batch: 2, length: 48, seed: 0}"
DOWN = "model.layers.2.mlp.down_proj.weight"
LOADER = "import torch\nfrom ckptdbg.samples.targets.torch_llama import load as sample\n\n"


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    return build_sample(tmp_path_factory.mktemp("healthy") / "sample", "llama_to_torch").parent


@pytest.fixture
def sample(healthy, tmp_path):
    return Path(shutil.copytree(healthy, tmp_path / "sample"))


def compare(sample, *more):
    return CliRunner().invoke(cli.app, ["compare", str(sample / "config.yaml"), *map(str, more)])


def contents(sample):
    # Importing a loader leaves its bytecode beside it.
    return {f: f.read_bytes() for f in sample.rglob("*") if f.is_file() and "__pycache__" not in f.parts}


def refused(sample, status=2):
    """The line that the comparison is refused with, without the folder's name."""
    report = sample / "report.json"
    report.write_text("of yesterday")
    before = contents(sample)
    done = compare(sample, "--json", report)
    assert done.exit_code == status, done.stdout + done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("ckptdbg: ")
    assert contents(sample) == before
    return done.stderr.removeprefix("ckptdbg: ").rstrip("\n").replace(f"{sample.resolve()}/", "")


def edit(old, new, file=MAPPING):
    def spoil(sample):
        text = (sample / file).read_text()
        assert text.count(old) >= 1
        (sample / file).write_text(text.replace(old, new, 1))

    return spoil


def config(old, new):
    return edit(old, new, "config.yaml")


def write(file, content):
    def spoil(sample):
        (sample / file).write_bytes(content if isinstance(content, bytes) else content.encode())

    return spoil


def cut(file, size):
    def spoil(sample):
        (sample / file).write_bytes((sample / file).read_bytes()[:size])

    return spoil


def tensors(file, change):
    def spoil(sample):
        checkpoint = open_checkpoint(sample / file)
        held = {name: np.array(checkpoint.read(name)) for name in checkpoint.specs}
        change(held)
        write_safetensors(sample / file, held.items())

    return spoil


def source(change):
    return tensors("source/model.safetensors", change)


def target(change):
    return tensors("target.safetensors", change)


def element(name, value):
    def change(held):
        held[name][(3,) * held[name].ndim] = value

    return change


def times(factor, *names):
    def change(held):
        for name in names:
            held[name] = held[name] * np.float32(factor)

    return change


def ids(rows):
    def spoil(sample):
        write("ids.json", json.dumps(rows))(sample)
        config(PROBE, "{ids: ids.json}")(sample)

    return spoil


def loader(body):
    """A loader of the user's own; its body starts in line 4."""

    def spoil(sample):
        write("mine.py", LOADER + body)(sample)
        config("ckptdbg.samples.targets.torch_llama:load", "mine.py:load")(sample)

    return spoil


def forward(*lines, signature="tokens, positions=None"):
    """A loader whose model has another ``forward``, with the sample's own as ``plain``; its body starts in line 7."""
    body = ["def load(path, **options):", "    model = sample(path, **options); plain = model.forward"]
    body += [f"    def forward({signature}):", *(f"        {line}" for line in lines)]
    return loader("\n".join([*body, "    model.forward = forward", "    return model", ""]))


def both(*spoils):
    def spoil(sample):
        for each in spoils:
            each(sample)

    return spoil


OF_CONFIG = {
    "not yaml": (
        write("config.yaml", "source: {loader: huggingface\ntarget: ]\n"),
        "config.yaml:2: not valid YAML: expected ',' or '}', but got ':'",
    ),
    "no text": (write("config.yaml", b"\x89PNG\xff"), "config.yaml: cannot be read as text"),
    "a list": (
        write("config.yaml", "- a\n"),
        "config.yaml:1: not a document; found a list; expected keys and values",
    ),
    "unknown key": (config("precision:", "precison:"), "config.yaml:21: config has no key precison; did you mean"),
    "unknown key within": (config("seed:", "sede:"), "config.yaml:20: probe has no key sede; did you mean seed?"),
    "no such target": (
        lambda sample: (sample / "target.safetensors").unlink(),
        "config.yaml:7: target.path: no such file or directory; found target.safetensors; paths are relative to",
    ),
    "no such source": (
        lambda sample: shutil.rmtree(sample / "source"),
        "config.yaml:4: source.path: no such file or directory; found",
    ),
    "unknown input": (
        config("tokens: input_ids", "tokenz: input_ids"),
        "Llama: the model's forward has no input named 'tokenz'; expected attention_mask, positions, tokens; correct",
    ),
    "unknown output": (
        config("  options:", "  output: logitz\n  options:"),
        "Llama: the model's output has no such tensor; found Tensor; expected logitz; set `output` in the config",
    ),
    "tokens beyond the vocabulary": (
        ids([[1, 2, 500], [4, 131, 6]]),
        "ids.json: the probe has 2 tokens beyond the vocabulary; found 500 at [0, 2]; expected 0 to 130; vocab_size in",
    ),
    "negative tokens": (
        ids([[1, 2, 3], [4, -1, 6]]),
        "ids.json: the probe has 1 token beyond the vocabulary; found -1",
    ),
    "rows of different length": (
        ids([[1, 2, 3], [4, 5]]),
        "expected [batch, length] integers, rows of equal length, in a .npy, .json or text file",
    ),
}

OF_CHECKPOINT = {
    "source cut short": (
        cut("source/model.safetensors", -1000),
        "found source/model.safetensors: the file is cut short; found 478968 bytes; expected 479968 by its header",
    ),
    "target cut short": (
        cut("target.safetensors", -1000),
        "found target.safetensors: the file is cut short; found 477504 bytes; expected 478504 by its header; copy it",
    ),
    "target cut within its header": (cut("target.safetensors", 100), "found target.safetensors: "),
    "source without weights": (
        lambda sample: (sample / "source/model.safetensors").unlink(),
        "no tensors in this directory; found config.json",
    ),
    "source without config.json": (
        lambda sample: (sample / "source/config.json").unlink(),
        "source: no config.json; expected a folder written by save_pretrained",
    ),
    "source lacks a tensor": (
        source(lambda held: held.pop(DOWN)),
        f"LlamaForCausalLM has parameters that this checkpoint does not hold; found 1 missing or of another shape: "
        f"{DOWN}; another architecture may fit",
    ),
    "target lacks a tensor": (
        target(lambda held: held.pop("norm.weight")),
        'raised RuntimeError: Error(s) in loading state_dict for Llama: Missing key(s) in state_dict: "norm.weight".',
    ),
    "NaN in the source": (
        source(element(DOWN, np.nan)),
        f"the source tensor {DOWN} holds NaN, so nothing can be compared with it; found 1 of 5376 elements, the first "
        "at [3, 3]; expected numbers; restore the source; `ckptdbg inspect CHECKPOINT --stats` counts such elements",
    ),
    "the same NaN on both sides": (
        both(source(element(DOWN, np.nan)), target(element("layers.2.feed_forward.w2.weight", np.nan))),
        f"the source tensor {DOWN} holds NaN",
    ),
    "infinity in the source": (
        source(element(DOWN, np.inf)),
        f"source, {DOWN} (out): the source itself gives NaN or infinite values, so nothing can be compared with it; "
        f"found 96 of 4608 values; infinite in the checkpoint: {DOWN}; set a wider `precision:` in the config",
    ),
    "source overflows": (
        source(times(1e18, DOWN, *(DOWN.replace("down", name) for name in ("gate", "up")))),
        f"source, {DOWN} (out): the source itself gives NaN or infinite values",
    ),
    "source overflows where nobody looks": (  # in the norm's square: zeros come out
        both(source(times(1e38, DOWN)), target(times(1e38, "layers.2.feed_forward.w2.weight"))),
        "source, model.layers.3.self_attn.q_proj.weight (in): the source run in float64 gives something else",
    ),
}

OF_MAPPING = {
    "unknown op": (
        edit("rearrange:", "rearange:"),
        f"{MAPPING}:22: unknown op rearange; did you mean rearrange?",
    ),
    "misspelled variable": (
        edit("h: heads + ", "h: head + "),
        f"{MAPPING}:22: unknown variable head in 'head + 2 * kv_heads'; did you mean heads",
    ),
    "variable without a value": (
        edit("heads: num_attention_heads", "heads: num_attn_heads"),
        f"{MAPPING}:5: variable heads has no value; found none of num_attn_heads in the source's config; did you mean",
    ),
    "duplicate target": (
        edit("layers.{layer}.ffn_norm.weight", "layers.{layer}.attention_norm.weight"),
        f"{MAPPING}:32: target tensor layers.0.attention_norm.weight is made twice: by entry attention.norm "
        f"({MAPPING}:11) and by entry mlp.norm; keep one of them",
    ),
    "unmapped tensor": (
        edit("- name: final_norm\n  source: model.norm.weight\n  target: norm.weight\n", ""),
        f"{MAPPING}: 1 source tensor is used by no entry; model.norm.weight (like model.embed_tokens.weight: entry "
        f"embedding, {MAPPING}:8); add entries, or globs under ignore.source",
    ),
    "no such source tensor": (
        edit("source: model.norm.weight", "source: model.nrom.weight"),
        f"{MAPPING}:46: entry final_norm: source tensor model.nrom.weight is missing; did you mean model.norm.weight",
    ),
    "entry that matches nothing": (
        edit(
            "source: lm_head.weight\n  target: output.weight\n",
            "source: lm_head.weight\n  target: output.weight\n"
            "- name: bias\n  source: model.layers.{layer}.q_bias\n  target: layers.{layer}.qb\n",
        ),
        f"{MAPPING}:52: entry bias matches nothing: no source tensor is named model.layers.{{layer}}.q_bias",
    ),
    "shapes that do not fit": (
        edit('"m (h two d) -> m (h d two)"', '"(h two d) m -> m (h d two)"'),
        f"{MAPPING}:25: entry attention.out: layers.0.attention.wo.weight gets shape (72, 48), expected (48, 72); "
        "model.layers.0.self_attn.o_proj.weight (48, 72); "
        '{rearrange: "(h two d) m -> m (h d two)", two: 2, h: heads} -> (72, 48); correct the ops, or the config',
    ),
}

OF_LOADER = {
    "raises": (
        loader("def load(path, **options):\n    raise KeyError('weights')\n"),
        "mine.py:5: the loader mine.py:load raised KeyError: 'weights'",
    ),
    "exits": (
        loader("def load(path, **options):\n    raise SystemExit('no GPU here')\n"),
        "mine.py:5: the loader mine.py:load raised SystemExit: no GPU here",
    ),
    "returns nonsense": (
        loader("def load(path, **options):\n    return {'weights': 3}\n"),
        "mine.py:4: the loader mine.py:load returned something that cannot be walked; found dict; expected a torch.nn.",
    ),
    "returns nothing": (
        loader("def load(path, **options):\n    sample(path, **options)\n"),
        "found None (a return is missing?); expected a torch.nn.Module",
    ),
    "meta tensors": (
        loader("def load(path, **options):\n    with torch.device('meta'):\n        return sample(None, **options)\n"),
        "tok_embeddings.weight: parameter has no values; found a meta tensor (27 of 27 parameters are); expected a",
    ),
    "forward raises": (
        forward("assert tokens.ndim == 3, 'heads?'"),
        "Llama: the model's forward failed: AssertionError: heads? (mine.py:7); found inputs {'tokens': (2, 48)}",
    ),
    "dropout left on": (
        forward("return torch.nn.functional.dropout(plain(tokens, positions), 0.1)"),
        "the target gives another output each time it is run on the same input; found a difference of ",
    ),
    "one position only": (
        forward("return plain(tokens, positions)[:, -1:]"),
        "the two models' outputs cannot be laid over each other; found source [2, 48, 131], target [2, 1, 131]; "
        "expected the same tokens and features on both sides; select the matching output with `output:` in the config",
    ),
    "smaller vocabulary": (
        forward("return plain(tokens, positions)[..., :100]"),
        "found source [2, 48, 131], target [2, 48, 100]",
    ),
    "no mask for padding": (
        both(forward("return plain(tokens, positions)"), config("seed: 0}", "seed: 0, attention_mask: left-padded}")),
        "the target does not accept the input 'attention_mask', and its values matter; found attention_mask with 2 "
        "different values; name the target's own argument with `inputs:` in the config, or use a probe without padding",
    ),
}


def cases(table):
    return pytest.mark.parametrize(("spoil", "line"), table.values(), ids=table)


@cases(OF_CONFIG)
def test_config(sample, spoil, line):
    spoil(sample)
    assert line in refused(sample)


@cases(OF_CHECKPOINT)
def test_checkpoint(sample, spoil, line):
    spoil(sample)
    assert line in refused(sample)


@cases(OF_MAPPING)
def test_mapping(sample, spoil, line):
    spoil(sample)
    assert refused(sample).startswith(line)


@cases(OF_LOADER)
def test_loader(sample, spoil, line):
    spoil(sample)
    assert line in refused(sample)


def test_what_is_spoiled_here_is_healthy_before(sample):
    done = compare(sample, "--json", sample / "report.json")
    assert done.exit_code == 0, done.stdout + done.stderr
    assert Result.from_json(sample / "report.json").verdict == "equivalent"


def test_padding_that_both_models_heed_is_no_error(sample):
    config("seed: 0}", "seed: 0, attention_mask: left-padded}")(sample)
    assert compare(sample).exit_code == 0


@pytest.mark.parametrize(
    ("spoil", "tensor", "how"),
    [
        (
            target(element("layers.2.feed_forward.w2.weight", np.nan)),
            "layers.2.feed_forward.w2.weight",
            "1 of 5376 elements are NaN or infinite; worst at [3, 3]: nan where ",
        ),
        (
            target(element("layers.1.ffn_norm.weight", np.inf)),
            "layers.1.ffn_norm.weight",
            "1 of 48 elements are NaN or infinite; worst at [3]: inf where ",
        ),
        (
            target(lambda held: held.update({"norm.weight": held["norm.weight"].astype(np.int32)})),
            "norm.weight",
            "stored as int32, which cannot hold it",
        ),
    ],
    ids=["NaN", "infinity", "dtype"],
)
def test_a_spoiled_target_is_a_finding(sample, spoil, tensor, how):
    spoil(sample)
    report = sample / "report.json"
    done = compare(sample, "--json", report, "--html", sample / "report.html")
    assert done.exit_code == 1, done.stderr
    (finding,) = Result.from_json(report).findings
    assert (finding.kind, finding.cause) == ("tensor", "checkpoint")
    assert finding.explanation.startswith(f"{tensor} is not what the mapping makes of the source: {how}")


@pytest.mark.parametrize(
    "spoil", [loader("def load(path, **options):\n    raise KeyboardInterrupt\n"), forward("raise KeyboardInterrupt")]
)
def test_an_interrupted_run_says_so_and_leaves_nothing(sample, spoil):
    spoil(sample)
    assert refused(sample, status=130) == "interrupted; no report was written"
