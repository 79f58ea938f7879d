"""``convert``: both directions, shards, interruption, a full disk, what is there already, and mending."""

import errno
import json
import os

import numpy as np
import pytest
from typer.testing import CliRunner

from ckptdbg import cli
from ckptdbg.checkpoint import MemoryCheckpoint, open_checkpoint, shards, write_safetensors
from ckptdbg.documents import dump_yaml, parse_yaml
from ckptdbg.errors import CheckpointError, CkptdbgError, ConfigError, MappingError
from ckptdbg.mapping import Mapping
from ckptdbg.samples.build import build_sample
from ckptdbg.session import open_session
from ckptdbg.weights.checkpoints import as_tensors
from ckptdbg.weights.convert import backward, forward, parse_size, write


def run(*arguments):
    return CliRunner().invoke(cli.app, ["convert", *map(str, arguments)])


def tensors_of(path):
    opened = open_checkpoint(path)
    return {name: np.array(opened.read(name)) for name in opened.specs}


def same(first, second):
    return first.keys() == second.keys() and all(
        first[n].dtype == second[n].dtype and np.array_equal(first[n], second[n]) for n in first
    )


@pytest.fixture
def sample(tmp_path):
    return build_sample(tmp_path / "sample", "llama_to_scan")


def test_forward_makes_what_the_sample_was_made_of(sample, tmp_path):
    done = run(sample, "-o", tmp_path / "out.safetensors")
    assert done.exit_code == 0, done.stderr
    assert done.stdout == f"wrote {tmp_path / 'out.safetensors'}: 12 tensors, read back and compared\n"
    assert same(tensors_of(tmp_path / "out.safetensors"), tensors_of(sample.parent / "target.safetensors"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.safetensors", "sample"]


def test_shards_have_an_index_and_read_as_one(sample, tmp_path):
    done = run(sample, "-o", tmp_path / "out", "--shard-size", "60kB")
    assert done.exit_code == 0, done.stderr
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    files = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 2
    assert sorted(set(index["weight_map"].values())) == files
    assert index["metadata"]["total_size"] == sum(a.nbytes for a in tensors_of(tmp_path / "out").values())
    assert same(tensors_of(tmp_path / "out"), tensors_of(sample.parent / "target.safetensors"))


def test_reverse_gives_the_source_back(sample, tmp_path):
    done = run(sample, "-o", tmp_path / "back", "--reverse")
    assert done.exit_code == 0, done.stderr
    back, source = tensors_of(tmp_path / "back"), tensors_of(sample.parent / "source")
    assert back.keys() == source.keys()
    # The query's scale and its inverse each round once.
    assert all(np.allclose(back[n], source[n], rtol=3e-7, atol=0) for n in source)
    assert (tmp_path / "back" / "config.json").read_text() == (sample.parent / "source" / "config.json").read_text()


@pytest.mark.parametrize(
    ("pair", "left"), [("mixtral_to_jax", set()), ("bert_to_jax", {"pooler.dense.bias", "pooler.dense.weight"})]
)
def test_there_and_back_again_is_exact(pair, left, tmp_path):
    config = build_sample(tmp_path, pair)
    done = run(config, "-o", tmp_path / "back", "--reverse")
    assert done.exit_code == 0, done.stderr
    back, source = tensors_of(tmp_path / "back"), tensors_of(tmp_path / "source")
    assert {line.split(":")[0] for line in done.stdout.splitlines()[:-1]} == left
    assert same(back, {name: value for name, value in source.items() if name not in left})


def test_a_dtype_is_for_floating_point_tensors(sample, tmp_path):
    assert run(sample, "-o", tmp_path / "o.safetensors", "--dtype", "bfloat16").exit_code == 0
    assert {spec.dtype for spec in open_checkpoint(tmp_path / "o.safetensors").specs.values()} == {"bfloat16"}
    refused = run(sample, "-o", tmp_path / "p.safetensors", "--dtype", "int8")
    assert refused.exit_code == 2
    assert "not a floating-point dtype" in refused.stderr


def conversion(entries, source, target=None):
    mapping = Mapping.from_dict({"version": 1, "entries": entries})
    sides = [as_tensors(MemoryCheckpoint(s)) for s in (source, target or {})]
    return backward(mapping, *sides) if target else forward(mapping, sides[0], None)


A = np.arange(24, dtype=np.float32).reshape(6, 4)


def test_odd_tensors_are_written_as_they_are(tmp_path):
    odd = {
        "scalar": np.array(3.0, np.float32),
        "empty": np.zeros((0, 4), np.float32),
        "whole": np.arange(6, dtype=np.int64),
        "nan": np.array([np.nan, -0.0, np.inf], np.float16),
    }
    write_safetensors(tmp_path / "s.safetensors", odd.items())
    mapping = Mapping.from_dict({"version": 1, "entries": [{"name": n, "source": n, "target": n} for n in odd]})
    write(forward(mapping, as_tensors(open_checkpoint(tmp_path / "s.safetensors")), None), tmp_path / "out")
    made = tensors_of(tmp_path / "out")
    assert {n: (a.dtype, a.shape, a.tobytes()) for n, a in made.items()} == {
        n: (a.dtype, a.shape, a.tobytes()) for n, a in odd.items()
    }


def test_what_a_direction_drops_is_said():
    cut = [{"name": "w", "source": "w", "target": "t", "ops": [{"slice": 0, "start": 0, "stop": 4}]}]
    assert "drops 2 of 6 on axis 0" in conversion(cut, {"w": A}).dropped[0]
    back = conversion(cut, {"w": A}, {"t": A[:4]})
    assert "the reverse fills them with 0" in back.dropped[0]
    assert np.array_equal(dict(back.make(("w",)))["w"], np.concatenate([A[:4], np.zeros((2, 4))]))
    padded = [{"name": "w", "source": "w", "target": "t", "ops": [{"pad": 8, "axis": 0}]}]
    assert conversion(padded, {"w": A}).dropped == []
    assert (
        "the reverse drops the padding" in conversion(padded, {"w": A}, {"t": np.zeros((8, 4), np.float32)}).dropped[0]
    )


def test_a_tie_is_checked_in_reverse():
    tied = [{"name": n, "source": "w", "target": n} for n in ("a", "b")]
    assert np.array_equal(dict(conversion(tied, {"w": A}, {"a": A, "b": A.copy()}).make(("w",)))["w"], A)
    with pytest.raises(MappingError, match=r"w comes out differently from entry a .* and from entry b"):
        dict(conversion(tied, {"w": A}, {"a": A, "b": A + 1}).make(("w",)))


def failing(monkeypatch, error, after):
    """Makes writing fail once ``after`` shards are written; returns the names of those that were tried."""
    tried = []

    def write_or_fail(path, items, *rest):
        tried.append(path.name)
        if len(tried) > after:
            next(iter(items))
            raise error
        write_safetensors(path, items, *rest)

    monkeypatch.setattr(shards, "write_safetensors", write_or_fail)
    return tried


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 2, "cannot be written: No space left on device"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_is_interrupted_goes_on(sample, tmp_path, monkeypatch, error, status, said):
    out = tmp_path / "out"
    first = failing(monkeypatch, error, after=2)
    done = run(sample, "-o", out, "--shard-size", "60kB")
    assert done.exit_code == status
    assert said in done.stderr
    assert "the shards that are finished are kept: the same command goes on from there" in done.stderr
    assert not out.exists()
    monkeypatch.undo()
    tried = failing(monkeypatch, error, after=99)
    again = run(sample, "-o", out, "--shard-size", "60kB")
    assert again.exit_code == 0, again.stderr
    assert f"kept from an earlier run: {first[0]}, {first[1]}\n" in again.stdout
    assert not set(first[:2]) & set(tried)
    assert same(tensors_of(out), tensors_of(sample.parent / "target.safetensors"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "sample"]


def test_a_kept_shard_is_checked_and_another_origin_starts_anew(sample, tmp_path, monkeypatch):
    out, part = tmp_path / "out", tmp_path / ".out.part"
    first = failing(monkeypatch, KeyboardInterrupt(), after=2)
    assert run(sample, "-o", out, "--shard-size", "60kB").exit_code == 130
    monkeypatch.undo()
    file = part / first[0]
    file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\0")
    tried = failing(monkeypatch, KeyboardInterrupt(), after=1)
    assert run(sample, "-o", out, "--shard-size", "60kB").exit_code == 130
    assert tried[0] == file.name
    monkeypatch.undo()
    source = sample.parent / "source" / "model.safetensors"
    write_safetensors(source, [(n, v * 2) for n, v in tensors_of(source).items()])
    done = run(sample, "-o", out, "--shard-size", "60kB")
    assert done.exit_code == 0
    assert "kept from" not in done.stdout
    assert not same(tensors_of(out), tensors_of(sample.parent / "target.safetensors"))


def test_what_is_there_stays_unless_it_is_to_be_replaced(sample, tmp_path, monkeypatch):
    out = tmp_path / "out.safetensors"
    write_safetensors(out, [("mine", A)])
    refused = run(sample, "-o", out)
    assert refused.exit_code == 2
    assert "there is something here already" in refused.stderr
    failing(monkeypatch, OSError(errno.ENOSPC, "No space left on device"), after=0)
    assert run(sample, "-o", out, "--overwrite").exit_code == 2
    assert list(tensors_of(out)) == ["mine"]
    monkeypatch.undo()
    assert run(sample, "-o", out, "--overwrite").exit_code == 0
    assert same(tensors_of(out), tensors_of(sample.parent / "target.safetensors"))


def test_what_is_read_is_never_replaced(sample, tmp_path):
    mapping = Mapping.load(sample.parent / "mappings" / "llama_to_scan.yaml")
    source = sample.parent / "source"
    before = {f: f.read_bytes() for f in sample.parent.rglob("*") if f.is_file()}
    for out in (source, sample.parent, source / "model.safetensors", mapping.file, tmp_path):
        done = run(sample, "-o", out, "--overwrite")
        assert done.exit_code == 2, done.stdout
        assert "which this conversion reads" in done.stderr
    assert before == {f: f.read_bytes() for f in sample.parent.rglob("*") if f.is_file()}
    nameless = run(sample, "-o", "..", "--overwrite")
    assert (nameless.exit_code, "needs a name" in nameless.stderr) == (2, True)


def test_a_link_is_replaced_and_what_it_leads_to_stays(sample, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("kept")
    (tmp_path / "out").symlink_to(tmp_path / "mine")
    done = run(sample, "-o", tmp_path / "out", "--overwrite")
    assert done.exit_code == 0, done.stderr
    assert (tmp_path / "mine" / "notes.txt").read_text() == "kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "out", "sample"]


def test_what_was_there_comes_back_where_the_new_one_cannot_be_moved(sample, tmp_path, monkeypatch):
    out, replace = tmp_path / "out.safetensors", os.replace
    write_safetensors(out, [("mine", A)])

    def stuck(old, new):
        if str(new) == str(out) and ".part" in str(old):
            raise OSError(errno.EIO, "Input/output error")
        replace(old, new)

    monkeypatch.setattr(shards.os, "replace", stuck)
    done = run(sample, "-o", out, "--overwrite")
    assert (done.exit_code, "Input/output error" in done.stderr) == (2, True)
    assert list(tensors_of(out)) == ["mine"]


def test_what_a_killed_run_had_begun_does_not_stay_in_the_result(sample, tmp_path, monkeypatch):
    failing(monkeypatch, KeyboardInterrupt(), after=1)
    assert run(sample, "-o", tmp_path / "out", "--shard-size", "60kB").exit_code == 130
    monkeypatch.undo()
    begun = tmp_path / ".out.part" / ".model-00002-of-00004.safetensors.x1"
    begun.mkdir()
    (begun / "data").write_bytes(b"half")
    done = run(sample, "-o", tmp_path / "out", "--shard-size", "60kB")
    assert "kept from an earlier run" in done.stdout
    assert not begun.exists()
    assert not [path.name for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]


def test_a_folder_of_someone_else_is_not_cleared(sample, tmp_path):
    (tmp_path / ".out.part").mkdir()
    (tmp_path / ".out.part" / "manifest.json").write_text('{"name": "a web page"}')
    done = run(sample, "-o", tmp_path / "out")
    assert (done.exit_code, "something else here already" in done.stderr) == (2, True)
    assert (tmp_path / ".out.part" / "manifest.json").read_text() == '{"name": "a web page"}'


def test_a_disk_that_does_not_keep_what_is_written_is_seen(tmp_path, monkeypatch):
    def forgetful(path, items, *rest):
        write_safetensors(path, [(name, array + 1) for name, array in items])

    monkeypatch.setattr(shards, "write_safetensors", forgetful)
    source = tmp_path / "source.safetensors"
    write_safetensors(source, [("w", A)])
    mapping = Mapping.from_dict({"version": 1, "entries": [{"name": "w", "source": "w", "target": "t"}]})
    with pytest.raises(CheckpointError, match=r"model.safetensors does not hold what was written"):
        write(forward(mapping, as_tensors(open_checkpoint(source)), None), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("text", "size"), [("5GB", 5 * 10**9), ("500 mb", 500 * 10**6), ("2GiB", 2**31), ("7", 7)])
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "5 apples", "-1GB"])
def test_what_is_no_size_is_said(text):
    with pytest.raises(CkptdbgError, match="--shard-size: not a size"):
        parse_size(text)


@pytest.mark.slow
def test_fix_writes_a_conversion_that_is_equivalent(tmp_path):
    config = build_sample(tmp_path / "sample", "llama_to_torch", ("gate-up-order", "norm-scaled"))
    out = tmp_path / "fixed.safetensors"
    done = run(config, "-o", out, "--fix")
    assert done.exit_code == 0, done.stderr
    assert "found: " in done.stdout
    document = parse_yaml(config.read_text(), str(config), ConfigError)
    document["target"]["path"], document["mapping"] = str(out), str(tmp_path / "fixed.mapping.yaml")
    config.write_text(dump_yaml(document))
    assert open_session(config).compare().verdict == "equivalent"


def test_a_wrong_use_is_said(sample, tmp_path):
    done = run(sample, "-o", tmp_path / "o", "--reverse", "--fix")
    assert done.exit_code == 2
    assert "--reverse goes with neither --fix nor --dtype" in done.stderr
