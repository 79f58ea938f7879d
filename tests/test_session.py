"""Sessions: sources that ran elsewhere, targets without a checkpoint, models that are in memory already."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import ckptdbg as cd
from ckptdbg.checkpoint import open_checkpoint, write_safetensors
from ckptdbg.documents import dump_yaml, parse_yaml
from ckptdbg.errors import CheckpointError, CkptdbgError, ConfigError, HarnessError, LoaderError
from ckptdbg.samples.build import build_sample
from ckptdbg.session import open_session

PAIR, FAULT = "llama_to_torch", "gate-up-order"


def change(path, edit):
    """Edit a config in place."""
    document = parse_yaml(path.read_text(), str(path), ConfigError)
    edit(document)
    path.write_text(dump_yaml(document))


def told(result):
    """What a result says of the models, down to the last figure. Whether repairs are verified is apart: that takes a
    second run of the source."""
    said = result.model_dump(mode="json", exclude={"probe", "environment", "timings"})
    for finding in said["findings"]:
        (finding["repair"] or {}).pop("verified", None)
    return said


def named(result):
    return {entry.name for finding in result.findings for entry in finding.entries}


@pytest.fixture(scope="module")
def captured(tmp_path_factory):
    """A sample with a fault, and its source's trace."""
    folder = tmp_path_factory.mktemp("captured")
    config = build_sample(folder / "sample", PAIR, faults=(FAULT,))
    session = open_session(config)
    assert session.capture(folder / "trace") == folder / "trace"
    return config, folder / "trace", session


@pytest.fixture
def trace(captured, tmp_path):
    return Path(shutil.copytree(captured[1], tmp_path / "trace"))


def test_a_stored_source_gives_the_same_result(captured, tmp_path):
    config, trace, here = captured
    elsewhere = Path(shutil.copytree(config.parent, tmp_path / "elsewhere")) / config.name
    # There the source cannot be run: only its trace and its tensors are at hand.
    change(elsewhere, lambda document: document["source"].update(loader="no_such_package:load"))
    with pytest.raises(LoaderError, match="no_such_package"):
        open_session(elsewhere).compare()
    there = open_session(elsewhere, source_trace=trace).compare()
    assert there.verdict == "divergent"
    assert "mlp.gate_up" in named(there)
    assert [finding.repair.verified for finding in there.findings if finding.repair] == [False]
    expected = json.dumps(told(here.compare())).replace(str(config.parent), "")
    assert json.dumps(told(there)).replace(str(elsewhere.parent), "") == expected


def test_a_stored_source_keeps_its_own_probe(captured, tmp_path):
    config, trace, here = captured
    other = Path(shutil.copytree(config.parent, tmp_path / "other")) / config.name
    change(other, lambda document: document["probe"].update(seed=5))
    inputs = open_session(other, source_trace=trace).inputs
    assert np.array_equal(inputs["input_ids"], here.inputs["input_ids"])


def test_a_stored_source_still_needs_its_tensors(captured, tmp_path):
    config, trace, _ = captured
    bare = Path(shutil.copytree(config.parent, tmp_path / "bare")) / config.name
    change(bare, lambda document: document["source"].pop("path"))
    with pytest.raises(ConfigError, match=r"a source trace needs the source's checkpoint as well; set source: \{path"):
        open_session(bare, source_trace=trace).compare()


def spoil(change_manifest):
    def edit(trace):
        manifest = json.loads((trace / "manifest.json").read_text())
        change_manifest(manifest)
        (trace / "manifest.json").write_text(json.dumps(manifest))

    return edit


def cut(name):
    def edit(trace):
        (trace / name).write_bytes((trace / name).read_bytes()[:-100])

    return edit


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "trace: not a trace; expected a folder written by `ckptdbg capture`"),
        (lambda trace: (trace / "manifest.json").unlink(), "trace: not a trace; expected a folder written by"),
        (cut("manifest.json"), r"manifest.json: damaged manifest: .*; capture again"),
        (cut("arrays.safetensors"), "arrays.safetensors: the file is cut short"),
        (lambda trace: (trace / "arrays.safetensors").unlink(), "arrays.safetensors: no such checkpoint"),
        (spoil(lambda m: m.update(schema="ckptdbg.trace/0")), "another trace format; found ckptdbg.trace/0; expected"),
        (spoil(lambda m: m["side"].update(record="Path")), "unknown record; found Path; capture again"),
    ],
    ids=["gone", "no manifest", "manifest cut", "arrays cut", "no arrays", "schema", "record"],
)
def test_a_damaged_trace_is_refused(captured, trace, damage, message):
    damage(trace)
    with pytest.raises(CheckpointError, match=message):
        open_session(captured[0], source_trace=trace)


def test_a_trace_takes_the_place_of_a_trace_and_of_nothing_else(captured, trace, tmp_path):
    session = captured[2]
    (trace / "manifest.json").write_text("{}")
    session.capture(trace)
    assert open_session(captured[0], source_trace=trace).stored is not None
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("ten years")
    for _ in range(2):
        with pytest.raises(CheckpointError, match="there is something else here already; choose another path for -o"):
            session.capture(mine)
        (mine / "manifest.json").write_text("{}")  # of something else
    assert (mine / "thesis.txt").read_text() == "ten years"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "trace"]


@pytest.mark.parametrize(("faults", "verdict"), [((), "equivalent"), ((FAULT,), "divergent")])
def test_a_target_without_a_path_is_filled_by_the_mapping(tmp_path, faults, verdict):
    config = build_sample(tmp_path / "sample", PAIR, faults=faults)
    change(config, lambda document: document["target"].pop("path"))
    session = open_session(config)
    result = session.compare()
    assert result.verdict == verdict
    assert ("mlp.gate_up" in named(result)) == bool(faults)
    converted = open_checkpoint(tmp_path / "sample" / "target.safetensors")
    for name in converted.specs:
        assert np.array_equal(session.target.read(name), converted.read(name)), name


class Source(torch.nn.Module):
    def __init__(self, vocabulary=11, width=6, hidden=10):
        super().__init__()
        self.embed = torch.nn.Embedding(vocabulary, width)
        self.up = torch.nn.Linear(width, hidden)
        self.head = torch.nn.Linear(hidden, vocabulary, bias=False)

    def forward(self, input_ids):
        return self.head(torch.tanh(self.up(self.embed(input_ids))))


class Target(torch.nn.Module):
    """The same, its projection with inputs first."""

    def __init__(self, factor=1.0):
        super().__init__()
        self.table = torch.nn.Parameter(torch.empty(11, 6))
        self.kernel = torch.nn.Parameter(torch.empty(6, 10))
        self.bias = torch.nn.Parameter(torch.empty(10))
        self.out = torch.nn.Parameter(torch.empty(11, 10))
        self.factor = factor

    def forward(self, input_ids):
        hidden = torch.nn.functional.embedding(input_ids, self.table) @ self.kernel + self.bias
        return torch.tanh(hidden * self.factor) @ self.out.T


MAPPING = """
version: 1
entries:
  - {name: embedding, source: embed.weight, target: table}
  - {name: up, source: up.weight, target: kernel, ops: [transpose]}
  - {name: bias, source: up.bias, target: bias}
  - {name: head, source: head.weight, target: out}
"""
IDS = {"input_ids": np.random.default_rng(3).integers(0, 11, (2, 7))}


def models(**options):
    torch.manual_seed(0)
    source, target = Source(), Target(**options)
    with torch.no_grad():
        target.table.copy_(source.embed.weight)
        target.kernel.copy_(source.up.weight.T)
        target.bias.copy_(source.up.bias)
        target.out.copy_(source.head.weight)
    return source, target


def test_models_in_memory_are_compared(tmp_path):
    source, target = models()
    mapping = cd.Mapping.loads(MAPPING, "mapping.yaml")
    assert cd.compare_models(source, target, mapping, IDS).verdict == "equivalent"
    file = tmp_path / "mapping.yaml"
    file.write_text(MAPPING)
    assert cd.assert_equivalent(source, target, file, IDS).verdict == "equivalent"
    with torch.no_grad():
        target.bias[4] += 0.5
    with pytest.raises(AssertionError, match=r"(?s)not equivalent: divergent.*bias is not what the mapping makes"):
        cd.assert_equivalent(source, target, file, IDS)


def test_models_that_compute_something_else_are_not_equivalent():
    source, target = models(factor=1.01)
    with pytest.raises(AssertionError, match=r"the two models are not equivalent: (definition-differs|divergent)"):
        cd.assert_equivalent(source, target, cd.Mapping.loads(MAPPING), IDS)


def test_capture_gives_every_anchor_of_one_pass():
    source, _ = models()
    graph, trace = cd.capture(source, IDS)
    assert [anchor.parameters for anchor in graph.anchors] == [("embed.weight",), ("up.weight",), ("head.weight",)]
    assert [record.output.shape for record in trace.records] == [(14, 6), (14, 10), (14, 11)]
    with torch.no_grad():
        expected = source(torch.from_numpy(IDS["input_ids"])).reshape(14, 11).numpy()
    assert np.array_equal(trace.output, expected)
    with pytest.raises(CkptdbgError, match="nothing to run the model on; expected inputs such as"):
        cd.capture(source, {})
    with pytest.raises(LoaderError, match="not a model that can be walked; found dict; expected a torch"):
        cd.capture({"weights": 1}, IDS)


class Undecided(Source):
    def forward(self, input_ids):
        return torch.nn.functional.dropout(super().forward(input_ids), 0.2)


def test_a_run_leaves_random_numbers_as_found_and_does_not_repeat_them():
    _, target = models()
    source = Undecided()
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    with pytest.raises(HarnessError, match="the source gives another output each time it is run"):
        cd.compare_models(source, target, cd.Mapping.loads(MAPPING), IDS)
    assert torch.equal(torch.rand(3), expected)


def test_a_trace_of_a_source_that_overflows_is_not_written(tmp_path):
    config = build_sample(tmp_path / "sample", PAIR)
    file = tmp_path / "sample" / "source" / "model.safetensors"
    checkpoint = open_checkpoint(file)
    held = {name: np.array(checkpoint.read(name)) for name in checkpoint.specs}
    held["lm_head.weight"][3, 4] = np.inf
    write_safetensors(file, held.items())
    with pytest.raises(HarnessError, match=r"source, lm_head.weight \(out\): the source itself gives NaN or infinite"):
        open_session(config).capture(tmp_path / "trace")
    assert not (tmp_path / "trace").exists()


def test_the_first_divergence_is_a_row_of_the_sites(tmp_path):
    result = open_session(build_sample(tmp_path, "llama_to_torch", faults=("down-zeros@2",))).compare(repair=False)
    first = result.first_divergence
    row = result.sites[first.order]
    assert any(earlier.port == "block" for earlier in result.sites[: first.order])  # blocks are rows too
    assert (first.site, first.port, first.layer) == (row.site, row.port, row.layer)
