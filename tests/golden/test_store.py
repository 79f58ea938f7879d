"""Sketches on disk: what is damaged, of another model or in the way gives one clear error."""

import json
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest

from ckptdbg.checkpoint import open_checkpoint, write_safetensors
from ckptdbg.documents import dump_yaml, parse_yaml
from ckptdbg.errors import CheckpointError, CkptdbgError, ConfigError, HarnessError, MappingError
from ckptdbg.golden.store import _digest, read_sketch, write_sketch
from ckptdbg.samples.build import build_sample
from ckptdbg.session import open_session

TEXT, NUMBERS = "sketch.json", "sketch.safetensors"


def test_a_sketch_comes_back_as_it_was(sample, tmp_path):
    first = read_sketch(sample.parent / "sketch")
    again = read_sketch(write_sketch(tmp_path / "again", first))
    assert again.config == first.config
    assert again.view.specs == first.view.specs
    assert again.view.graph == first.view.graph
    assert again.ports == first.ports
    for a, b in zip((*first.places, *first.tensors.values()), (*again.places, *again.tensors.values()), strict=True):
        assert np.array_equal(a.projections, b.projections)
        assert np.array_equal(a.sizes, b.sizes)
        assert (a.stats, a.stream, a.features) == (b.stats, b.stream, b.features)
    assert all(np.array_equal(first.inputs[n], again.inputs[n]) for n in first.inputs)
    assert first.inputs["input_ids"].dtype == again.inputs["input_ids"].dtype == np.int64


def cut(name):
    return lambda sketch: (sketch / name).write_bytes((sketch / name).read_bytes()[:-100])


def text(edit):
    def spoil(sketch):
        head = json.loads((sketch / TEXT).read_text())
        edit(head)
        (sketch / TEXT).write_text(json.dumps(head))

    return spoil


def numbers(edit):
    """Change the tensors, and the digest with them: only what is in them can tell."""

    def spoil(sketch):
        checkpoint = open_checkpoint(sketch / NUMBERS)
        tensors = {name: np.array(checkpoint.read(name)) for name in checkpoint.specs}
        edit(tensors)
        write_safetensors(sketch / NUMBERS, tensors.items())
        text(lambda head: head.update(numbers=_digest(sketch / NUMBERS)))(sketch)

    return spoil


def structure(edit):
    def change(tensors):
        found = json.loads(zlib.decompress(tensors["structure"].tobytes()))
        edit(found)
        tensors["structure"] = np.frombuffer(zlib.compress(json.dumps(found).encode()), np.uint8)

    return numbers(change)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut(TEXT), r"sketch.json: a damaged sketch: .*; capture again"),
        (cut(NUMBERS), "sketch.safetensors: the file is cut short"),
        (lambda s: (s / NUMBERS).unlink(), "sketch.safetensors: no such checkpoint"),
        (lambda s: (s / TEXT).write_text("[]"), "another sketch format; found list, None; expected ckptdbg.sketch/1"),
        (text(lambda h: h.update(schema="ckptdbg.sketch/9")), "another sketch format; found ckptdbg.sketch/9"),
        (text(lambda h: h.update(signs="default_rng")), "found ckptdbg.sketch/1, default_rng; expected"),
        (text(lambda h: h.update(numbers="0")), "not the file that sketch.json was written with; restore both files"),
        (text(lambda h: h["places"].pop()), "a damaged sketch: ValueError"),
        (text(lambda h: h["places"][0].pop("mean")), "a damaged sketch: KeyError: 'mean'"),
        (text(lambda h: h.pop("places")), "a damaged sketch: KeyError: 'places'"),
        (numbers(lambda t: t.update(quanta=t["quanta"][:, :15])), r"a damaged sketch: .*projections \[\d+, 15\]"),
        (numbers(lambda t: t.update(quanta=t["quanta"][:-1])), "a damaged sketch: ValueError: projections"),
        (numbers(lambda t: t.update(structure=t["structure"][:-9])), "its structure is cut short or unreasonably"),
        (numbers(lambda t: t.update(structure=t["structure"][9:])), "a damaged sketch: error: "),
        (structure(lambda s: s["arrays"].__setitem__(0, {"dtype": "int64", "shape": [2**40], "start": 0, "step": 1})),
         "a damaged sketch: ValueError: an array of shape"),
        (structure(lambda s: s["places"][0].__setitem__(2, 7)), "another number of features than its place"),
        (structure(lambda s: s["sketch"]["dict"].clear()), "a damaged sketch: TypeError"),
        (structure(lambda s: s["packed"].clear()), "a damaged sketch: IndexError"),
    ],
)  # fmt: skip
def test_a_damaged_sketch_is_refused(sample, damage, message):
    damage(sample.parent / "sketch")
    with pytest.raises(CheckpointError, match=message):
        open_session(sample, source_trace=sample.parent / "sketch")


def test_a_record_of_an_unknown_kind_is_not_made(sample):
    def other(structure):
        text = json.dumps(structure).replace('"record": "View"', '"record": "Path"')
        structure.update(json.loads(text))

    structure(other)(sample.parent / "sketch")
    with pytest.raises(CheckpointError, match="unknown record; found Path"):
        open_session(sample, source_trace=sample.parent / "sketch")


def change(path, edit):
    document = parse_yaml(path.read_text(), str(path), ConfigError)
    edit(document)
    path.write_text(dump_yaml(document))


def test_a_sketch_of_another_model_is_refused(sample, tmp_path):
    """Told by its names and shapes; where the names are the same and the checkpoint is not here, by the mapping."""
    other = build_sample(tmp_path / "other", "llama_to_torch", intermediate_size=80)
    sketch = sample.parent / "sketch"
    with pytest.raises(
        CheckpointError, match=r"other/source: the sketch is of another model: its tensor .* is not here"
    ):
        open_session(other, source_trace=sketch).compare()
    shutil.rmtree(other.parent / "source")
    with pytest.raises(MappingError, match="gets shape"):
        open_session(other, source_trace=sketch).compare()


def test_another_probe_is_refused(sample):
    change(sample, lambda document: document["probe"].update(seed=5))
    with pytest.raises(
        HarnessError, match=r"made with another probe: input_ids differs; found \[2, 48\] beginning .*set p"
    ):
        open_session(sample, source_trace=sample.parent / "sketch").compare()


def test_a_target_made_from_the_source_needs_it(sample):
    change(sample, lambda document: document["target"].pop("path"))
    assert open_session(sample, source_trace=sample.parent / "sketch").compare().verdict == "equivalent"
    shutil.rmtree(sample.parent / "source")
    with pytest.raises(ConfigError, match="a source trace needs the source's checkpoint as well"):
        open_session(sample, source_trace=sample.parent / "sketch").compare()


def test_a_sketch_takes_the_place_of_a_sketch_and_of_nothing_else(sample, tmp_path):
    session, mine = open_session(sample), tmp_path / "mine"
    session.capture(sample.parent / "sketch", sketch=True)
    trace = session.capture(tmp_path / "trace")
    mine.mkdir()
    (mine / "thesis.txt").write_text("ten years")
    for there in (trace, mine, sample):
        with pytest.raises(CkptdbgError, match="something else than a sketch here already; choose another path for -o"):
            session.capture(there, sketch=True)
    with pytest.raises(CkptdbgError, match="there is something else here already"):
        session.capture(sample.parent / "sketch")
    assert (mine / "thesis.txt").read_text() == "ten years"
    assert sorted(path.name for path in Path(tmp_path).iterdir()) == ["mine", "sample", "trace"]
