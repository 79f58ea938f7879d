"""Every format, every dtype: what is read is what was written. Every damaged file: one clear error."""

import json
import re

import ml_dtypes
import numpy as np
import pytest
import torch
from format_helpers import DTYPES, as_torch, fails, numpy_dtype, random_tensors, same_bytes
from safetensors.torch import load_file, save_file

from ckptdbg.checkpoint import MemoryCheckpoint, TensorSpec, describe, open_checkpoint, write_safetensors
from ckptdbg.errors import CheckpointError


def write(layout, tensors, folder):
    if layout == "safetensors":
        write_safetensors(folder / "x.safetensors", tensors.items())
        return folder / "x.safetensors"
    if layout == "pt":
        torch.save({name: as_torch(array) for name, array in tensors.items()}, folder / "x.pt")
        return folder / "x.pt"
    if layout == "old pt":
        tensors = {name: as_torch(array) for name, array in tensors.items()}
        torch.save(tensors, folder / "x.bin", _use_new_zipfile_serialization=False)
        return folder / "x.bin"
    if layout == "npz":
        np.savez(folder / "x.npz", **tensors)
        return folder / "x.npz"
    (folder / "config.json").write_text('{"hidden_size": 7}')
    if layout == "single":
        write_safetensors(folder / "model.safetensors", tensors.items())
        return folder
    weight_map = {}
    for number, half in enumerate([list(tensors)[::2], list(tensors)[1::2]]):
        shard = f"model-{number}.safetensors"
        write_safetensors(folder / shard, ((name, tensors[name]) for name in half))
        weight_map.update(dict.fromkeys(half, shard))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["safetensors", "pt", "old pt", "npz", "single", "sharded"])
def test_what_is_read_is_what_was_written(layout, dtype, tmp_path):
    if layout == "npz" and hasattr(ml_dtypes, dtype):
        pytest.skip("npz cannot hold it: tested below")
    if layout == "old pt" and "float8" in dtype:
        pytest.skip("torch itself cannot load float8 from its old format")
    tensors = random_tensors(dtype)
    checkpoint = open_checkpoint(write(layout, tensors, tmp_path))
    assert checkpoint.specs == {name: TensorSpec(array.shape, array.dtype.name) for name, array in tensors.items()}
    for name, array in tensors.items():
        assert same_bytes(checkpoint.read(name), array)
        assert checkpoint.read(name).flags.aligned
        assert same_bytes(checkpoint.read_apart(name), array)
    assert checkpoint.config == ({"hidden_size": 7} if layout in ("single", "sharded") else None)


@pytest.mark.parametrize("dtype", DTYPES)
def test_safetensors_agree_with_the_library_both_ways(dtype, tmp_path):
    tensors = random_tensors(dtype)
    write_safetensors(tmp_path / "ours.safetensors", tensors.items())
    theirs = load_file(tmp_path / "ours.safetensors")
    assert {name: tuple(t.shape) for name, t in theirs.items()} == {name: a.shape for name, a in tensors.items()}
    for name, array in tensors.items():
        assert torch.equal(theirs[name], as_torch(array)) or np.isnan(array.astype(np.complex128)).any()
    save_file({name: as_torch(array) for name, array in tensors.items()}, tmp_path / "theirs.safetensors")
    checkpoint = open_checkpoint(tmp_path / "theirs.safetensors")
    assert all(same_bytes(checkpoint.read(name), array) for name, array in tensors.items())


def test_memory_has_the_same_verbs():
    tensors = random_tensors("bfloat16")
    checkpoint = MemoryCheckpoint(tensors, config={"a": 1})
    assert checkpoint.specs["t3x5"] == TensorSpec((3, 5), "bfloat16")
    assert same_bytes(checkpoint.read("t3x5"), tensors["t3x5"])
    assert (checkpoint.path, checkpoint.config) == (None, {"a": 1})


def test_dicts_in_a_torch_file_are_flattened_and_the_rest_is_left_out(tmp_path):
    tensor = torch.arange(6.0).reshape(2, 3).T
    torch.save({"model": {"a.b": tensor, 5: torch.ones(1)}, "step": 3}, tmp_path / "x.pth")
    checkpoint = open_checkpoint(tmp_path / "x.pth")
    assert list(checkpoint.specs) == ["model.a.b", "model.5"]
    np.testing.assert_array_equal(checkpoint.read("model.a.b"), tensor.numpy())


def test_what_is_read_never_changes_the_file(tmp_path):
    path = write("safetensors", {"a": np.ones((3, 5))}, tmp_path)
    before = path.read_bytes()
    array = open_checkpoint(path).read("a")
    assert not array.flags.owndata  # mapped, not copied
    array[:] = 0
    assert path.read_bytes() == before


def test_writing_takes_items_as_they_come_and_any_memory_order(tmp_path):
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    items = {"transposed": array.T, "strided": array[:, ::2], "big-endian": array.astype(">f4")}
    write_safetensors(tmp_path / "new" / "x.safetensors", ((name, value) for name, value in items.items()))
    checkpoint = open_checkpoint(tmp_path / "new" / "x.safetensors")
    for name, value in items.items():
        np.testing.assert_array_equal(checkpoint.read(name), value)


def test_a_write_that_fails_leaves_nothing_behind(tmp_path):
    def items():
        yield "a", np.ones(3)
        raise RuntimeError("midway")

    (tmp_path / "x.safetensors").write_text("before")
    with pytest.raises(RuntimeError, match="midway"):
        write_safetensors(tmp_path / "x.safetensors", items())
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]
    assert (tmp_path / "x.safetensors").read_text() == "before"


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([("a", np.ones(2)), ("a", np.ones(3))], "x.safetensors: tensor a comes twice; names must differ"),
        (
            [("a", np.ones(2, np.complex128))],
            "x.safetensors: tensor a has a dtype that safetensors cannot hold; found complex128; expected one of",
        ),
    ],
)
def test_what_cannot_be_written_is_said(items, message, tmp_path):
    with pytest.raises(CheckpointError, match=re.escape(message)):
        write_safetensors(tmp_path / "x.safetensors", items)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_path_lists_what_is_beside_it(tmp_path):
    write("safetensors", random_tensors("float32"), tmp_path)
    fails(tmp_path / "y.safetensors", f"{tmp_path}/y.safetensors: no such checkpoint; beside it: x.safetensors")
    fails(tmp_path / "no" / "y.pt", "no such checkpoint; check the path")


def test_an_unknown_suffix(tmp_path):
    (tmp_path / "x.h5").write_bytes(b"HDF")
    fails(tmp_path / "x.h5", "unknown kind of checkpoint; found .h5; expected a directory or one of .safetensors,")


def test_a_file_cut_short_in_its_data(tmp_path):
    path = write("safetensors", random_tensors("float32"), tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    fails(
        path, f"the file is cut short; found {len(whole) - 5} bytes; expected {len(whole)} by its header; copy it again"
    )


@pytest.mark.parametrize(
    "content", [b"", b"abc", b"\x99" * 40, (2).to_bytes(8, "little") + b"[]", b"\x04" + bytes(7) + b"{a:}"]
)
def test_a_file_that_is_not_safetensors(content, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(content)
    found = f"found {len(content)} bytes"
    fails(tmp_path / "x.safetensors", f"not a safetensors file, or cut short inside its header; {found}; copy it again")


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (
            {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]},
            "tensor a has an unknown dtype; found F4; expected one of",
        ),
        ({"dtype": "F32", "shape": [2]}, "tensor a has no proper header; found {"),
        ({"dtype": ["F32"], "shape": [2], "data_offsets": [0, 8]}, "tensor a has an unknown dtype; found ['F32']"),
        *(
            ({"dtype": "F32", "shape": shape, "data_offsets": offsets}, "tensor a has no proper header; found {")
            for shape, offsets in [
                ([-2, -1], [0, 8]),
                ([float("inf")], [0, 8]),
                ([0, 10**30], [0, 0]),
                ([2], [0.0, 8.0]),
                ([2], ["0", "8"]),
            ]
        ),
        (
            {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
            "tensor a of shape (2,) and float32 has the wrong number of bytes; found 4; expected 8",
        ),
    ],
)
def test_a_header_that_contradicts_itself(item, message, tmp_path):
    header = json.dumps({"a": item}).encode()
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    fails(tmp_path / "x.safetensors", message)


@pytest.mark.parametrize("suffix", ["pt", "bin", "npz"])
@pytest.mark.parametrize("content", [b"", b"hello, this is no checkpoint", b"PK\x03\x04 cut short"])
def test_a_file_that_is_not_what_its_suffix_says(suffix, content, tmp_path):
    (tmp_path / f"x.{suffix}").write_bytes(content)
    fails(tmp_path / f"x.{suffix}", "not an npz file" if suffix == "npz" else "torch cannot load it as data: ")


@pytest.mark.parametrize("file", [5, "../x.safetensors", "/x.safetensors"])
def test_an_index_that_leads_elsewhere(file, tmp_path):
    write("safetensors", random_tensors("float32"), tmp_path).rename(tmp_path / "x.safetensors")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": file}}))
    fails(tmp_path / "model", f"said to be in something that is no file of this directory; found {file!r}")


def test_a_name_that_stands_twice_in_a_header(tmp_path):
    items = (f'"w":{{"dtype":"F32","shape":[1],"data_offsets":[{at},{at + 4}]}}' for at in (0, 4))
    header = f"{{{','.join(items)}}}".encode()
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    fails(tmp_path / "x.safetensors", "w stands twice in its header; write the file again: names must differ")


def test_brackets_without_end(tmp_path):
    header = b'{"a":' + b"[" * 100_000
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    fails(tmp_path / "x.safetensors", "not a safetensors file")
    (tmp_path / "model.safetensors.index.json").write_text("[" * 100_000)
    fails(tmp_path, "not valid JSON")


def test_an_npz_with_a_wrong_checksum(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.arange(1000.0))
    content = bytearray((tmp_path / "x.npz").read_bytes())
    content[400] ^= 0xFF
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"tensor a cannot be read: Bad CRC-32 .*; copy it again"):
        open_checkpoint(tmp_path / "x.npz").read("a")


def test_a_torch_file_without_values_or_without_end(tmp_path):
    torch.save({"a": torch.empty(2, device="meta")}, tmp_path / "x.pt")
    fails(tmp_path / "x.pt", "tensor a has no values; found device meta; expected cpu")
    endless: dict = {"a": torch.zeros(2)}
    endless["again"] = endless
    torch.save(endless, tmp_path / "y.pt")
    fails(tmp_path / "y.pt", "a dict in it holds itself")


def test_a_torch_file_cut_short(tmp_path):
    path = write("pt", random_tensors("float32"), tmp_path)
    path.write_bytes(path.read_bytes()[:-300])
    fails(path, "torch cannot load it as data: ")


class Evil:
    def __reduce__(self):
        return (print, ("run",))


def test_a_torch_file_with_code_is_refused(tmp_path, capsys):
    torch.save({"a": Evil()}, tmp_path / "x.pt")
    fails(tmp_path / "x.pt", "it must be a state_dict saved with torch.save, whole, without code")
    assert capsys.readouterr().out == ""


def test_a_torch_file_without_tensors(tmp_path):
    torch.save({"step": 3}, tmp_path / "x.pt")
    fails(tmp_path / "x.pt", "holds no tensors; expected a dict of tensors (a state_dict)")


def test_a_sparse_tensor(tmp_path):
    torch.save({"a": torch.eye(3).to_sparse()}, tmp_path / "x.pt")
    fails(tmp_path / "x.pt", "tensor a is sparse; expected dense tensors")


@pytest.mark.parametrize(
    ("dtype", "found"), [("bfloat16", "|V2"), ("float8_e5m2", "descr is not a valid dtype descriptor")]
)
def test_npz_cannot_tell_bfloat16_and_float8(dtype, found, tmp_path):
    path = write("npz", {"a": np.ones(3, numpy_dtype(dtype))}, tmp_path)
    fails(path, f"tensor a has no numeric dtype; found {found}")
    fails(path, "; npz cannot hold bfloat16 or float8: write .safetensors")


def test_a_missing_shard(tmp_path):
    write("sharded", random_tensors("float32"), tmp_path)
    (tmp_path / "model-1.safetensors").unlink()
    fails(
        tmp_path, f"{tmp_path}: shard model-1.safetensors is missing; the index names it for 3 tensors; copy it again"
    )


def test_a_tensor_that_the_index_invents(tmp_path):
    write("sharded", random_tensors("float32"), tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(index.read_text().replace('"odd"', '"even"'))
    fails(tmp_path, f"{tmp_path}/model-0.safetensors: tensor even is missing; the index says it is here")


def test_a_tensor_in_two_files_without_an_index(tmp_path):
    for name in ("a", "b"):
        write_safetensors(tmp_path / f"{name}.safetensors", {"w": np.ones(2)}.items())
    fails(tmp_path, f"tensor w is also in {tmp_path}/a.safetensors; keep one of the files, or add an index")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("model.safetensors.index.json", "{}", "not an index of shards; expected a key weight_map"),
        ("model.safetensors.index.json", "{", "not valid JSON: "),
        ("config.json", "[1]", "not a JSON object; found list"),
    ],
)
def test_json_that_is_not_what_it_should_be(file, content, message, tmp_path):
    write("sharded", random_tensors("float32"), tmp_path)
    (tmp_path / file).write_text(content)
    fails(tmp_path, f"{tmp_path}/{file}: {message}")


def test_a_directory_of_torch_files(tmp_path):
    for number in range(2):
        torch.save({f"w{number}": torch.full((2, 3), number)}, tmp_path / f"pytorch_model-{number}.bin")
    weight_map = {f"w{number}": f"pytorch_model-{number}.bin" for number in range(2)}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert open_checkpoint(tmp_path).read("w1").tolist() == [[1] * 3] * 2


def test_one_whole_file_counts_before_an_index_that_was_left_over(tmp_path):
    write("sharded", {"old": np.ones(2)}, tmp_path)
    write("single", {"new": np.ones(2)}, tmp_path)
    assert list(open_checkpoint(tmp_path).specs) == ["new"]


def test_a_directory_without_tensors(tmp_path):
    fails(tmp_path, "no tensors in this directory; expected *.safetensors or one of model.safetensors, model")


def test_an_unknown_tensor_suggests_near_names(tmp_path):
    path = write(
        "safetensors", {"layers.1.q_proj": np.ones(2), "layers.1.k_proj": np.ones(2), "z": np.ones(1)}, tmp_path
    )
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path).read("layers.1.q_prj")
    assert str(caught.value) == f"{path}: no tensor layers.1.q_prj; did you mean layers.1.q_proj, layers.1.k_proj?"
    with pytest.raises(CheckpointError, match=r"<memory>: no tensor q; it has 1 tensors"):
        MemoryCheckpoint({"xyz": np.ones(1)}).read("q")


def test_describe_reads_nothing_unless_asked():
    class Unreadable(MemoryCheckpoint):
        def _read(self, name):
            raise AssertionError(name)

    tensors = {"a": np.ones((2, 3), ml_dtypes.bfloat16), "b": np.float32(1)}
    assert list(describe(Unreadable(tensors))) == [
        {"name": "a", "shape": (2, 3), "dtype": "bfloat16", "size": 6},
        {"name": "b", "shape": (), "dtype": "float32", "size": 1},
    ]
    with pytest.raises(AssertionError):
        list(describe(Unreadable(tensors), stats=True))


def test_statistics_are_of_the_finite_elements():
    tensors = {
        "a": np.array([1, 2, 6, np.nan, np.inf, -np.inf], ml_dtypes.bfloat16),
        "none": np.array([np.nan], np.float32),
        "empty": np.zeros((0, 2)),
        "magnitudes": np.array([3 + 4j, 0], np.complex64),
    }
    rows = {row.pop("name"): row for row in describe(MemoryCheckpoint(tensors), stats=True)}
    stats = {name: [row[key] for key in ("mean", "std", "min", "max", "nonfinite")] for name, row in rows.items()}
    assert stats["a"] == [3.0, pytest.approx(np.std([1, 2, 6])), 1.0, 6.0, 3]
    assert stats["none"] == [None, None, None, None, 1]
    assert stats["empty"] == [None, None, None, None, 0]
    assert stats["magnitudes"] == [2.5, 2.5, 0.0, 5.0, 0]
