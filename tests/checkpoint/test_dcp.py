"""torch's Distributed Checkpoint: what any number of processes saved is read in one, and nothing in it is run."""

import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from format_helpers import DTYPES, as_torch, fails, random_tensors, same_bytes
from torch.distributed.checkpoint import metadata as records
from torch.distributed.checkpoint.filesystem import _StorageInfo

from ckptdbg.checkpoint import TensorSpec, open_checkpoint
from ckptdbg.checkpoint.torch_file import as_array
from ckptdbg.errors import CheckpointError

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")  # one process is enough


def run_ranks(ranks, folder):
    script = Path(__file__).with_name("dcp_ranks.py")
    started = [subprocess.Popen([sys.executable, script, str(r), str(ranks), folder], stderr=-1) for r in range(ranks)]
    for process in started:
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said.decode()
    return folder


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    return run_ranks(2, tmp_path_factory.mktemp("two"))


def agrees(folder, name):
    """Every tensor as the processes together had it; returns the checkpoint."""
    whole, checkpoint = torch.load(folder / f"{name}.pt"), open_checkpoint(folder / name)
    assert checkpoint.specs == {n: TensorSpec(tuple(t.shape), str(t.dtype)[6:]) for n, t in whole.items()}
    for key, tensor in whole.items():
        assert same_bytes(checkpoint.read(key), as_array(tensor)), key
    return checkpoint


def test_shards_of_several_processes_are_put_together(two_ranks):
    assert len(list((two_ranks / "mixed").glob("*.distcp"))) == 2
    agrees(two_ranks, "mixed")


def test_a_model_at_the_root_and_its_trainer_beside_it(two_ranks):
    checkpoint = agrees(two_ranks, "titan")
    assert list(checkpoint.specs) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert checkpoint.left_out["train_state.seen"] == "no tensors"
    assert checkpoint.left_out["train_state.step"] == "the trainer's"
    assert checkpoint.left_out["optimizer.state.0.weight.exp_avg"] == "the trainer's"


def test_a_model_under_a_key_keeps_it(two_ranks):
    checkpoint = agrees(two_ranks, "nested")
    assert next(iter(checkpoint.specs)) == "model.0.weight"
    assert "optim.state.1.bias.exp_avg_sq" in checkpoint.left_out


@pytest.mark.slow
def test_two_dimensions_of_sharding(tmp_path):
    run_ranks(4, tmp_path)
    for name in ("titan", "nested"):
        agrees(tmp_path, name)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_read_is_what_was_written(dtype, tmp_path):
    tensors = random_tensors(dtype)
    dcp.save({name: as_torch(array) for name, array in tensors.items()}, checkpoint_id=tmp_path / "x")
    checkpoint = open_checkpoint(tmp_path / "x")
    assert checkpoint.specs == {name: TensorSpec(array.shape, array.dtype.name) for name, array in tensors.items()}
    assert all(same_bytes(checkpoint.read(name), array) for name, array in tensors.items())
    assert (checkpoint.left_out, checkpoint.config) == ({}, None)


def test_a_module_called_optimizer_is_the_models(tmp_path):
    dcp.save({"optimizer.weight": torch.ones(2), "b": torch.ones(3)}, checkpoint_id=tmp_path / "x")
    assert set(open_checkpoint(tmp_path / "x").specs) == {"optimizer.weight", "b"}
    dcp.save({"optimizer": {"weight": torch.ones(2)}}, checkpoint_id=tmp_path / "y")  # there is nothing else to show
    assert set(open_checkpoint(tmp_path / "y").specs) == {"optimizer.weight"}


@pytest.fixture
def saved(tmp_path):
    state = {"a": torch.arange(12.0).reshape(3, 4), "b": torch.ones(5, dtype=torch.bfloat16), "note": "text"}
    dcp.save(state, checkpoint_id=tmp_path / "x", storage_writer=dcp.FileSystemWriter(tmp_path / "x", False))
    return tmp_path / "x"


def changed(folder, change):
    """``.metadata`` with something changed, as torch itself would write it."""
    file = folder / ".metadata"
    with file.open("rb") as stream:
        metadata = pickle.load(stream)
    change(metadata)
    file.write_bytes(pickle.dumps(metadata))


def place_of(metadata, name):
    return next(info for index, info in metadata.storage_data.items() if index.fqn == name)


class Evil:
    def __reduce__(self):
        return (print, ("run",))


def test_code_in_the_metadata_is_refused_by_name(saved, capsys):
    def change(metadata):
        metadata.planner_data = Evil()

    changed(saved, change)
    fails(saved, f"{saved}/.metadata: cannot be read as metadata: it names builtins.print, which is no part of such")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "name", ["torch.load", "torch.nn", "torch.distributed.checkpoint.metadata.pickle", "os.system"]
)
def test_nothing_else_is_looked_up(name, saved):
    module, _, attribute = name.rpartition(".")
    (saved / ".metadata").write_bytes(f"c{module}\n{attribute}\n(S'x'\ntR.".encode())
    fails(saved, f"it names {name}, which is no part of such metadata; it is not run")


def test_a_poisoned_record_changes_nothing_of_torch(saved):
    # BUILD on a class, not on an instance: sets attributes of it
    module = b"torch.distributed.checkpoint.metadata"
    (saved / ".metadata").write_bytes(b"\x80\x02c" + module + b"\nMetadata\n(}}U\x04evilK\x01stb.")
    fails(saved, f"{saved}/.metadata: ")
    assert not hasattr(records.Metadata, "evil")


def test_code_in_a_shard_is_refused_and_not_run(saved, capsys):
    with (saved / ".metadata").open("rb") as stream:
        file = saved / place_of(pickle.load(stream), "a").relative_path
    content = pickle.dumps(Evil(), protocol=2)
    file.write_bytes(content + bytes(file.stat().st_size - len(content)))
    with pytest.raises(CheckpointError, match=f"{file}: tensor a: torch cannot load it as data"):
        open_checkpoint(saved).read("a")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02t.", b"\x80\x02]."])
def test_a_shard_that_holds_something_else(content, saved):
    """Instructions without operands fail inside torch in ways of their own; a list is no tensor."""
    for file in saved.glob("*.distcp"):
        file.write_bytes(content + bytes(file.stat().st_size - len(content)))
    with pytest.raises(CheckpointError, match=r"tensor a: torch cannot load it as data|is not what \.metadata says"):
        open_checkpoint(saved).read("a")


def test_a_shard_that_goes_while_it_is_read(saved):
    checkpoint = open_checkpoint(saved)
    for file in saved.glob("*.distcp"):
        file.unlink()
    with pytest.raises(CheckpointError, match="tensor a cannot be read: No such file"):
        checkpoint.read("a")


def test_a_missing_and_a_short_shard(two_ranks, tmp_path):
    shutil.copytree(two_ranks / "mixed", tmp_path / "x")
    file = tmp_path / "x" / "__1_0.distcp"
    size = file.stat().st_size
    file.write_bytes(file.read_bytes()[:-9])
    fails(tmp_path / "x", f"{file}: the file is cut short; found {size - 9} bytes; expected {size} by .metadata")
    file.unlink()
    with (tmp_path / "x" / ".metadata").open("rb") as stream:
        places = pickle.load(stream).storage_data
    lost = len({index.fqn for index, info in places.items() if info.relative_path == file.name})
    assert lost > 1
    fails(tmp_path / "x", f"{tmp_path}/x: shard __1_0.distcp is missing; {lost} tensors are in it; copy it again")


@pytest.mark.parametrize("keep", [0, 1, 30, 400])
def test_metadata_cut_short(keep, saved):
    file = saved / ".metadata"
    file.write_bytes(file.read_bytes()[:keep])
    fails(saved, f"{file}: cannot be read as metadata: ")


def test_metadata_that_is_missing(saved):
    (saved / ".metadata").unlink()
    fails(saved, "shards of a torch Distributed Checkpoint without its .metadata; found 3 *.distcp; copy that file too")


@pytest.mark.parametrize("path", ["../x.distcp", "/etc/passwd", "a/../../b", "", 5, None])
def test_a_path_that_leads_elsewhere(path, saved):
    changed(saved, lambda metadata: setattr(place_of(metadata, "a"), "relative_path", path))
    with pytest.raises(CheckpointError, match=r"no file of this directory|not the metadata of a distributed"):
        open_checkpoint(saved)


def shape_too_large(metadata):
    metadata.state_dict_metadata["a"].size = torch.Size((3, 5))


def everything_too_large(metadata):
    item = metadata.state_dict_metadata["a"]
    item.size = item.chunks[0].sizes = torch.Size((2**40, 2**20))


def another_dtype(metadata):
    metadata.state_dict_metadata["a"].properties.dtype = torch.int32


def another_shape(metadata):
    item = metadata.state_dict_metadata["a"]
    item.size = item.chunks[0].sizes = torch.Size((4, 3))


def outside(metadata):
    metadata.state_dict_metadata["a"].size = torch.Size((2, 6))


def beyond_the_end(metadata):
    place_of(metadata, "a").offset = 10**9


def stored_nowhere(metadata):
    metadata.storage_data = {i: p for i, p in metadata.storage_data.items() if i.fqn != "a"}


def negative(metadata):
    place_of(metadata, "a").offset = -4


def in_another_way(metadata):
    place_of(metadata, "a").transform_descriptors = ["zstd"]


def twice(metadata):
    item = metadata.state_dict_metadata["a"]
    item.size = torch.Size((6, 4))
    item.chunks = [item.chunks[0]] * 2


def no_list(metadata):
    metadata.state_dict_metadata = 5


@pytest.mark.parametrize(
    ("lie", "message"),
    [
        (shape_too_large, "the shards of tensor a do not make it up; found 12 elements; expected 15, each once"),
        (
            everything_too_large,
            "tensor a of (1099511627776, 1048576) and float32 is said to be in too few bytes; found",
        ),
        (another_dtype, "the shard of tensor a is not what .metadata says; found ('Tensor', 'torch.float32', (3, 4))"),
        (another_shape, "the shard of tensor a is not what .metadata says"),
        (outside, "tensor a has a shard outside of its shape; found (2, 6)"),
        (beyond_the_end, "the file is cut short"),
        (stored_nowhere, "tensor a is said to be stored nowhere from (0, 0) on; the checkpoint was not saved whole"),
        (negative, "sizes and offsets are whole numbers from 0"),
        (in_another_way, "tensor a is stored in another way; found ['zstd']; expected as it is"),
        (twice, "the shards of tensor a do not make it up; found 24 elements; expected 24, each once"),
        (no_list, "not the metadata of a distributed checkpoint"),
    ],
)
def test_metadata_that_lies(lie, message, saved):
    changed(saved, lie)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(saved).read("a")
    assert message in str(caught.value)


def test_a_state_dict_without_tensors(tmp_path):
    dcp.save({"step": 3}, checkpoint_id=tmp_path)
    fails(tmp_path, "holds no tensors; expected a state dict of a model")


def test_every_record_of_this_torch_is_known(saved):
    """What torch pickles, opened without one of its classes: a new one would be refused here first."""
    named = pickle.dumps(_StorageInfo("a", 0, 1))
    assert b"_StorageInfo" in named
    np.testing.assert_array_equal(open_checkpoint(saved).read("a"), np.arange(12.0).reshape(3, 4))
