"""``verify``: what it says of planted weight faults, that ``compare`` says the same, and what it takes."""

import subprocess
import sys
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from typer.testing import CliRunner

from ckptdbg import cli
from ckptdbg.checkpoint import MemoryCheckpoint, open_checkpoint, write_safetensors
from ckptdbg.documents import dump_yaml, parse_yaml
from ckptdbg.errors import ConfigError
from ckptdbg.mapping import Mapping
from ckptdbg.samples.build import build_sample
from ckptdbg.samples.weight_faults import WEIGHT_FAULTS
from ckptdbg.session import open_session
from ckptdbg.weights.checkpoints import as_tensors, open_side
from ckptdbg.weights.records import Verification
from ckptdbg.weights.verify import verify

PAIRS = ("llama_square_to_nnx", "llama_to_scan", "mixtral_to_jax", "gpt2_to_jax")
SAID = {
    "value-element": "1 of ",
    "down-element": "1 of ",
    "down-bfloat16": "rounded to bfloat16",
    "down-zeros": "all zeros: never loaded?",
    "out-random": "with no relation to what is due",
    "norm-scaled": "every element times 1.1",
    "checkpoint-gate-up-swapped": "changed places: each holds what the other should",
    "down-transposed": "the transpose of what the mapping makes",
    "experts-swapped": "expert 0 and expert 1 of axis ",
    "embedding-rows-shifted": "axis 0 is rolled by +1",
    "hidden-permuted": "is in another order: ",
    "layers-sorted-as-text": "it holds what ",
}


def checked(config):
    session = open_session(config)
    read = session.config
    sides = open_side(read.source, "source", read.file), open_side(read.target, "target", read.file)
    return verify(session.unbound_mapping, *sides), session


@pytest.mark.parametrize("pair", PAIRS)
def test_a_healthy_conversion_is_equal_or_rounded(pair, tmp_path):
    found, _ = checked(build_sample(tmp_path, pair))
    assert found.good
    assert found.tensors
    assert {report.status for report in found.tensors} <= {"equal", "rounded"}
    assert all((report.worst is None) == (report.status == "equal") for report in found.tensors)


CASES = [(pair, fault.name) for pair in PAIRS for fault in WEIGHT_FAULTS.values() if fault.applies(pair)]


@pytest.mark.parametrize(("pair", "name"), CASES)
def test_a_weight_fault_is_told_as_compare_tells_it(pair, name, tmp_path):
    # text order differs from the numbers' only beyond ten layers
    sizes = {"n_layer": 12} if name == "layers-sorted-as-text" else {}
    found, session = checked(build_sample(tmp_path, pair, (name,), **sizes))
    assert {report.entry.name for report in found.differing} == set(WEIGHT_FAULTS[name].entries)
    assert [(r.tensor, r.how, r.wrong) for r in found.differing] == [
        (d.tensor, d.how, d.wrong) for d in session.differences
    ]
    assert all(SAID.get(name, "") in report.how for report in found.differing)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["down-element", "checkpoint-gate-up-swapped", "embedding-rows-shifted"])
def test_compare_reports_what_verify_reports(name, tmp_path):
    found, session = checked(build_sample(tmp_path, "llama_to_scan", (name,)))
    findings = [f for f in session.compare().findings if f.kind == "tensor"]
    assert {e.name for f in findings for e in f.entries} == {r.entry.name for r in found.differing}
    assert all(any(report.how in f.explanation for f in findings) for report in found.differing)


def test_the_worst_element_and_its_origin(tmp_path):
    config = build_sample(tmp_path, "llama_to_scan", ("down-element",))
    found, session = checked(config)
    (report,) = found.differing
    target, source = open_checkpoint(session.config.target.path), open_checkpoint(session.config.source.path)
    assert report.worst.found == target.read(report.tensor)[tuple(report.worst.index)]
    name, _, index = report.worst.origin.rstrip("]").partition("[")
    assert name == "model.layers.1.mlp.down_proj.weight"
    assert report.worst.expected == source.read(name)[tuple(map(int, index.split(",")))]
    assert report.worst.found == pytest.approx(1.5 * report.worst.expected)


def pair_of(source, target, entries):
    """Verify two checkpoints in memory."""
    mapping = Mapping.from_dict({"version": 1, "entries": entries})
    return verify(mapping, as_tensors(MemoryCheckpoint(source)), as_tensors(MemoryCheckpoint(target)))


RNG = np.random.default_rng(0)
A, B = RNG.standard_normal((6, 8)).astype(np.float32), RNG.standard_normal((6, 8)).astype(np.float32)
SAME = [{"name": "w", "source": "w.{i}", "target": "t/{i}"}]


def head_order(w):
    return w.reshape(3, 2, 8).swapaxes(0, 1).reshape(6, 8)


@pytest.mark.parametrize(
    ("target", "how"),
    [
        ({"t/0": head_order(A), "t/1": B}, 'permuted: "(a b) c -> (b a) c" (a 3, b 2, c 8) of what the mapping makes'),
        ({"t/0": A[::-1], "t/1": B}, "axis 0 is reversed"),
        ({"t/0": A * np.float32(6**-0.5), "t/1": B}, "every element times 0.408248"),
        ({"t/0": A + 1, "t/1": B}, "every element plus 1"),
        ({"t/0": B[::-1], "t/1": B}, "it holds what t/1 should in another order"),
        ({"t/0": B, "t/1": B}, "it holds what t/1 should"),
        ({"t/0": A.reshape(8, 6), "t/1": B}, "of shape (8, 6), and the mapping makes (6, 8)"),
        ({"t/0": np.where(A[2, 3] == A, np.nan, A), "t/1": B}, "1 of 48 elements are NaN or infinite"),
    ],
)
def test_what_a_tensor_is_instead(target, how):
    found = pair_of({"w.0": A, "w.1": B}, target, SAME)
    assert [(report.tensor, report.how) for report in found.differing] == [("t/0", how)]


def test_a_factor_is_named_after_the_size_it_comes_from(tmp_path):
    config = build_sample(tmp_path, "llama_to_nnx")
    path = open_session(config).config.target.path
    tensors = {name: np.array(open_checkpoint(path).read(name)) for name in open_checkpoint(path).specs}
    tensors["token_embedder/embedding"] *= np.float32(48**0.5)
    write_safetensors(path, tensors.items())
    (report,) = checked(config)[0].differing
    assert report.how == "every element times 6.9282 (hidden_size ** 0.5)"


def test_rounding_is_no_difference_and_the_mapping_may_ask_for_it():
    half = A.astype(ml_dtypes.bfloat16)
    assert [r.status for r in pair_of({"w.0": A}, {"t/0": half}, SAME).tensors] == ["rounded"]
    assert [r.how for r in pair_of({"w.0": A}, {"t/0": half.astype(np.float32)}, SAME).tensors] == [
        "rounded to bfloat16"
    ]
    asked = [{**SAME[0], "ops": [{"cast": "bfloat16"}]}]
    assert [r.status for r in pair_of({"w.0": A}, {"t/0": half.astype(np.float32)}, asked).tensors] == ["rounded"]


ODD = {
    "nan": np.array([[np.nan, 1], [2, np.inf]], np.float32),
    "scalar": np.array(3.0, np.float32),
    "empty": np.zeros((0, 4), np.float32),
    "whole": np.arange(6, dtype=np.int64).reshape(2, 3),
    "zeros": np.zeros((3, 3), np.float32),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_tensors_are_equal_to_themselves_and_differ_when_changed(name):
    entry, value = [{"name": "w", "source": "w", "target": "t"}], ODD[name]
    assert [r.status for r in pair_of({"w": value}, {"t": value.copy()}, entry).tensors] == ["equal"]
    changed = value.copy()
    changed[...] = 7
    found = pair_of({"w": value}, {"t": changed}, entry)
    assert [r.status for r in found.tensors] == (["equal"] if name == "empty" else ["differs"])
    assert Verification.model_validate_json(found.model_dump_json(by_alias=True)) == found


def test_missing_and_extra_tensors_are_listed():
    found = pair_of({"w.0": A, "w.1": B}, {"t/0": A, "other": B}, SAME)
    assert not found.good
    assert [(m.tensor, m.entry.name) for m in found.missing] == [("t/1", "w")]
    assert found.extra == ["other"]
    assert [r.status for r in found.tensors] == ["equal"]


def test_one_tensor_is_in_memory_at_a_time():
    count, shape = 24, (256, 1024)
    size = 4 * 256 * 1024
    source = {f"w.{i}": np.full(shape, np.float32(i)) for i in range(count)}
    target = {f"t/{i}": source[f"w.{i}"] for i in range(count)}
    tracemalloc.start()
    found = pair_of(source, target, SAME)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.good
    # Measured 10 times the float32 tensor: in float64 the source, the product and a few slabs of the comparison.
    assert peak < 14 * size < count * size


def run(*arguments):
    return CliRunner().invoke(cli.app, ["verify", *map(str, arguments)])


def test_the_command_says_what_differs_and_where(tmp_path):
    config = build_sample(tmp_path, "llama_to_nnx", ("norm-scaled",))
    done = run(config, "--json", tmp_path / "v.json")
    assert done.exit_code == 1
    first, entry, worst, total, wrote = done.stdout.splitlines()
    assert first == ("differs  decoder/layers_1/post_self_attention_layer_norm/scale: every element times 1.1")
    assert entry.startswith("         entry  mlp.norm (")
    assert "made from model.layers.1.post_attention_layernorm.weight[" in worst
    assert total.endswith("1 differ")
    assert wrote.endswith("v.json")
    found = Verification.model_validate_json((tmp_path / "v.json").read_text())
    assert [report.entry.name for report in found.differing] == ["mlp.norm"]
    assert found.differing[0].entry.line is not None


def test_a_healthy_conversion_exits_with_0_and_imports_no_framework(tmp_path):
    config = build_sample(tmp_path, "llama_to_nnx")
    code = (
        f"import sys; sys.argv = ['ckptdbg', 'verify', {str(config)!r}]\n"
        "from ckptdbg.cli import main\n"
        "try: main()\n"
        "except SystemExit as done: print(done.code, *{m.split('.')[0] for m in sys.modules}, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    status, *modules = done.stderr.split()
    assert status == "0"
    assert not {"torch", "jax", "transformers"} & set(modules)


def test_a_target_that_only_its_loader_can_read(tmp_path):
    config = build_sample(tmp_path, "llama_to_nnx", ("norm-scaled",))
    own = tmp_path / "target.own"
    (tmp_path / "target.safetensors").rename(own)
    document = parse_yaml(config.read_text(), str(config), ConfigError)
    document["target"]["path"] = "target.own"
    document["target"]["loader"] = "own.py:load"
    (tmp_path / "own.py").write_text(
        "import shutil\nfrom ckptdbg.samples.targets import nnx_llama\n\n"
        "def load(path, **options):\n"
        "    copy = shutil.copy(path, str(path) + '.safetensors')\n"
        "    return nnx_llama.load(copy, **options)\n"
    )
    config.write_text(dump_yaml(document))
    refused = run(config)
    assert refused.exit_code == 2
    assert "the target cannot be read as a checkpoint" in refused.stderr
    assert "--load takes the tensors from the loaded model" in refused.stderr
    loaded = run(config, "--load")
    assert loaded.exit_code == 1
    assert "every element times 1.1" in loaded.stdout


def test_a_target_without_a_checkpoint_is_said(tmp_path):
    config = build_sample(tmp_path, "llama_to_nnx")
    document = parse_yaml(config.read_text(), str(config), ConfigError)
    del document["target"]["path"]
    config.write_text(dump_yaml(document))
    done = run(config)
    assert done.exit_code == 2
    assert "the target has no checkpoint" in done.stderr
