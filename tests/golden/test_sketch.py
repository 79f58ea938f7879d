"""A target against a sketch: healthy ones raise no alarm, faults are found where the full trace finds them."""

import json
import shutil

import ml_dtypes
import numpy as np
import pytest
from matrix_helpers import Conversion
from sketch_helpers import PAIR, against

from ckptdbg.checkpoint import open_checkpoint, write_safetensors
from ckptdbg.compare.noise import DIVERGENT, SUSPECT
from ckptdbg.errors import HarnessError, LoaderError
from ckptdbg.golden.carry import Part, groups_of
from ckptdbg.golden.store import read_sketch
from ckptdbg.samples.build import build_sample
from ckptdbg.samples.faults import list_faults
from ckptdbg.samples.pairs import PAIRS
from ckptdbg.session import open_session
from ckptdbg.sketching import sketch_of

QUICK_PAIRS = (PAIR, "bert_to_jax")
QUICK_FAULTS = ("qkv-not-interleaved", "gate-up-order", "down-element", "layers-swapped", "rope-theta", "norm-epsilon")
EVERYWHERE = [(pair, fault.name) for pair in PAIRS for fault in list_faults(pair)]


def slow_unless(quick, case, *arguments):
    return pytest.param(*arguments, marks=() if quick else pytest.mark.slow, id=case)


def size(folder):
    return sum(file.stat().st_size for file in folder.iterdir())


@pytest.mark.parametrize("pair", [slow_unless(p in QUICK_PAIRS, p, p) for p in PAIRS])
def test_a_healthy_conversion_is_equivalent(pair, tmp_path):
    """With the source's checkpoint and without it; the sketch is a hundredth of the trace, and holds no weights."""
    config = build_sample(tmp_path / "sample", pair)
    session = open_session(config)
    sketch, trace = session.capture(tmp_path / "sketch", sketch=True), session.capture(tmp_path / "trace")
    assert size(sketch) < min(size(trace) / 20, 700_000)
    here = open_session(config, source_trace=sketch)
    shutil.move(config.parent / "source", tmp_path / "gone")
    there = open_session(config, source_trace=sketch)
    shutil.move(tmp_path / "gone", config.parent / "source")
    vars(there)["target"] = here.target  # loaded and compiled once
    assert (here.has_source_tensors, there.has_source_tensors) == (True, False)
    for result in (here.compare(), without := there.compare()):
        assert (result.verdict, result.findings, result.first_divergence) == ("equivalent", [], None)
        assert max(site.ratio for site in result.sites) < SUSPECT
        assert all(site.isolated is None for site in result.sites)
        assert {"each piece alone", "single features"} <= {row.name for row in result.not_compared}
    assert "single elements of tensors" in {row.name for row in without.not_compared}


@pytest.fixture(scope="module")
def conversions(tmp_path_factory):
    """Pairs whose source was run once, with its sketch."""
    made = {}

    def get(pair):
        if pair not in made:
            conversion = Conversion(pair, tmp_path_factory.mktemp(pair))
            made[pair] = conversion, sketch_of(conversion.healthy)
        return made[pair]

    return get


@pytest.mark.parametrize(
    ("pair", "fault"),
    [slow_unless(pair == PAIR and fault in QUICK_FAULTS, f"{pair}-{fault}", pair, fault) for pair, fault in EVERYWHERE],
)
def test_the_models_part_where_the_full_trace_says(pair, fault, conversions):
    conversion, sketch = conversions(pair)
    session = conversion.plant([fault])
    full, found = session.compare(repair=False), against(session, sketch).compare()
    places = [
        first and (first.site, first.port, first.layer, first.entry)
        for first in (full.first_divergence, found.first_divergence)
    ]
    assert places[0] == places[1]
    if full.first_divergence is None:
        assert found.verdict in (full.verdict, "cannot-tell")
    else:
        assert found.verdict == "divergent"
        assert found.first_divergence.ratio > DIVERGENT
        assert found.findings
        assert all("A sketch does not tell" in f.explanation for f in found.findings if f.cause == "unknown")


def test_a_symmetry_and_a_fault_that_the_output_does_not_read_are_not_told_apart(conversions):
    """The hidden units of one layer in another order, on both of its sides: no output changes."""
    conversion, sketch = conversions(PAIR)
    healthy = conversion.healthy
    order = np.random.default_rng(0).permutation(healthy.made["layers.1.feed_forward.w2.weight"].shape[1])
    up, down = (f"layers.1.feed_forward.{name}.weight" for name in ("w13", "w2"))
    halves = np.split(healthy.made[up], 2)
    patches = {up: np.concatenate([half[order] for half in halves]), down: healthy.made[down][:, order]}
    session = healthy.repaired(healthy.unbound_mapping, patches)
    result = against(session, sketch).compare()
    assert result.verdict == "cannot-tell"
    assert result.first_divergence is None
    assert any("a symmetry, or a fault that the output does not read" in row.reason for row in result.not_compared)


def test_a_wrong_tensor_is_seen_without_the_source(sample):
    """One element, in a tensor that its entry fuses and scales; the entry is named."""
    shutil.rmtree(sample.parent / "source")
    path = sample.parent / "target.safetensors"
    checkpoint = open_checkpoint(path)
    tensors = {name: np.array(checkpoint.read(name)) for name in checkpoint.specs}
    name = "layers.2.feed_forward.w2.weight"
    tensors[name][3, 5] += 0.1
    write_safetensors(path, tensors.items())
    result = open_session(sample, source_trace=sample.parent / "sketch").compare()
    assert result.verdict == "divergent"
    (finding,) = result.findings
    assert (finding.kind, finding.cause, finding.layers) == ("tensor", "checkpoint", ["2"])
    assert [entry.name for entry in finding.entries] == ["mlp.down"]
    assert finding.explanation.startswith(f"{name} is not what the mapping makes of the source's")
    assert result.first_divergence.site == name


def test_a_target_stored_in_bfloat16_is_healthy_without_the_source(sample):
    """What storing rounds is counted as noise where nobody knows what it was rounded from."""
    shutil.rmtree(sample.parent / "source")
    path = sample.parent / "target.safetensors"
    checkpoint = open_checkpoint(path)
    write_safetensors(path, [(n, checkpoint.read(n).astype(ml_dtypes.bfloat16)) for n in list(checkpoint.specs)])
    result = open_session(sample, source_trace=sample.parent / "sketch").compare()
    assert (result.verdict, result.findings) == ("equivalent", [])
    assert max(site.ratio for site in result.sites) < SUSPECT


def test_a_part_of_a_row_is_not_compared(sample):
    """A vocabulary with rows left out: a projection is of all of them."""
    session = open_session(sample, source_trace=sample.parent / "sketch")
    comparison = session.sketch_comparison
    place = comparison.output.place
    half = np.arange(place.features // 2)
    part = Part(3, half, half, np.ones(len(half)))
    assert groups_of(place, [part]) == ([], [3])
    rest = np.arange(place.features // 2, place.features)
    groups, left = groups_of(
        place, [part, Part(4, half, half, np.ones(len(half))), Part(5, rest, rest, np.ones(len(rest)))]
    )
    assert [g.anchors for g in groups] == [(3, 4, 5)]
    assert left == []


def test_a_sketch_holds_nothing_to_step_through(sample):
    session = open_session(sample, source_trace=sample.parent / "sketch")
    with pytest.raises(HarnessError, match=r"a sketch holds no values of the source.*expected a trace"):
        session.step()


def test_the_source_is_not_run(sample, monkeypatch):
    text = sample.read_text().replace("loader: huggingface", "loader: no_such_package:load")
    sample.write_text(text)
    with pytest.raises(LoaderError, match="no_such_package"):
        open_session(sample).compare()
    assert open_session(sample, source_trace=sample.parent / "sketch").compare().verdict == "equivalent"


def test_more_groups_are_a_larger_sketch(sample, tmp_path):
    session = open_session(sample)
    fine = session.capture(tmp_path / "fine", sketch=True, groups=96)
    assert size(fine) > 2 * size(sample.parent / "sketch")
    assert open_session(sample, source_trace=fine).compare().verdict == "equivalent"


def test_the_same_source_gives_the_same_files(sample, tmp_path):
    """Nothing in them depends on when or where they were made."""
    again = open_session(sample).capture(tmp_path / "again", sketch=True)
    for name in ("sketch.json", "sketch.safetensors"):
        assert (again / name).read_bytes() == (sample.parent / "sketch" / name).read_bytes()


def test_the_text_is_one_line_a_place(sample):
    lines = (sample.parent / "sketch" / "sketch.json").read_text().splitlines()
    said = json.loads("\n".join(lines))
    assert sum('"sites"' in line for line in lines) == len(said["places"])
    assert all(len(line) < 400 for line in lines)
    assert said["places"][0]["sites"] == ["model.embed_tokens.weight out"]


def test_no_path_of_the_sources_machine_is_in_it(sample):
    session, sketch = open_session(sample), read_sketch(sample.parent / "sketch")
    there, kept = session.source_view.graph.anchors, sketch.view.graph.anchors
    assert any(anchor.where.file for anchor in there)
    assert not any(anchor.where.file for anchor in kept)
    assert [anchor.where.scope for anchor in there] == [anchor.where.scope for anchor in kept]
    assert str(sample.parent.parent) not in (sample.parent / "sketch" / "sketch.json").read_text()
