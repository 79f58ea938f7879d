"""Tables of MaxText's form in a user's own file: every shape of entry, both ways, and from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.cli.app import app
from ckptdbg.documents import dump_yaml
from ckptdbg.errors import CkptdbgError
from ckptdbg.mapping.tracing import trace
from ckptdbg.models.importers import Given, find_conversion
from ckptdbg.models.importers.maxtext_tables import Tables

TABLES = """
import numpy as np

def NAMES(config, maxtext_config, scan_layers=False):
    layers, experts = range(config["layers"]), range(maxtext_config.experts)
    out = {"params-embed-scale": "norm.weight"}
    if scan_layers:
        out["params-layers-query-kernel"] = [f"l.{i}.q" for i in layers]
        out["params-layers-experts"] = [[f"l.{i}.e.{j}" for i in layers] for j in experts]
        out["params-blocks-local_layers-key"] = [[f"l.{2 * b + i}.k" for i in range(2)] for b in range(2)]
        out["params-layers-scalar"] = [f"l.{i}.s" for i in layers]
    else:
        for i in layers:
            out[f"params-layers_{i}-query-kernel"] = f"l.{i}.q"
            out[f"params-layers_{i}-experts"] = [f"l.{i}.e.{j}" for j in experts]
    out[("params-wi_0", "params-wi_1")] = "gate_up"
    out["params-fused"] = ("part.a", "part.b")
    out["params-not_there"] = "nothing"
    return out

def HOOKS(config, maxtext_config, scan_layers=False, saving_to_hf=False):
    def kernel(x, shape):
        return x.reshape(shape[::-1]).T if saving_to_hf else x.T.reshape(shape)
    def half(x, shape):
        return x * (2.0 if saving_to_hf else 0.5)
    def split(x, shape):
        if saving_to_hf:
            a, b = x
            return np.stack([np.asarray(a), np.asarray(b)], -1).reshape(shape)
        return np.stack([x[..., ::2], x[..., 1::2]], -1)
    def fuse(x, shape):
        return (x[:3], x[3:]) if saving_to_hf else np.concatenate(x)
    hooks = {("params-wi_0", "params-wi_1"): split, "params-fused": fuse}
    names = ["params-layers"] if scan_layers else [f"params-layers_{i}" for i in range(config["layers"])]
    for name in names:
        hooks[f"{name}-query-kernel"] = [kernel, half]
        hooks[f"{name}-experts"] = kernel
    return hooks
"""
CONFIG = {"layers": 4}
HF = {"norm.weight": (5,), "gate_up": (5, 8), "part.a": (3, 2), "part.b": (4, 2)}
for i in range(4):
    HF |= {f"l.{i}.q": (6, 5), f"l.{i}.k": (5, 3), f"l.{i}.s": (), **{f"l.{i}.e.{j}": (7, 5) for j in range(3)}}
SHARED = {"embed/scale": (5,), "wi_0": (5, 4), "wi_1": (5, 4), "fused": (7, 2)}
SCANNED = {
    **SHARED, "layers/query/kernel": (5, 4, 6), "layers/experts": (3, 4, 5, 7), "blocks/local_layers/key": (5, 2, 2, 3),
    "layers/scalar": (4,),
}  # fmt: skip
UNROLLED = {**SHARED, **{f"layers/{i}/query/kernel": (5, 6) for i in range(4)}}
UNROLLED |= {f"layers/{i}/experts": (3, 5, 7) for i in range(4)}


def specs(shapes):
    return {name: TensorSpec(shape, "float32") for name, shape in shapes.items()}


def random(shapes):
    generator = np.random.default_rng(0)
    return {name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "tables.py").write_text(TABLES)
    return tmp_path


def find(folder, source, target, **asked):
    asked = {"maxtext": "tables.py:NAMES", "hooks": "tables.py:HOOKS", "options": {"experts": 3}, **asked}
    return find_conversion(asked, Given(specs(source), CONFIG, lambda: specs(target), folder, "c.yaml"))


@pytest.mark.parametrize(("scan", "ours"), [(True, SCANNED), (False, UNROLLED)], ids=["scan", "unrolled"])
def test_every_form_of_entry_both_ways(folder, scan, ours):
    theirs = HF if scan else {n: s for n, s in HF.items() if not n.endswith((".k", ".s"))}
    given = random(theirs)
    found = find(folder, theirs, ours, scan=scan)
    assert found.name.endswith(":NAMES (from_hf)")
    traced = trace(found.convert, specs(theirs), CONFIG, found.name, given)
    made = {n: v for n, v, _ in traced.mapping.bind(CONFIG, specs(theirs), specs(ours)).values(given.__getitem__)}
    assert (made.keys(), traced.untraced, traced.inexact) == (ours.keys(), (), ())
    query, experts = np.stack([given[f"l.{i}.q"].T / 2 for i in range(4)]), [given[f"l.2.e.{j}"].T for j in range(3)]
    if scan:
        np.testing.assert_array_equal(made["layers/query/kernel"], query.transpose(1, 0, 2))
        np.testing.assert_array_equal(made["layers/experts"][:, 2], experts)
        keys = np.stack([given[f"l.{i}.k"] for i in range(4)]).reshape(2, 2, 5, 3)
        np.testing.assert_array_equal(made["blocks/local_layers/key"], keys.transpose(2, 0, 1, 3))
        np.testing.assert_array_equal(made["layers/scalar"], [given[f"l.{i}.s"] for i in range(4)])
    else:
        np.testing.assert_array_equal(made["layers/3/query/kernel"], query[3])
        np.testing.assert_array_equal(made["layers/2/experts"], experts)
    np.testing.assert_array_equal(made["wi_1"], given["gate_up"][:, 1::2])
    np.testing.assert_array_equal(made["fused"], np.concatenate([given["part.a"], given["part.b"]]))
    back = find(folder, ours, theirs, scan=scan)
    assert back.name.endswith(":NAMES (to_hf)")
    home = back.convert(made)
    assert home.keys() == given.keys()
    assert all(np.array_equal(home[name], given[name]) for name in given)


def test_a_hook_that_takes_several_at_once_replaces_them_one_by_one():
    hooks = {("a", "b"): lambda pair, shape: pair[0] + pair[1]}
    tables = Tables({"a": "sum", "b": "sum", "c": "other"}, hooks, False, 1, "t")
    one, two = np.ones((2, 3)), np.full((2, 3), 2.0)
    made = tables.to_hf({"a": one, "b": two, "c": one}, {"sum": (3, 2), "other": (2, 3)})
    np.testing.assert_array_equal(made["sum"], np.full((3, 2), 3.0))
    assert made.keys() == {"sum", "other"}


def failure(run):
    with pytest.raises(CkptdbgError) as error:
        run()
    return str(error.value)


def test_what_is_wrong_is_said(folder):
    given = random(HF)
    del given["part.a"]
    told = failure(lambda: find(folder, HF, SCANNED, scan=True).convert(given))
    assert "MaxText wants part.a, which the source has not" in told
    told = failure(lambda: find(folder, HF, {"embed.weight": (2,)}))
    assert told.startswith(
        "c.yaml: no tensor of the target is in MaxText's table; found embed.weight; expected params-"
    )
    wrong = {**SCANNED, "embed/scale": (6,)}
    told = failure(lambda: find(folder, HF, wrong, scan=True).convert(random(HF)))
    assert "the hooks make another shape of params-embed-scale; found (5,); expected (6,), the target's" in told
    assert failure(lambda: find(folder, {"x.y": (1,)}, SCANNED)) == (
        "c.yaml: no tensor of the source is in MaxText's table; found x.y; expected norm.weight, l.0.q or "
        "params-embed-scale, params-layers_0-query-kernel; scan: true is for layers that are stacked"
    )
    told = failure(lambda: find(folder, HF, SCANNED, options={}))
    assert "NAMES raised AttributeError: 'types.SimpleNamespace' object has no attribute 'experts'" in told
    sides = Given(specs(HF), CONFIG, dict, folder, "c.yaml")
    told = failure(lambda: find_conversion({"maxtext": "tables.py:NAMES"}, sides))
    assert told == "c.yaml: a table of names without hooks; add hooks: file.py:function"


def test_without_maxtext_it_says_what_to_install(folder):
    sides = Given(specs(HF), CONFIG, dict, folder, "c.yaml")
    told = failure(lambda: find_conversion({"maxtext": "llama3.1-8b"}, sides))
    assert told.startswith("maxtext cannot be imported: No module named 'maxtext'; pip install --no-deps maxtext")
    told = failure(lambda: find_conversion({"torchtitan": "llama3"}, sides))
    assert told == "torchtitan cannot be imported: No module named 'torchtitan'; pip install torchtitan triton"


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_from_the_command_line_before_and_after_there_is_a_target(folder, monkeypatch):
    monkeypatch.chdir(folder)
    Path("source").mkdir()
    save_file(random(HF), "source/model.safetensors")
    Path("source/config.json").write_text(json.dumps(CONFIG))
    Path("made.safetensors").write_bytes(b"")
    shapes = {"params-" + name.replace("/", "-"): list(shape) for name, shape in SCANNED.items()}
    Path("shapes.json").write_text(json.dumps(shapes))
    mapping = {"maxtext": "tables.py:NAMES", "hooks": "tables.py:HOOKS", "scan": True, "options": {"experts": 3}}
    told = {
        "source": {"loader": "huggingface", "path": "source"},
        "target": {"loader": "t.py:load", "path": "made.safetensors"},
    }
    Path("t.py").write_text("")
    Path("c.yaml").write_text(dump_yaml({**told, "mapping": mapping}))
    none = run("mapping", "trace", "c.yaml")
    assert none.exit_code == 2
    assert "MaxText's hooks have to know the target's shapes, and there is no target yet" in none.output
    assert "add shapes: FILE to the mapping" in none.output
    Path("c.yaml").write_text(dump_yaml({**told, "mapping": {**mapping, "shapes": "shapes.json"}}))
    written = run("mapping", "trace", "c.yaml", "-o", "m.yaml")
    assert written.exit_code == 0, written.output
    assert "8 of 8 tensors in" in written.output
    assert run("convert", "c.yaml", "-o", "made.safetensors", "--overwrite").exit_code == 0
    Path("c.yaml").write_text(dump_yaml({**told, "mapping": mapping}))
    assert run("verify", "c.yaml").exit_code == 0
    made = load_file("made.safetensors")
    made["layers/query/kernel"] = np.ascontiguousarray(made["layers/query/kernel"][:, ::-1])
    save_file(made, "made.safetensors")
    found = run("verify", "c.yaml")
    assert found.exit_code == 1
    assert "differs  layers/query/kernel" in found.output
    assert "entry  layers.query.kernel" in found.output
