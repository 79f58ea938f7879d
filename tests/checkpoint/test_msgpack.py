"""flax's msgpack: what flax serialises is read, what is written flax restores, and nothing that is said is believed."""

import jax
import jax.numpy as jnp
import msgpack
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import serialization
from flax.training.train_state import TrainState
from format_helpers import DTYPES, fails, random_tensors, same_bytes

from ckptdbg.checkpoint import TensorSpec, msgpack_file, open_checkpoint
from ckptdbg.models.jax_side import JaxSide


def write(tree, folder):
    (folder / "x.msgpack").write_bytes(serialization.to_bytes(tree))
    return folder / "x.msgpack"


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_read_is_what_was_written(dtype, tmp_path):
    tensors = random_tensors(dtype)
    checkpoint = open_checkpoint(write(tensors, tmp_path))
    assert checkpoint.specs == {name: TensorSpec(array.shape, array.dtype.name) for name, array in tensors.items()}
    for name, array in tensors.items():
        assert same_bytes(checkpoint.read(name), array)
        assert checkpoint.read(name).flags.aligned


@pytest.mark.parametrize("dtype", DTYPES)
def test_flax_restores_what_is_written(dtype, tmp_path):
    tensors = {f"a/{name}": array for name, array in random_tensors(dtype).items()}
    specs = {name: TensorSpec(array.shape, array.dtype.name) for name, array in tensors.items()}
    msgpack_file.write_msgpack(tmp_path / "x.msgpack", specs, tensors.__getitem__, "here")
    restored = serialization.msgpack_restore((tmp_path / "x.msgpack").read_bytes())
    assert list(restored) == ["a"]
    assert all(same_bytes(restored["a"][name[2:]], array) for name, array in tensors.items())


@pytest.mark.parametrize("writer", ["flax", "ckptdbg"])
def test_arrays_in_pieces(writer, tmp_path, monkeypatch):
    tree = {"big": np.arange(60.0).reshape(3, 20), "rest": {"half": jnp.arange(50, dtype=jnp.bfloat16)}}
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 44)
    monkeypatch.setattr(msgpack_file, "PIECE", 44)
    path = tmp_path / "x.msgpack"
    tensors = {"big": tree["big"], "rest/half": np.asarray(tree["rest"]["half"])}
    if writer == "flax":
        write(tree, tmp_path)
    else:
        specs = {name: TensorSpec(array.shape, array.dtype.name) for name, array in tensors.items()}
        msgpack_file.write_msgpack(path, specs, tensors.__getitem__, "here")
    assert msgpack.unpackb(path.read_bytes(), strict_map_key=False)["big"]["__msgpack_chunked_array__"]
    checkpoint = open_checkpoint(path)
    assert all(same_bytes(checkpoint.read(name), array) for name, array in tensors.items())
    restored = serialization.msgpack_restore(path.read_bytes())
    assert same_bytes(restored["big"], tree["big"])


def test_a_train_state_has_the_names_that_its_parameters_have_in_memory(tmp_path):
    module = nn.Dense(5)
    variables = module.init(jax.random.key(0), jnp.ones((2, 3)))
    state = TrainState.create(apply_fn=module.apply, params=variables, tx=optax.adam(1e-3))
    checkpoint = open_checkpoint(write(state, tmp_path))
    assert checkpoint.specs == JaxSide((module, variables)).parameters()
    assert checkpoint.left_out["opt_state/0/mu/params/kernel"] == "the trainer's"
    assert checkpoint.left_out["step"] == "no tensors"


def test_lists_and_what_is_no_array(tmp_path):
    tree = {"layers": [{"w": np.ones(2)}, {"w": np.ones(3)}], "n": None, "c": 1j, "s": "text", "t": np.float32(4)}
    checkpoint = open_checkpoint(write(tree, tmp_path))
    assert list(checkpoint.specs) == ["layers/0/w", "layers/1/w", "t"]
    assert checkpoint.read("t") == 4
    assert checkpoint.left_out == dict.fromkeys("ncs", "no tensors")


def test_what_is_read_never_changes_the_file(tmp_path):
    path = write({"a": np.ones((3, 5))}, tmp_path)
    before = path.read_bytes()
    array = open_checkpoint(path).read("a")
    array[:] = 0
    assert path.read_bytes() == before


@pytest.mark.parametrize("keep", [0, 1, 2, 10, 40, 200, -1])
def test_a_file_cut_short(keep, tmp_path):
    path = write(random_tensors("float32"), tmp_path)
    path.write_bytes(path.read_bytes()[:keep])
    fails(path, f"{path}: not a msgpack file, or cut short: ")


def array_of(*fields):
    return msgpack.ExtType(1, msgpack.packb(fields))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xdf\xff\xff\xff\xff", "4294967295 members are said to be at 0"),
        (b"\xdd\xff\xff\xff\xff" + bytes(50), "4294967295 members are said to be at 0"),
        (b"\x81\xa1a\xc9\xff\xff\xff\xff\x01", "4294967295 bytes are said to be at 3"),
        (b"\x81\xdb\xff\xff\xff\xffa", "4294967295 bytes are said to be at 1"),
        (b"\x81\xa1a" * 300 + b"\xc0", "more than 200 maps in one another"),
        (b"\x82\xa1a\x01\xa1a\x02", "the key a comes twice"),
        (b"\x81\xa1a\x01\x00", "what begins at 0 ends at 4 and not at 5"),
        (b"\x81\xa1\xff\x01", "a text at 2 is none"),
        (b"\xc1", "it ends or makes no sense at 0"),
        (b"hello, this is no checkpoint", "what begins at 0 ends at 1 and not at 28"),
        (msgpack.packb({"a": 5}), "holds no named arrays; expected a tree that flax serialised"),
        (msgpack.packb(array_of((2,), "float32", bytes(8))), "holds no named arrays"),
        (
            msgpack.packb({"a": array_of((3,), "float32", bytes(8))}),
            "array a of shape (3,) and float32 has the wrong number of bytes; found 8; expected 12",
        ),
        (msgpack.packb({"a": array_of((2**62, 2**62), "int8", b"")}), "has the wrong number of bytes; found 0"),
        (msgpack.packb({"a": array_of((-1, -8), "int8", bytes(8))}), "array a has no proper shape and dtype"),
        (msgpack.packb({"a": array_of((1.0,), "int8", bytes(1))}), "array a has no proper shape and dtype"),
        (msgpack.packb({"a": array_of((1,), "O", bytes(8))}), "array a has no proper shape and dtype; found O"),
        (msgpack.packb({"a": array_of((1,), "object", bytes(8))}), "has no proper shape and dtype; found object"),
        (msgpack.packb({"a": array_of(5, "int8", bytes(8))}), "array a has no proper shape and dtype"),
        (msgpack.packb({"a": array_of((1,), "int8")}), "array a has no proper shape and dtype"),
        (msgpack.packb({"a": msgpack.ExtType(1, b"")}), "cut short: "),
        (msgpack.packb({"a": msgpack.ExtType(1, b"\xdd\xff\xff\xff\xff")}), "4294967295 members are said to be at"),
        (
            msgpack.packb(
                {"a": {msgpack_file.PIECES: True, "shape": {"0": 3}, "chunks": {"0": array_of((2,), "int8", bytes(2))}}}
            ),
            "the pieces of array a do not make it up; found 2 elements; expected shape (3,)",
        ),
        (
            msgpack.packb({"a": {msgpack_file.PIECES: True}}),
            "the pieces of array a do not make it up; found 0 elements",
        ),
    ],
)
def test_a_file_that_lies(content, message, tmp_path):
    (tmp_path / "x.msgpack").write_bytes(content)
    fails(tmp_path / "x.msgpack", message)


def test_no_code_is_ever_called(tmp_path, monkeypatch):
    """Other extension types are what a careless reader would hand to a hook."""
    tree = {"a": array_of((1,), "int8", b"\x07"), "b": msgpack.ExtType(42, b"cos\nsystem\n")}
    (tmp_path / "x.msgpack").write_bytes(msgpack.packb(tree))
    checkpoint = open_checkpoint(tmp_path / "x.msgpack")
    assert checkpoint.read("a").tolist() == [7]
    assert checkpoint.left_out == {"b": "no tensors"}
