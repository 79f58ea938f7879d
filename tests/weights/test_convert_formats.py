"""``convert`` to and from DCP, Orbax and msgpack, and the other verbs on what it wrote."""

import asyncio
import errno
import os
import re
import resource
import shutil
import signal
import time
import warnings

import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
import torch
import torch.distributed.checkpoint as dcp
from flax import serialization
from typer.testing import CliRunner

from ckptdbg import cli
from ckptdbg.checkpoint import open_checkpoint, write_safetensors, writing
from ckptdbg.documents import dump_yaml, parse_yaml
from ckptdbg.errors import CheckpointError, ConfigError
from ckptdbg.mapping import Mapping
from ckptdbg.samples.build import build_sample
from ckptdbg.session import open_session
from ckptdbg.weights.checkpoints import as_tensors
from ckptdbg.weights.convert import forward, write

FORMATS = ("dcp", "orbax", "msgpack")


def run(*arguments):
    return CliRunner().invoke(cli.app, [*map(str, arguments)])


def place(folder, kind):
    return folder / ("out.msgpack" if kind == "msgpack" else "out")


def convert(config, out, kind, *more):
    return run("convert", config, "-o", out, "--format", kind, *more)


def tensors_of(path):
    opened = open_checkpoint(path)
    return {name: np.array(opened.read(name)) for name in opened.specs}


def same(first, second):
    return first.keys() == second.keys() and all(
        first[n].dtype == second[n].dtype and np.array_equal(first[n], second[n]) for n in first
    )


def with_target(config, path, loader=None):
    """The config with another target path, and a loader for it."""
    document = parse_yaml(config.read_text(), str(config), ConfigError)
    document["target"]["path"] = str(path)
    if loader is not None:
        document["target"]["loader"] = loader
    config.write_text(dump_yaml(document))
    return config


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build_sample(tmp_path_factory.mktemp("built"), "llama_to_scan").parent


@pytest.fixture
def sample(built, tmp_path):
    return shutil.copytree(built, tmp_path / "sample") / "config.yaml"


def restored(path, kind):
    """As the format's own library gives it back."""
    if kind == "orbax":
        tree = ocp.PyTreeCheckpointer().restore(path)
    elif kind == "msgpack":
        tree = serialization.msgpack_restore(path.read_bytes())
    else:
        opened = open_checkpoint(path)
        state = {name: torch.zeros(s.shape, dtype=getattr(torch, s.dtype)) for name, s in opened.specs.items()}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            dcp.load(state, checkpoint_id=path, no_dist=True)
        return {name: tensor.numpy() for name, tensor in state.items()}
    return dict(leaves(tree))


def leaves(tree, prefix=""):
    for key, value in tree.items():
        yield from (
            leaves(value, f"{prefix}{key}/") if isinstance(value, dict) else [(f"{prefix}{key}", np.asarray(value))]
        )


@pytest.mark.parametrize("kind", FORMATS)
def test_forward_verify_and_the_librarys_own_reader(kind, sample, tmp_path):
    (sample.parent / "target.safetensors").rename(tmp_path / "kept.safetensors")
    out = place(tmp_path, kind)
    done = convert(with_target(sample, tmp_path / "kept.safetensors"), out, kind)
    assert done.exit_code == 0, done.stderr
    assert done.stdout == f"wrote {out}: 12 tensors, read back and compared\n"
    expected = tensors_of(tmp_path / "kept.safetensors")
    assert same(tensors_of(out), expected)
    assert same(restored(out, kind), expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["kept.safetensors", out.name, "sample"])
    verified = run("verify", with_target(sample, out))
    assert verified.exit_code == 0, verified.stdout
    assert "12 tensors: " in verified.stdout
    listed = run("inspect", out)
    assert "decoder/layers/mlp/wi_0/kernel" in listed.stdout
    assert "12 tensors, " in listed.stdout


@pytest.mark.parametrize("kind", FORMATS)
def test_verify_finds_what_is_wrong_in_it(kind, tmp_path):
    config = build_sample(tmp_path, "llama_to_scan", ("down-element@1",))
    faulty = as_tensors(open_checkpoint(tmp_path / "target.safetensors"))
    entries = [{"name": name, "source": name, "target": name} for name in faulty.specs]
    out = place(tmp_path, kind)
    write(forward(Mapping.from_dict({"version": 1, "entries": entries}), faulty, None), out, format=kind)
    found = run("verify", with_target(config, out))
    assert found.exit_code == 1
    assert "differs  decoder/layers/mlp/wo/kernel: 1 of " in found.stdout


@pytest.mark.parametrize("kind", ["dcp", "orbax"])
def test_reverse_reads_it_and_the_config_goes_with_it(kind, sample, tmp_path):
    assert convert(sample, tmp_path / "run" / "7", kind).exit_code == 0
    (tmp_path / "run" / "config.json").write_text("{}")  # beside the steps
    done = convert(with_target(sample, tmp_path / "run"), tmp_path / "again", kind)
    assert done.exit_code == 0, done.stderr
    assert (tmp_path / "again" / "config.json").read_text() == "{}"
    assert same(tensors_of(tmp_path / "again"), tensors_of(tmp_path / "run" / "7"))
    back = run("convert", sample, "-o", tmp_path / "back", "--reverse")
    assert back.exit_code == 0, back.stderr
    assert open_checkpoint(tmp_path / "back").specs == open_checkpoint(sample.parent / "source").specs
    source = tmp_path / "run" / "7"
    refused = run("convert", sample, "-o", source, "--reverse", "--overwrite")
    assert (refused.exit_code, "which this conversion reads" in refused.stderr) == (2, True)


def test_what_a_folder_holds_further_down_counts_for_resuming(tmp_path):
    """Orbax keeps its data in folders of the folder."""
    source = tmp_path / "source"
    tree = {"w": np.arange(2000.0)}
    ocp.PyTreeCheckpointer().save(source, tree)
    mapping = Mapping.from_dict({"version": 1, "entries": [{"name": "w", "source": "w", "target": "t"}]})
    before = forward(mapping, as_tensors(open_checkpoint(source)), None).origin
    assert forward(mapping, as_tensors(open_checkpoint(source)), None).origin == before
    largest = max(source.rglob("d/*"), key=lambda file: file.stat().st_size)
    assert largest.parent.parent != source
    os.utime(largest, (1, 1))
    assert forward(mapping, as_tensors(open_checkpoint(source)), None).origin != before


@pytest.fixture
def little_room():
    """No file may grow beyond some size: a real failure to write, of every library."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("kind", FORMATS)
def test_a_disk_without_room_leaves_nothing_and_loses_nothing(kind, there, sample, tmp_path, little_room):
    out = place(tmp_path, kind)
    if there:
        write_safetensors(out / "mine.safetensors", [("mine", np.ones(3))])
    done = convert(sample, out, kind, "--overwrite")
    assert done.exit_code == 2, done.stderr
    said = f"ckptdbg: {out}: cannot be written: File too large; nothing is kept of it: the same command begins anew\n"
    assert done.stderr == said
    assert {path.name for path in tmp_path.iterdir()} == ({"sample", out.name} if there else {"sample"})
    if there:
        assert [path.name for path in out.iterdir()] == ["mine.safetensors"]


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 2, "cannot be written: No space left on device"),
        (KeyboardInterrupt(), 130, "interrupted; nothing is kept of it: the same command begins anew"),
    ],
)
@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_interrupted_begins_anew(kind, error, status, said, sample, tmp_path, monkeypatch):
    asked = []

    def stops(array):
        asked.append(array)
        if len(asked) == 5:
            raise error
        return "digest"

    monkeypatch.setattr(writing, "digest", stops)
    done = convert(sample, place(tmp_path, kind), kind)
    assert (done.exit_code, len(asked)) == (status, 5), done.stderr
    assert said in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["sample"]
    monkeypatch.undo()
    assert convert(sample, place(tmp_path, kind), kind).exit_code == 0


@pytest.mark.parametrize("suffix", ["", ".pt"])
def test_a_model_under_a_key_has_its_own_names(suffix, sample, tmp_path):
    made = tensors_of(sample.parent / "target.safetensors")
    saved, state = tmp_path / f"saved{suffix}", {n: torch.from_numpy(a.astype(np.float32)) for n, a in made.items()}
    whole = {"model": state, "ema": {n: t + 1 for n, t in state.items()}}
    if suffix:
        torch.save(whole, saved)
    else:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            dcp.save(whole, checkpoint_id=saved, no_dist=True)
    config = with_target(sample, saved)
    text = config.read_text()
    assert run("verify", config).exit_code == 1  # every tensor is missed
    found = {}
    for key in ("model", "ema", "models"):
        config.write_text(text.replace("target:\n", f"target:\n  under: {key}\n"))
        found[key] = run("verify", config)
    assert {key: done.exit_code for key, done in found.items()} == {"model": 0, "ema": 1, "models": 2}
    assert "nothing is under models" in found["models"].stderr
    assert "expected one of ema, model" in found["models"].stderr
    config.write_text(text.replace("target:\n", "target:\n  under: model\n"))
    refused = run("verify", with_target(config, saved, "huggingface"))
    assert "a Hugging Face folder is one model" in refused.stderr.replace("\n", " ")


def in_a_loop(work):
    """The result of ``work``, called where an event loop runs: one may run already, left by the browser tests."""

    async def cell():
        return work()

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        return work()
    loop = asyncio.new_event_loop()  # asyncio.run would take the signal for itself
    try:
        return loop.run_until_complete(cell())
    finally:
        loop.close()


@pytest.fixture
def interruptible():
    """As in a terminal: what a shell starts in its background ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("how", ["inside", "from outside"])
def test_it_stops_where_an_event_loop_runs_as_in_a_notebook(kind, how, sample, tmp_path, monkeypatch):
    asked = []

    def stops(array):
        asked.append(array)
        if len(asked) == 2:
            if how == "inside":
                raise KeyboardInterrupt
            os.kill(os.getpid(), signal.SIGINT)  # Ctrl-C: the main thread's, whichever thread this is
            time.sleep(0.2)
        return "digest"

    monkeypatch.setattr(writing, "digest", stops)

    done = in_a_loop(lambda: convert(sample, place(tmp_path, kind), kind))
    assert (done.exit_code, len(asked) < 11) == (130, True), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["sample"]


@pytest.mark.parametrize("kind", ["orbax", "msgpack"])
@pytest.mark.parametrize("under", ["params", "params/params"])
def test_a_tree_goes_below_the_keys_asked_for_and_keeps_its_names(kind, under, sample, tmp_path):
    out = place(tmp_path, kind)
    done = convert(sample, out, kind, "--under", under)
    assert done.exit_code == 0, done.stderr
    made = tensors_of(sample.parent / "target.safetensors")
    assert same(tensors_of(out), made)
    assert same(restored(out, kind), {f"{under}/{name}": array for name, array in made.items()})


@pytest.mark.parametrize("kind", ["dcp", "safetensors"])
def test_what_is_no_tree_goes_under_no_key(kind, sample, tmp_path):
    refused = convert(sample, tmp_path / "out", kind, "--under", "params")
    assert (refused.exit_code, [path.name for path in tmp_path.iterdir()]) == (2, ["sample"])
    assert "tensors go under keys in a tree only: --format orbax or msgpack; found params" in refused.stderr


@pytest.mark.parametrize("kind", ["orbax", "msgpack"])
def test_keys_that_a_name_would_keep_are_refused(kind, sample, tmp_path):
    refused = convert(sample, place(tmp_path, kind), kind, "--under", "weights")
    assert refused.exit_code == 2
    assert "cannot be told from what frameworks add around parameters" in refused.stderr


@pytest.mark.parametrize("kind", FORMATS)
def test_what_does_not_read_back_is_seen(kind, sample, tmp_path, monkeypatch):
    real = writing.WRITERS[kind]
    monkeypatch.setitem(
        writing.WRITERS, kind, lambda path, specs, read, *rest: real(path, specs, lambda n: read(n) + 1, *rest)
    )
    done = convert(sample, place(tmp_path, kind), kind)
    assert done.exit_code == 2
    assert f"what was written in {kind} does not read back as it was" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["sample"]


@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_there_stays_unless_it_is_to_be_replaced(kind, sample, tmp_path):
    out = place(tmp_path, kind)
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    refused = convert(sample, out, kind)
    assert (refused.exit_code, "there is something here already" in refused.stderr) == (2, True)
    assert (out / "notes.txt").read_text() == "mine"
    assert convert(sample, out, kind, "--overwrite").exit_code == 0
    assert same(tensors_of(out), tensors_of(sample.parent / "target.safetensors"))


@pytest.mark.parametrize("kind", FORMATS)
def test_a_folder_of_someone_else_is_not_cleared(kind, sample, tmp_path):
    out = place(tmp_path, kind)
    part = out.with_name(f".{out.name}.part")
    part.mkdir()
    (part / "notes.txt").write_text("mine")
    done = convert(sample, out, kind)
    assert (done.exit_code, "something else here already" in done.stderr) == (2, True)
    assert (part / "notes.txt").read_text() == "mine"


def test_what_a_killed_run_had_begun_is_cleared(sample, tmp_path):
    part = tmp_path / ".out.part"
    part.mkdir()
    (part / "manifest.json").write_text('{"schema": "ckptdbg.conversion/1", "format": "orbax"}')
    (part / "whole").mkdir()
    assert convert(sample, tmp_path / "out", "dcp").exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "sample"]


@pytest.mark.parametrize(
    ("out", "asked", "message"),
    [
        (
            "x.gguf",
            None,
            "x.gguf: not a format that is written; found gguf; expected one of safetensors, dcp, orbax, msgpack; llama",
        ),
        ("x", "gguf", "x: not a format that is written; found gguf"),
        ("x.npz", None, "not a format that is written; found npz; expected one of safetensors"),
        ("x", "hdf5", "not a format that is written; found hdf5"),
        (
            "x.safetensors",
            "dcp",
            "the name does not go with --format dcp; expected --format safetensors, or another name",
        ),
        ("x.msgpack", "orbax", "the name does not go with --format orbax; expected --format msgpack, or another name"),
        ("x", "msgpack", "the name does not go with --format msgpack; expected a name that ends in .msgpack"),
    ],
)
def test_what_is_not_written_is_said(out, asked, message, sample, tmp_path):
    done = run("convert", sample, "-o", tmp_path / out, *(["--format", asked] if asked else []))
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["sample"]


@pytest.mark.parametrize(
    ("kind", "names", "message"),
    [
        ("orbax", ["params/a"], "params/a cannot be told from what frameworks add around parameters; found a; give it"),
        ("msgpack", ["a/value", "b/value"], "a/value cannot be told from what frameworks add"),
        ("orbax", ["opt_state/a", "b"], "opt_state/a cannot be told from what frameworks add"),
        ("msgpack", ["a", "a/b"], "a is a tensor, and a/b would be inside it"),
        ("orbax", ["a/b", "a"], "a is a tensor, and others would be inside it"),
        ("orbax", ["a//b"], "a//b cannot be told from"),
    ],
)
def test_names_that_would_not_come_back(kind, names, message, tmp_path):
    out = place(tmp_path, kind)
    source = {str(number): np.ones(3) for number in range(len(names))}
    write_safetensors(tmp_path / "s.safetensors", source.items())
    entries = [{"name": n, "source": n, "target": name} for n, name in zip(source, names, strict=True)]
    made = forward(
        Mapping.from_dict({"version": 1, "entries": entries}),
        as_tensors(open_checkpoint(tmp_path / "s.safetensors")),
        None,
    )
    with pytest.raises(CheckpointError, match=re.escape(f"{out}: {message}")):
        write(made, out, format=kind)
    assert [path.name for path in tmp_path.iterdir()] == ["s.safetensors"]


def test_orbax_says_what_it_cannot_hold(tmp_path):
    write_safetensors(tmp_path / "s.safetensors", [("w", np.zeros((0, 3)))])
    mapping = Mapping.from_dict({"version": 1, "entries": [{"name": "w", "source": "w", "target": "t"}]})
    made = forward(mapping, as_tensors(open_checkpoint(tmp_path / "s.safetensors")), None)
    with pytest.raises(CheckpointError, match="Orbax cannot write it: Cannot save arrays with zero size"):
        write(made, tmp_path / "out", format="orbax")


LOADERS = """
import flax.nnx as nnx, jax, jax.numpy as jnp, orbax.checkpoint as ocp, torch, warnings
from ckptdbg.samples.targets import nnx_llama, torch_llama

def load_orbax(path, **options):
    model = nnx_llama.load(None, **options)
    state = nnx.state(model)
    tree = ocp.PyTreeCheckpointer().restore(path)
    nnx.replace_by_pure_dict(state, jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree))
    nnx.update(model, state)
    return model

def load_dcp(path, **options):
    import torch.distributed.checkpoint as dcp
    model = torch_llama.load(None, **options)
    state = model.state_dict()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        dcp.load(state, checkpoint_id=path, no_dist=True)
    model.load_state_dict(state)
    return model
"""


@pytest.mark.parametrize(("pair", "kind"), [("llama_to_nnx", "orbax"), ("llama_to_torch", "dcp")])
def test_compare_knows_the_dtypes_on_disk(pair, kind, tmp_path):
    config = build_sample(tmp_path / "sample", pair)
    assert convert(config, tmp_path / "out", kind, "--dtype", "bfloat16").exit_code == 0
    (config.parent / "loaders.py").write_text(LOADERS)
    session = open_session(with_target(config, tmp_path / "out", f"loaders.py:load_{kind}"))
    assert set(session.stored_dtypes().values()) == {"bfloat16"}
    assert next(iter(session.target.specs.values())).dtype == "float32"
    assert session.differences == []
    name = next(iter(session.target.specs))
    due = session.made[name].astype(ml_dtypes.bfloat16).astype(np.float32)
    assert np.array_equal(session.target.read(name), due)


@pytest.mark.slow
@pytest.mark.parametrize(("pair", "kind"), [("llama_to_nnx", "orbax"), ("llama_to_torch", "dcp")])
def test_compare_runs_on_it(pair, kind, tmp_path):
    config = build_sample(tmp_path / "sample", pair)
    assert convert(config, tmp_path / "run" / "3", kind).exit_code == 0
    (config.parent / "loaders.py").write_text(LOADERS)
    session = open_session(with_target(config, tmp_path / "run" / "3", f"loaders.py:load_{kind}"))
    assert session.compare().verdict == "equivalent"
