"""GGUF, as its own writer writes it: shapes the usual way round, quantised tensors as its own code reads them."""

from contextlib import suppress

import gguf
import ml_dtypes
import numpy as np
import pytest
from format_helpers import fails, same_bytes

from ckptdbg.checkpoint import TensorSpec, open_checkpoint
from ckptdbg.errors import CheckpointError
from ckptdbg.mapping import Mapping

Q = gguf.GGMLQuantizationType
TOKENS = ["<s>", "</s>", "hello"]


def write(path, tensors, **types):
    """Each tensor in the type of its name, in float32 or as it is where there is none."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(4)
    writer.add_head_count(6)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_token_list(TOKENS)
    writer.add_bool("llama.odd", True)
    for name, array in tensors.items():
        kind = types.get(name)
        stored = array if kind is None else gguf.quantize(array, kind)
        writer.add_tensor(name, stored, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def values():
    return np.random.default_rng(0).normal(size=(3, 256)).astype(np.float32)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int8", "int16", "int32", "int64"])
@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 3, 4)])
def test_what_is_stored_plainly_is_read_as_it_is(dtype, shape, tmp_path):
    array = (3 * np.random.default_rng(1).normal(size=shape)).astype(dtype)
    checkpoint = open_checkpoint(write(tmp_path / "x.gguf", {"odd": np.arange(3, dtype=np.int8), "a": array}))
    assert checkpoint.specs["a"] == TensorSpec(shape, dtype)
    assert same_bytes(checkpoint.read("a"), array)
    assert checkpoint.notes == {}


def test_bfloat16_is_read_as_it_is(values, tmp_path):
    checkpoint = open_checkpoint(write(tmp_path / "x.gguf", {"a": values}, a=Q.BF16))
    assert checkpoint.specs["a"] == TensorSpec((3, 256), "bfloat16")
    assert same_bytes(checkpoint.read("a"), values.astype(ml_dtypes.bfloat16))
    assert checkpoint.notes == {}


@pytest.mark.parametrize(("kind", "error"), [(Q.Q8_0, 0.01), (Q.Q4_0, 0.2), (Q.Q5_1, 0.1), (Q.Q4_1, 0.2)])
def test_what_is_quantised_is_read_as_float32_and_said(kind, error, values, tmp_path):
    checkpoint = open_checkpoint(write(tmp_path / "x.gguf", {"a": values, "b": values}, a=kind))
    assert checkpoint.specs["a"] == TensorSpec((3, 256), "float32")
    assert checkpoint.notes == {"a": f"{kind.name}, dequantised"}
    found = checkpoint.read("a")
    assert same_bytes(found, gguf.dequantize(gguf.quantize(values, kind), kind))
    assert 0 < np.abs(found - values).max() < error * np.abs(values).max()


def test_every_type_of_the_package_is_read_or_said(tmp_path):
    """K-quants and the rest, which the package reads and does not write: blocks of zero bytes."""
    unknown = []
    for kind in Q:
        block, size = gguf.GGML_QUANT_SIZES[kind]
        if block == 1:
            continue
        writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
        writer.add_tensor("a", np.zeros((2, size), np.uint8), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        checkpoint = open_checkpoint(tmp_path / "x.gguf")
        assert checkpoint.specs["a"] == TensorSpec((2, block), "float32")
        with suppress(CheckpointError):
            assert checkpoint.read("a").shape == (2, block)
            continue
        with pytest.raises(CheckpointError, match=f"the gguf package cannot dequantise; found {kind.name}"):
            checkpoint.read("a")
        unknown.append(kind.name)
    assert "Q4_K" not in unknown
    assert "IQ2_XXS" not in unknown


def test_a_mapping_finds_sizes_by_their_own_names(values, tmp_path):
    checkpoint = open_checkpoint(write(tmp_path / "x.gguf", {"blk.0.w": values}))
    assert checkpoint.config is not None
    assert checkpoint.config["llama"]["block_count"] == 4
    assert checkpoint.config["general"]["architecture"] == "llama"
    assert checkpoint.config["llama"]["attention"] == {"head_count": 6, "layer_norm_rms_epsilon": np.float32(1e-6)}
    assert "tokens" not in str(checkpoint.config)
    entry = {"name": "w", "source": "blk.0.w", "target": "t", "ops": [{"rearrange": "a (h d) -> h a d", "h": "heads"}]}
    variables = {"heads": "llama.block_count"}
    mapping = Mapping.from_dict({"version": 1, "variables": variables, "entries": [entry]})
    bound = mapping.bind_as_made(checkpoint.config, checkpoint.specs, {})
    assert bound.entries[0].target_specs[0].shape == (4, 3, 64)


@pytest.mark.parametrize("content", [b"", b"GGUF", b"hello, this is no checkpoint", b"\0" * 64, b"GGUF" + b"\xff" * 60])
def test_a_file_that_is_none(content, tmp_path):
    (tmp_path / "x.gguf").write_bytes(content)
    fails(tmp_path / "x.gguf", f"{tmp_path}/x.gguf: ")
    assert "GGUF file, or damaged" in error_of(tmp_path / "x.gguf")


def error_of(path):
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_a_file_cut_short_anywhere(values, tmp_path):
    path = write(tmp_path / "x.gguf", {"a": values, "b": values}, b=Q.Q4_0)
    whole = path.read_bytes()
    for keep in [*range(1, 400, 7), len(whole) - 33]:
        path.write_bytes(whole[:keep])
        assert "not a GGUF file, or damaged: " in error_of(path)


def test_a_text_that_is_none(values, tmp_path):
    path = write(tmp_path / "x.gguf", {"a": values})
    path.write_bytes(path.read_bytes().replace(b"\5\0\0\0\0\0\0\0llama", b"\5\0\0\0\0\0\0\0\xff\xfeama"))
    assert "not a GGUF file, or damaged: 'utf-8' codec" in error_of(path)


@pytest.mark.parametrize("value", [2**20, 2**40, 2**62, 2**64 - 1])
@pytest.mark.parametrize("place", ["tensors", "keys", "array", "dimension", "offset", "name"])
def test_numbers_that_lie(place, value, values, tmp_path):
    path = write(tmp_path / "x.gguf", {"a": values})
    content = bytearray(path.read_bytes())
    info = content.index(b"\1\0\0\0\0\0\0\0a\2\0\0\0")
    array = content.index(b"tokenizer.ggml.tokens") + len("tokenizer.ggml.tokens") + 8
    at = {"tensors": 8, "keys": 16, "array": array, "name": info, "dimension": info + 13, "offset": info + 33}[place]
    content[at : at + 8] = value.to_bytes(8, "little")
    path.write_bytes(content)
    assert "not a GGUF file, or damaged: " in error_of(path) or "beyond all bounds" in error_of(path)


def test_one_of_several_files(values, tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_uint16("split.count", 3)
    writer.add_tensor("a", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    fails(tmp_path / "x.gguf", "it is one of 3 files that belong together; merge them with llama-gguf-split --merge")
