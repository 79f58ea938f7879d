"""Loaders: what they accept, what they say when it is wrong, and that nothing is lost between disk and memory."""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ckptdbg.errors import LoaderError
from ckptdbg.models.loaders import Loaded, load_model
from ckptdbg.samples.checkpoints import write_checkpoint

TOKENS = np.random.default_rng(0).integers(0, 100, (2, 7))


def load(loader: str, path: Path | None = None, base: Path = Path(), precision: str = "float32", **options) -> Loaded:
    return load_model(loader, path, options=options, inputs={}, output=None, base=base, precision=precision)


def user_file(folder: Path, text: str, name: str = "mine.py") -> Path:
    (folder / name).write_text(textwrap.dedent(text))
    return folder / name


def failure(*args, **kwargs) -> str:
    with pytest.raises(LoaderError) as error:
        load(*args, **kwargs)
    assert "\n" not in str(error.value).strip()
    return str(error.value)


# Hugging Face ---------------------------------------------------------------------------------------------------------

FAMILIES = ["llama", "qwen3", "gemma2", "mixtral", "qwen3_moe", "gpt2", "bert"]


@pytest.mark.parametrize("family", FAMILIES)
def test_huggingface_computes_what_transformers_does(family, tmp_path):
    import torch
    import transformers

    folder = write_checkpoint(family, tmp_path)
    loaded = (
        load("huggingface", folder, experts_implementation="eager") if "mi" in family else load("huggingface", folder)
    )
    name = json.loads((folder / "config.json").read_text())["architectures"][0]
    with torch.no_grad():
        expected = getattr(transformers, name).from_pretrained(folder)(torch.tensor(TOKENS))[0].numpy()
    output = loaded.side.run({"input_ids": TOKENS}).output
    np.testing.assert_allclose(output, expected.reshape(output.shape), rtol=1e-5, atol=1e-5)
    assert loaded.config == json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("family", FAMILIES)
def test_mapping_names_are_the_names_on_disk(family, tmp_path):
    folder = write_checkpoint(family, tmp_path)
    disk = load_file(folder / "model.safetensors")
    loaded = load("huggingface", folder)
    assert {name: spec.shape for name, spec in loaded.specs.items()} == {name: x.shape for name, x in disk.items()}
    assert loaded.unused == ()
    for name, value in disk.items():
        np.testing.assert_array_equal(loaded.read(name), value)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_read_becomes_what_the_model_holds(family, tmp_path):
    loaded = load("huggingface", write_checkpoint(family, tmp_path))
    values = loaded.to_parameters(loaded.read)
    assert values.keys() == loaded.side.parameters().keys()
    for name, value in values.items():
        np.testing.assert_array_equal(value.astype(np.float32), loaded.side.read(name), err_msg=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_probes_pass_in_float64(family, tmp_path):
    """Every number on disk can be told from its neighbours in memory, far beyond float32."""
    loaded = load("huggingface", write_checkpoint(family, tmp_path))
    probes, start = {}, 2**40
    for name, spec in loaded.specs.items():
        size = int(np.prod(spec.shape))
        probes[name] = np.arange(start, start + size, dtype=np.float64).reshape(spec.shape)
        start += size
    values = loaded.to_parameters(probes.__getitem__)
    assert {str(value.dtype) for value in values.values()} == {"float64"}
    arrived = np.unique(np.concatenate([value.ravel() for value in values.values()]))
    np.testing.assert_array_equal(arrived, np.arange(2**40, start))


def test_experts_are_fused_in_memory(tmp_path):
    loaded = load("huggingface", write_checkpoint("qwen3_moe", tmp_path, num_hidden_layers=1))
    prefix = "model.layers.0.mlp.experts"
    assert f"{prefix}.gate_up_proj" in loaded.side.parameters()
    assert f"{prefix}.gate_up_proj" not in loaded.specs
    fused = loaded.to_parameters(loaded.read)[f"{prefix}.gate_up_proj"]
    np.testing.assert_array_equal(fused[10, :28], loaded.read(f"{prefix}.10.gate_proj.weight"))
    np.testing.assert_array_equal(fused[10, 28:], loaded.read(f"{prefix}.10.up_proj.weight"))


def test_a_tied_head_follows_the_embedding(tmp_path):
    loaded = load("huggingface", write_checkpoint("gemma2", tmp_path))
    assert "lm_head.weight" not in loaded.specs
    probes = {name: np.zeros(spec.shape) for name, spec in loaded.specs.items()}
    probes["model.embed_tokens.weight"] += 3.5
    values = loaded.to_parameters(probes.__getitem__)
    assert (values["lm_head.weight"] == 3.5).all()
    assert (values["model.norm.weight"] == 0).all()


def test_precision_and_dtype_on_disk_are_kept_apart(tmp_path):
    folder = write_checkpoint("llama", tmp_path, dtype="bfloat16", num_hidden_layers=1)
    name = "model.norm.weight"
    wide, narrow = load("huggingface", folder), load("huggingface", folder, precision="bfloat16")
    assert (wide.side.read(name).dtype, narrow.side.read(name).dtype) == (np.float32, ml_dtypes.bfloat16)
    assert wide.read(name).dtype == narrow.read(name).dtype == ml_dtypes.bfloat16
    assert wide.to_parameters(wide.read)[name].dtype == np.float64


def test_options_reach_transformers(tmp_path):
    folder = write_checkpoint("llama", tmp_path, num_hidden_layers=1)
    for kind in ("eager", "sdpa"):
        assert load("huggingface", folder, attn_implementation=kind).side._module.config._attn_implementation == kind
    bare = load("huggingface", folder, architecture="LlamaModel")
    assert "layers.0.mlp.up_proj.weight" in bare.side.parameters()
    assert "lm_head.weight" in bare.unused


def test_bars_and_verbosity_of_transformers_are_left_as_found(tmp_path, capfd):
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    loaded = load("huggingface", write_checkpoint("llama", tmp_path, num_hidden_layers=1))
    loaded.to_parameters(loaded.read)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
    assert capfd.readouterr() == ("", "")


def edit_checkpoint(folder: Path, change) -> Path:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_parameter_that_is_not_on_disk_is_an_error(tmp_path):
    folder = edit_checkpoint(write_checkpoint("llama", tmp_path), lambda t: t.pop("model.layers.2.mlp.up_proj.weight"))
    assert failure("huggingface", folder) == (
        f"{folder}: LlamaForCausalLM has parameters that this checkpoint does not hold; "
        "found 1 missing or of another shape: model.layers.2.mlp.up_proj.weight; "
        "another architecture may fit: options: {architecture: NAME}"
    )


def test_a_tensor_of_another_shape_is_an_error(tmp_path):
    def change(tensors):
        tensors["model.norm.weight"] = np.ones(3, np.float32)

    message = failure("huggingface", edit_checkpoint(write_checkpoint("llama", tmp_path), change))
    assert "found 1 missing or of another shape: model.norm.weight (3,) for (48,); " in message


def test_a_tensor_that_the_model_does_not_load_is_listed(tmp_path):
    def change(tensors):
        tensors["model.extra.weight"] = np.ones(3, np.float32)

    loaded = load("huggingface", edit_checkpoint(write_checkpoint("llama", tmp_path), change))
    assert loaded.unused == ("model.extra.weight",)
    assert "model.extra.weight" in loaded.specs
    assert "model.extra.weight" not in loaded.to_parameters(loaded.read)


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        (None, "no config.json; expected a folder written by save_pretrained"),
        ("{", "config.json is not JSON"),
        (
            '{"architectures": ["NoSuchModel"]}',
            "config.json names no architecture that transformers has; found NoSuchModel",
        ),
        ("{}", "config.json names no architecture that transformers has; found no architectures"),
        (
            '{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}',
            "transformers could not load LlamaForCausalLM",
        ),
    ],
)
def test_folders_that_are_no_checkpoint(config, problem, tmp_path):
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    message = failure("huggingface", tmp_path)
    assert problem in message
    assert str(tmp_path) in message


def test_huggingface_needs_a_path_that_exists_and_a_precision_that_exists(tmp_path):
    assert failure("huggingface") == (
        "the loader huggingface needs a path; expected a folder with config.json and safetensors"
    )
    assert failure("huggingface", tmp_path / "nothing") == (
        f"{tmp_path / 'nothing'}: there is nothing at this path; paths in a config are relative to the config file"
    )
    folder = write_checkpoint("llama", tmp_path, num_hidden_layers=1)
    assert failure("huggingface", folder, precision="float31").startswith(
        "unknown precision; found float31; expected float32"
    )


# Functions of the user's --------------------------------------------------------------------------------------------

KINDS = {
    "torch": """
        import torch
        class Model(torch.nn.Sequential):
            def forward(self, input_ids):
                return super().forward(input_ids)
        def load(path, width=5):
            return Model(torch.nn.Embedding(100, width), torch.nn.Dropout(0.5), torch.nn.Linear(width, 3)).train()
    """,
    "nnx": """
        from flax import nnx
        class Model(nnx.Module):
            def __init__(self, width):
                rngs = nnx.Rngs(0)
                self.embed, self.drop = nnx.Embed(100, width, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)
                self.out = nnx.Linear(width, 3, rngs=rngs)
            def __call__(self, input_ids):
                return self.out(self.drop(self.embed(input_ids)))
        def load(path, width=5):
            return Model(width)
    """,
    "linen": """
        import jax, jax.numpy as jnp
        from flax import linen as nn
        class Model(nn.Module):
            width: int
            @nn.compact
            def __call__(self, input_ids):
                return nn.Dense(3)(nn.Embed(100, self.width)(input_ids))
        def load(path, width=5):
            model = Model(width)
            return model, model.init(jax.random.key(0), jnp.zeros((1, 2), int))
    """,
    "function": """
        import jax.numpy as jnp
        from ckptdbg.models.jax_model import JaxModel
        def apply(params, inputs):
            return params["table"][inputs["input_ids"]] @ params["out"][0] + params["out"][1]
        def load(path, width=5):
            return JaxModel(apply, {"table": jnp.ones((100, width)), "out": [jnp.ones((width, 3)), jnp.ones(3)]})
    """,
}


@pytest.mark.parametrize("kind", KINDS)
def test_all_kinds_of_model_can_be_loaded_written_and_run(kind, tmp_path):
    user_file(tmp_path, KINDS[kind])
    loaded = load("mine.py:load", base=tmp_path, width=6)
    assert loaded.specs == loaded.side.parameters()
    assert sorted(spec.shape for spec in loaded.specs.values()) == [(3,), *sorted([(100, 6), shape_of_out(kind)])]
    rng = np.random.default_rng(1)
    values = {name: rng.standard_normal(spec.shape) for name, spec in loaded.specs.items()}
    loaded.set(loaded.to_parameters(values.__getitem__))
    for name, value in values.items():
        np.testing.assert_array_equal(loaded.side.read(name), value.astype(np.float32))
    table = next(value for value in values.values() if value.shape == (100, 6))
    out = next(value for value in values.values() if value.shape == shape_of_out(kind))
    bias = next(value for value in values.values() if value.ndim == 1)
    expected = table[TOKENS] @ (out.T if kind == "torch" else out) + bias
    output = loaded.side.run({"input_ids": TOKENS}).output
    np.testing.assert_allclose(output, expected.reshape(output.shape), rtol=1e-4, atol=1e-4)


def shape_of_out(kind: str) -> tuple[int, int]:
    return (3, 6) if kind == "torch" else (6, 3)


def test_a_module_on_the_path_is_a_loader_too():
    loaded = load(
        "ckptdbg.samples.targets.torch_llama:load",
        layers=2, embed=12, heads=2, kv_heads=1, head_dim=4, mlp=10, vocab=9,
    )  # fmt: skip
    assert loaded.specs["layers.1.feed_forward.w13.weight"].shape == (20, 12)


def test_a_file_may_import_its_neighbours_also_late(tmp_path):
    user_file(tmp_path, "NAME = 'found'", "neighbour_of_mine.py")
    user_file(
        tmp_path,
        """
        import torch
        def load(path):
            import neighbour_of_mine
            assert neighbour_of_mine.NAME == "found"
            return torch.nn.Linear(2, 3)
        """,
    )
    before = list(sys.path)
    assert load("mine.py:load", base=tmp_path).specs["weight"].shape == (3, 2)
    assert sys.path == before
    sys.modules.pop("neighbour_of_mine")


def test_files_of_one_name_do_not_meet(tmp_path):
    for width in (2, 3):
        (tmp_path / str(width)).mkdir()
        user_file(tmp_path / str(width), f"import torch\ndef load(path): return torch.nn.Linear({width}, 4)")
    shapes = [load("mine.py:load", base=tmp_path / str(width)).specs["weight"].shape for width in (2, 3)]
    assert shapes == [(4, 2), (4, 3)]


def test_config_beside_the_weights(tmp_path):
    user_file(tmp_path, KINDS["torch"])
    (tmp_path / "config.json").write_text('{"num_hidden_layers": 3}')
    assert load("mine.py:load", tmp_path, base=tmp_path).config == {"num_hidden_layers": 3}
    assert load("mine.py:load", base=tmp_path).config is None


@pytest.mark.parametrize(
    ("text", "loader", "line", "problem"),
    [
        (
            "def load(path):\n    x = {}\n    return x['a']",
            "mine.py:load",
            3,
            "the loader mine.py:load raised KeyError: 'a'",
        ),
        ("import no_such_module_at_all", "mine.py:load", 1, "importing it raised ModuleNotFoundError: No module named"),
        ("def load(path:\n", "mine.py:load", 1, "importing it raised SyntaxError: "),
        ("def load(path): pass", "mine.py:load", 1, "returned something that cannot be walked; found None"),
        ("def load(path): return (1, 'a')", "mine.py:load", 1, "found a tuple (int, str); expected a torch.nn.Module"),
        (
            "def read(path): pass",
            "mine.py:load",
            None,
            "mine.py has no function 'load'; found read; define load(path, ",
        ),
        ("load = 3", "mine.py:load", None, "mine.py has no function 'load'; found no functions"),
        (
            "\ndef load(): pass",
            "mine.py:load",
            2,
            "the loader mine.py:load cannot be called: too many positional arguments",
        ),
    ],
)
def test_what_is_wrong_in_the_users_file_is_said_at_its_line(text, loader, line, problem, tmp_path):
    file = user_file(tmp_path, text)
    message = failure(loader, base=tmp_path)
    assert message.startswith(f"{file}:{line}: " if line else f"{file}: ")
    assert problem in message


def test_an_error_deep_in_a_library_is_said_at_the_users_line(tmp_path):
    file = user_file(tmp_path, "import json\ndef load(path):\n    return helper()\ndef helper():\n    json.loads('{')")
    message = failure("mine.py:load", base=tmp_path)
    assert message.startswith(f"{file}:5: the loader mine.py:load raised JSONDecodeError: ")


def test_options_that_the_loader_does_not_take(tmp_path):
    file = user_file(tmp_path, "def load(path, layers=2): raise TypeError('inside')")
    assert failure("mine.py:load", base=tmp_path, depth=4) == (
        f"{file}:1: the loader mine.py:load cannot be called: got an unexpected keyword argument 'depth'; "
        "found load(path, layers=2); expected load(path, depth=...)"
    )
    assert "raised TypeError: inside" in failure("mine.py:load", base=tmp_path, layers=4)


@pytest.mark.parametrize(
    ("loader", "problem"),
    [
        ("hugingface", "unknown loader; found 'hugingface'; expected huggingface, module:function or file.py:function"),
        ("no_such_module:load", "no_such_module:load: importing 'no_such_module' raised ModuleNotFoundError: "),
    ],
)
def test_loaders_that_are_not_there(loader, problem):
    assert failure(loader).startswith(problem)


def test_a_file_that_is_not_there(tmp_path):
    assert failure("gone.py:load", base=tmp_path) == (
        f"{tmp_path / 'gone.py'}: there is no such file; it is looked up relative to the config file"
    )


# Writing ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def linear(tmp_path) -> Loaded:
    user_file(tmp_path, "import torch\ndef load(path): return torch.nn.Linear(2, 3)")
    return load("mine.py:load", base=tmp_path)


def test_writing_an_unknown_name_or_another_shape(linear):
    with pytest.raises(LoaderError, match=r"the model has no parameter 'wieght'; expected bias, weight"):
        linear.set({"wieght": np.zeros((3, 2))})
    with pytest.raises(LoaderError, match=r"weight cannot be written; found shape \(2, 3\); expected shape \(3, 2\)"):
        linear.set({"weight": np.zeros((2, 3))})


def test_writing_bfloat16(linear):
    value = np.random.default_rng(0).standard_normal((3, 2)).astype(ml_dtypes.bfloat16)
    linear.set({"weight": value})
    np.testing.assert_array_equal(linear.side.read("weight"), value.astype(np.float32))


def test_a_write_that_updates_nothing_is_an_error(tmp_path):
    """``state_dict`` hands out a copy under another name, as a hook that splits a fused parameter does."""
    user_file(
        tmp_path,
        """
        import torch
        class Split(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.fused = torch.nn.Parameter(torch.zeros(4, 3))
                self.register_state_dict_post_hook(self.split)
            @staticmethod
            def split(module, state, prefix, metadata):
                fused = state.pop("fused")
                state["upper"], state["lower"] = fused[:1].clone(), fused[1:].clone()
            def forward(self, input_ids):
                return torch.nn.functional.one_hot(input_ids % 3, 3).float() @ self.fused.T
        def load(path): return Split()
        """,
    )
    loaded = load("mine.py:load", base=tmp_path)
    with pytest.raises(LoaderError, match="upper was not updated by load_state_dict"):
        loaded.set(loaded.to_parameters({"upper": np.ones((1, 3)), "lower": np.ones((3, 3))}.__getitem__))


def test_meta_tensors_cannot_be_written(tmp_path):
    user_file(tmp_path, "import torch\ndef load(path): return torch.nn.Linear(2, 3, device='meta')")
    with pytest.raises(LoaderError, match="meta"):
        load("mine.py:load", base=tmp_path).set({"weight": np.zeros((3, 2))})
