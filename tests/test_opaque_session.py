"""A source in float8 blocks with their scales, converted by a script that dequantises: no op says that, so the mapping
leaves it to the script, from tracing to the verdict."""

import textwrap
from types import SimpleNamespace

import numpy as np
import pytest
from ml_dtypes import float8_e4m3fn
from typer.testing import CliRunner

from ckptdbg.checkpoint import open_checkpoint, write_safetensors
from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.cli.app import app
from ckptdbg.diagnose.summary import undecided
from ckptdbg.errors import MappingError
from ckptdbg.mapping import BoundEntry, BoundMapping
from ckptdbg.mapping.ops import Opaque
from ckptdbg.session import open_session

LAYERS, HIDDEN, WIDE, VOCAB, BLOCK = 2, 144, 176, 37, 128
MODELS = """
import torch
from torch import nn
from torch.nn import functional as F

HIDDEN, WIDE, VOCAB, LAYERS, BLOCK = 144, 176, 37, 2, 128


def dequantised(weight, scales, dtype):
    rows, columns = weight.shape
    scales = scales.to(dtype).repeat_interleave(BLOCK, 0)[:rows].repeat_interleave(BLOCK, 1)[:, :columns]
    return weight.to(dtype) * scales


class Quantised(nn.Module):
    def __init__(self, rows, columns):
        super().__init__()
        empty = torch.zeros(rows, columns).to(torch.float8_e4m3fn)
        self.weight = nn.Parameter(empty, requires_grad=False)
        self.weight_scale_inv = nn.Parameter(torch.ones(-(-rows // BLOCK), -(-columns // BLOCK)))

    def forward(self, x):
        return F.linear(x, dequantised(self.weight, self.weight_scale_inv, x.dtype))


def linear(rows, columns):
    return nn.Linear(columns, rows, bias=False)


class Layer(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.norm = nn.LayerNorm(HIDDEN, bias=False)
        self.up, self.down = make(WIDE, HIDDEN), make(HIDDEN, WIDE)

    def forward(self, x):
        return x + self.down(F.silu(self.up(self.norm(x))))


class Model(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, HIDDEN)
        self.layers = nn.ModuleList(Layer(make) for _ in range(LAYERS))
        self.head = linear(VOCAB, HIDDEN)

    def forward(self, input_ids):
        x = self.embed(input_ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def load(path, quantised=False):
    from safetensors.torch import load_file

    model = Model(Quantised if quantised else linear)
    if path is not None:
        model.load_state_dict(load_file(path))
    return model
"""
SCRIPT = '''
import torch

BLOCK = 128


def dequantise(weight, scales):
    """As DeepSeek-V3's from_hf does it: every block of 128 by 128 has a scale."""
    out = weight.to(torch.float32).clone()
    for i in range(scales.shape[0]):
        for j in range(scales.shape[1]):
            out[i * BLOCK : (i + 1) * BLOCK, j * BLOCK : (j + 1) * BLOCK] *= SCALE
    return out


def convert(state):
    made = {}
    for name, tensor in state.items():
        if name.endswith("_scale_inv"):
            continue
        scales = state.get(f"{name}_scale_inv")
        made[name] = tensor if scales is None else dequantise(tensor, scales)
    return made
'''
CONFIG = """
source: {{loader: models.py:load, path: source.safetensors, options: {{quantised: true}}}}
target: {{loader: models.py:load, path: target.safetensors}}
mapping: {mapping}
probe: {{ids: ids.npy}}
"""
FUNCTION = "{trace: convert.py:convert, arrays: torch}"


def source_tensors():
    generator = np.random.default_rng(0)

    def normal(*shape):
        return generator.standard_normal(shape).astype(np.float32)

    tensors = {"embed.weight": normal(VOCAB, HIDDEN), "head.weight": normal(VOCAB, HIDDEN) / 12}
    for i in range(LAYERS):
        tensors[f"layers.{i}.norm.weight"] = 1 + 0.1 * normal(HIDDEN)
        for name, shape in (("up", (WIDE, HIDDEN)), ("down", (HIDDEN, WIDE))):
            tensors[f"layers.{i}.{name}.weight"] = (16 * normal(*shape)).astype(float8_e4m3fn)
            scales = 0.005 + 0.002 * generator.random((2, 2))
            tensors[f"layers.{i}.{name}.weight_scale_inv"] = scales.astype(np.float32)
    return tensors


def dequantised(weight, scales):
    rows, columns = weight.shape
    blocks = scales.repeat(BLOCK, 0)[:rows].repeat(BLOCK, 1)[:, :columns]
    return weight.astype(np.float32) * blocks


def built(folder, mapping=FUNCTION, scale="scales[i, j]", target=True):
    source = source_tensors()
    write_safetensors(folder / "source.safetensors", list(source.items()))
    made = {
        n: dequantised(v, source[f"{n}_scale_inv"]) if f"{n}_scale_inv" in source else v
        for n, v in source.items()
        if not n.endswith("_inv")
    }
    if target:
        write_safetensors(folder / "target.safetensors", list(made.items()))
    np.save(folder / "ids.npy", np.random.default_rng(1).integers(0, VOCAB, (2, 24)))
    (folder / "models.py").write_text(MODELS)
    (folder / "convert.py").write_text(textwrap.dedent(SCRIPT).replace("SCALE", scale))
    (folder / "config.yaml").write_text(CONFIG.format(mapping=mapping))
    return folder / "config.yaml"


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_a_dequantising_script_goes_from_trace_to_verdict(tmp_path):
    config = built(tmp_path)
    traced = run("mapping", "trace", config, "-o", tmp_path / "traced.yaml")
    assert traced.exit_code == 1, traced.output
    assert "made by function    layers.0.up.weight" in traced.output
    assert "8 of 8 tensors in 5 entries" in traced.output
    assert "mapping: {file: FILE, trace: convert.py:convert}" in traced.output
    text = (tmp_path / "traced.yaml").read_text()
    assert "- layers.{layer}.up.weight_scale_inv\n  target: layers.{layer}.up.weight" in text

    verified = run("verify", config)
    assert verified.exit_code == 0, verified.output
    assert "8 tensors: 8 equal, 0 rounded to their dtype, 0 differ" in verified.output
    converted = run("convert", config, "-o", tmp_path / "again.safetensors")
    assert converted.exit_code == 0, converted.output
    target, again = (open_checkpoint(tmp_path / f"{n}.safetensors") for n in ("target", "again"))
    assert {n: again.read(n).tobytes() for n in again.specs} == {n: target.read(n).tobytes() for n in target.specs}

    result = open_session(config).compare()
    assert (result.verdict, result.findings) == ("equivalent", [])
    told = "made by convert.py:convert, which tells no layout: only its values are compared"
    left = {row.name for row in result.not_compared if row.side == "target" and row.reason == told}
    assert left == {f"layers.{i}.{n}.weight" for i in range(LAYERS) for n in ("up", "down")}
    assert not any("up.weight" in site.site or "down.weight" in site.site for site in result.sites)


@pytest.mark.parametrize("scale", ["scales[0, 0]", "1.0"])
def test_a_script_that_dequantises_wrongly_is_no_equivalent_model(tmp_path, scale):
    """The target is filled by the script itself: its tensors are the mapping's, and the outputs tell."""
    config = built(tmp_path, scale=scale, target=False)
    config.write_text(config.read_text().replace(", path: target.safetensors", ""))
    result = open_session(config).compare()
    assert result.verdict in ("divergent", "definition-differs")


BFLOAT16 = "scales[i, j]\n            out = out.to(torch.bfloat16)"


def test_what_the_script_rounds_to_is_noise_with_a_sketch_as_without(tmp_path):
    """The script makes bfloat16, and nobody knows what it rounded: only the target's own values."""
    config = built(tmp_path, scale=BFLOAT16, target=False)
    text = config.read_text()
    config.write_text(text.replace(", path: target.safetensors", ""))
    converted = run("convert", config, "-o", tmp_path / "target.safetensors")
    assert converted.exit_code == 0, converted.output
    config.write_text(text)
    open_session(config).capture(tmp_path / "sketch", sketch=True)
    for session in (open_session(config), open_session(config, source_trace=tmp_path / "sketch")):
        result = session.compare()
        assert (result.verdict, result.findings) == ("equivalent", [])


def test_a_wrong_tensor_is_found_by_its_values(tmp_path):
    config = built(tmp_path)
    target = {n: v.copy() for n, v in open_checkpoint_values(tmp_path / "target.safetensors").items()}
    target["layers.1.up.weight"][130, 5] *= 2
    (tmp_path / "target.safetensors").unlink()
    write_safetensors(tmp_path / "target.safetensors", list(target.items()))
    assert "differs  layers.1.up.weight: 1 of" in run("verify", config).output
    result = open_session(config).compare()
    assert result.verdict == "divergent"
    (finding,) = result.findings
    assert (finding.kind, finding.cause) == ("tensor", "checkpoint")


def open_checkpoint_values(path):
    checkpoint = open_checkpoint(path)
    return {n: checkpoint.read(n) for n in checkpoint.specs}


def test_a_mapping_file_runs_no_function_unasked(tmp_path):
    config = built(tmp_path)
    run("mapping", "trace", config, "-o", tmp_path / "traced.yaml")
    (tmp_path / "convert.py").write_text("raise SystemExit('imported')")
    built_with = config.read_text()
    config.write_text(built_with.replace(FUNCTION, "traced.yaml"))
    for command in (("verify", config), ("convert", config, "-o", tmp_path / "x.safetensors"), ("compare", config)):
        refused = run(*command)
        assert refused.exit_code == 2, refused.output
        assert "is the function convert.py:convert, and a mapping file runs none" in refused.output.replace("\n", " ")
    (tmp_path / "convert.py").write_text(textwrap.dedent(SCRIPT).replace("SCALE", "scales[i, j]"))
    asked = "{file: traced.yaml, trace: convert.py:convert, arrays: torch}"
    config.write_text(built_with.replace(FUNCTION, asked))
    verified = run("verify", config)
    assert verified.exit_code == 0, verified.output
    backward = run("convert", config, "--reverse", "-o", tmp_path / "back.safetensors")
    assert backward.exit_code == 2
    assert "has no reverse: opaque convert.py:convert tells no way back" in backward.output.replace("\n", " ")


def test_a_tensor_by_a_function_is_undecided_where_no_token_reaches_it():
    """The same layer of a plain entry is shown right by another; a function may treat each otherwise."""

    def entry(target, opaque):
        ops = (Opaque("c.py:f", (2,), "float32"),) if opaque else ()
        spec = TensorSpec((2,), "float32")
        return BoundEntry("e", "m.yaml", 1, None, ("s",), (target,), (None,), (None,), ops, (), (spec,), (spec,))

    for opaque, left in ((False, []), (True, ["idle"])):
        mapping = BoundMapping((entry("met", opaque), entry("idle", opaque)))
        labels = [SimpleNamespace(tensors=(name,)) for name in ("met", "idle")]
        records = [SimpleNamespace(output=np.zeros(n)) for n in (3, 0)]
        comparison = SimpleNamespace(
            target=SimpleNamespace(labels=labels, met_labels=(), specs={"met": None, "idle": None}),
            free=SimpleNamespace(working=SimpleNamespace(records=records)),
        )
        assert [row.name for row in undecided(comparison, mapping)] == left


def test_diff_runs_a_function_that_it_is_given_and_no_other(tmp_path, monkeypatch):
    config = built(tmp_path)
    run("mapping", "trace", config, "-o", tmp_path / "traced.yaml")
    monkeypatch.chdir(tmp_path)
    text = (tmp_path / "traced.yaml").read_text()
    (tmp_path / "other.yaml").write_text(text.replace("convert.py:convert", "elsewhere.py:convert"))
    sides = ("--source", "source.safetensors", "--target", "target.safetensors")
    assert run("mapping", "diff", "traced.yaml", "traced.yaml", *sides).exit_code == 0
    same = run("mapping", "diff", "traced.yaml", "convert.py:convert", *sides)
    assert same.exit_code == 0, same.output
    other = run("mapping", "diff", "traced.yaml", "other.yaml", *sides)
    assert other.exit_code == 1
    assert "4 of 8 tensors are the same" in other.output
    assert "left to a function that was not run" in other.output.replace("\n", " ")


def test_an_opaque_entry_says_what_it_needs(tmp_path):
    (tmp_path / "m.yaml").write_text(BAD)
    session = open_session(built(tmp_path, mapping="m.yaml"))
    with pytest.raises(MappingError, match="opaque is what makes one whole target of its sources"):
        _ = session.mapping


BAD = """
version: 1
entries:
- source: embed.weight
  target: embed.weight
  ops: [{transpose: [1, 0]}, {opaque: "c.py:f", shape: [37, 144], dtype: float32}]
ignore: {source: ["l*", "h*"], target: ["l*", "h*"]}
"""
