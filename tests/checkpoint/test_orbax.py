"""Orbax: what its checkpointers write is read through tensorstore, under the names that parameters have in memory."""

import json
import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from flax.training.train_state import TrainState
from format_helpers import DTYPES, fails, random_tensors, same_bytes

from ckptdbg.checkpoint import TensorSpec, open_checkpoint
from ckptdbg.errors import CheckpointError
from ckptdbg.models.jax_side import JaxSide

LAYOUTS = {
    "database": {"use_ocdbt": True},
    "files": {"use_ocdbt": False},
    "database, zarr3": {"use_ocdbt": True, "use_zarr3": True},
    "files, zarr3": {"use_ocdbt": False, "use_zarr3": True},
}


def save(folder, tree, save_args=None, **layout):
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**layout)) as checkpointer:
        checkpointer.save(folder, args=ocp.args.PyTreeSave(tree, save_args))
    return folder


def same(checkpoint, tensors):
    assert checkpoint.specs == {n: TensorSpec(np.shape(a), np.asarray(a).dtype.name) for n, a in tensors.items()}
    return all(same_bytes(checkpoint.read(name), np.asarray(array)) for name, array in tensors.items())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_read_is_what_was_written(layout, dtype, tmp_path):
    tensors = {name: array for name, array in random_tensors(dtype).items() if array.size}  # Orbax takes no empty ones
    checkpoint = open_checkpoint(save(tmp_path / "x", tensors, **LAYOUTS[layout]))
    assert same(checkpoint, dict(sorted(tensors.items())))
    assert (checkpoint.left_out, checkpoint.config) == ({}, None)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_arrays_of_jax_in_several_chunks(layout, tmp_path):
    array = jnp.asarray(np.random.default_rng(3).normal(size=(40, 6)), jnp.bfloat16)
    tree = {"a": array, "b": [array.T, {"c": array + 1}]}
    args = jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=64), tree)
    checkpoint = open_checkpoint(save(tmp_path / "x", tree, args, **LAYOUTS[layout]))
    assert same(checkpoint, {"a": array, "b/0": array.T, "b/1/c": array + 1})


def test_what_is_no_array_is_left_out(tmp_path):
    tree = {"w": np.ones((2, 3)), "none": None, "empty": {}, "text": "hello", "number": 3}
    checkpoint = open_checkpoint(save(tmp_path / "x", tree))
    assert list(checkpoint.specs) == ["number", "w"]
    assert checkpoint.left_out == {"text": "no tensors"}


def initial(boxed, *axes):
    init = nn.initializers.normal()
    return nn.with_logical_partitioning(init, axes) if boxed else init


class Layer(nn.Module):
    boxed: bool

    @nn.compact
    def __call__(self, x, _):
        given = {"kernel_init": initial(self.boxed, "in", "out"), "bias_init": initial(self.boxed, "out")}
        return x + sum(nn.Dense(5, name=name, **given)(x) for name in ("query", "value")), None


class Model(nn.Module):
    """With what names depend on: a key ``value``, boxes that flax takes off, and layers in a scan."""

    boxed: bool

    @nn.compact
    def __call__(self, x):
        named = {nn.PARTITION_NAME: "layers"}
        rng = {"params": True}
        made = nn.scan(Layer, variable_axes={"params": 0}, split_rngs=rng, length=3, metadata_params=named)
        return made(self.boxed, name="layers")(x, None)[0]


def in_memory(model):
    return {name: (spec.shape, spec.dtype) for name, spec in JaxSide(model).parameters().items()}


def on_disk(checkpoint):
    return {name: (spec.shape, spec.dtype) for name, spec in checkpoint.specs.items()}


@pytest.mark.parametrize("boxed", [False, True], ids=["plain", "boxed"])
@pytest.mark.parametrize("wrapped", ["variables", "params", "train state", "train state of variables"])
def test_a_linen_module_has_the_same_names_on_disk_and_in_memory(wrapped, boxed, tmp_path):
    module = Model(boxed)
    variables = module.init(jax.random.key(0), jnp.ones((2, 5)))
    params = variables if wrapped.endswith("variables") else variables["params"]
    tree = params
    if wrapped.startswith("train"):
        tree = TrainState.create(apply_fn=module.apply, params=params, tx=optax.adam(1e-3))
    checkpoint = open_checkpoint(save(tmp_path / "x", tree))
    assert on_disk(checkpoint) == in_memory((module, variables))
    assert set(checkpoint.specs) == {
        f"layers/{name}/{leaf}" for name in ("query", "value") for leaf in ("kernel", "bias")
    }
    assert checkpoint.specs["layers/value/kernel"].shape == (3, 5, 5)
    assert set(checkpoint.left_out.values()) == ({"the trainer's"} if wrapped.startswith("train") else set())


def test_other_collections_keep_their_name(tmp_path):
    module = nn.BatchNorm(use_running_average=True)
    variables = module.init(jax.random.key(0), jnp.ones((2, 5)))
    checkpoint = open_checkpoint(save(tmp_path / "x", variables))
    assert on_disk(checkpoint) == in_memory((module, variables))
    assert set(checkpoint.specs) == {"scale", "bias", "batch_stats/mean", "batch_stats/var"}


class Small(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(3, 5, rngs=rngs), nnx.Linear(5, 2, rngs=rngs)])
        self.value = nnx.Linear(3, 2, rngs=rngs)

    def __call__(self, x):
        return self.layers[1](self.layers[0](x)) + self.value(x)


@pytest.mark.parametrize("form", ["state", "pure"])
def test_an_nnx_module_has_the_same_names_on_disk_and_in_memory(form, tmp_path):
    model = Small(nnx.Rngs(0))
    state = nnx.state(model, nnx.Param)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "x", nnx.to_pure_dict(state) if form == "pure" else state)
    checkpoint = open_checkpoint(tmp_path / "x")
    assert on_disk(checkpoint) == in_memory(model)
    assert "layers/0/kernel" in checkpoint.specs
    assert same_bytes(checkpoint.read("value/kernel"), np.asarray(model.value.kernel[...]))


def test_a_key_value_of_the_users_stays(tmp_path):
    tree = {"attention": {"query": np.ones(2), "value": np.ones(3)}, "head": {"value": np.ones(4)}}
    assert set(open_checkpoint(save(tmp_path / "x", tree)).specs) == {
        "attention/query",
        "attention/value",
        "head/value",
    }


@pytest.mark.parametrize(
    ("tree", "found"),
    [
        ({"params": {"a": np.ones(2)}, "a": np.ones(3)}, "('a',) and ('params', 'a')"),
        ({"a": {"b": np.ones(2)}, "a/b": np.ones(3)}, "('a', 'b') and ('a/b',)"),
    ],
)
def test_two_tensors_with_one_name(tree, found, tmp_path):
    save(tmp_path / "x", tree)
    fails(tmp_path / "x", f"two tensors get the name {'a/b' if 'b' in found else 'a'}; found {found}; rename one")


def manager(folder, steps, item=None):
    """As ``CheckpointManager`` writes it, with an item of another kind beside MaxText's ``items``."""
    names = {} if item is None else {"item_names": (item, "notes")}
    with ocp.CheckpointManager(folder, **names) as made:
        for step in steps:
            tree = ocp.args.StandardSave({"params": {"params": {"w": np.full((2, 3), step, np.float32)}}})
            made.save(
                step, args=tree if item is None else ocp.args.Composite(**{item: tree, "notes": ocp.args.JsonSave({})})
            )
        made.wait_until_finished()
    return folder


@pytest.mark.parametrize("item", [None, "items"])
def test_one_step_of_a_manager_is_found(item, tmp_path):
    root = manager(tmp_path / "run", [1200], item)
    inner = root / "1200" / (item or "default")
    (root / "config.json").write_text('{"hidden_size": 7}')
    for path in (root, root / "1200", inner):
        checkpoint = open_checkpoint(path)
        assert checkpoint.read("w").tolist() == [[1200] * 3] * 2
        assert (checkpoint.path, checkpoint.config) == (inner, {"hidden_size": 7})


def test_of_several_steps_one_is_to_be_named(tmp_path):
    root = manager(tmp_path / "run", [5, 20, 100])
    fails(root, f"{root}: there are 3 checkpoints in this folder; found 5, 20, 100; name one: {root}/100")
    assert open_checkpoint(root / "20").read("w")[0, 0] == 20


def test_a_config_of_something_else_above_is_not_taken(tmp_path):
    save(tmp_path / "weights", {"w": np.ones(2)})
    (tmp_path / "config.json").write_text("{}")
    assert open_checkpoint(tmp_path / "weights").config is None
    (tmp_path / "weights" / "config.json").write_text('{"a": 1}')
    assert open_checkpoint(tmp_path / "weights").config == {"a": 1}


def test_what_was_not_saved_whole(tmp_path):
    (tmp_path / "7.orbax-checkpoint-tmp" / "items").mkdir(parents=True)
    fails(tmp_path, f"{tmp_path}: Orbax did not finish saving this; found 7.orbax-checkpoint-tmp")


@pytest.fixture(params=LAYOUTS)
def saved(request, tmp_path):
    values = np.random.default_rng(1).normal(size=(2, 40, 30)).astype(np.float32)  # too large to be kept in the index
    tree = {"a": values[0], "b": {"c": values[1]}}
    args = jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=800), tree)
    return save(tmp_path / "x", tree, args, **LAYOUTS[request.param])


def data_of(folder, name):
    """The files that hold a tensor's data; all data where a database does."""
    if (folder / "manifest.ocdbt").exists():
        return [file for file in folder.rglob("d/*") if file.stat().st_size > 2000]
    return [file for file in (folder / name).rglob("*") if file.is_file() and "zar" not in file.name]


def unreadable(folder, name="b/c"):
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(folder).read(name)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_missing_data_is_no_zeros(saved):
    data = data_of(saved, "b.c")
    assert data
    for file in data if (saved / "manifest.ocdbt").exists() else data[-1:]:
        file.unlink()
    said = unreadable(saved)
    assert said.startswith(f"{saved}: tensor ")
    assert "NOT_FOUND" in said
    assert said.endswith("copy it again, all of its files")


def test_data_cut_short(saved):
    for file in data_of(saved, "b.c"):
        file.write_bytes(file.read_bytes()[:-30])
    assert unreadable(saved).startswith(f"{saved}: tensor ")


def test_a_missing_array_and_a_missing_database(saved):
    database = (saved / "manifest.ocdbt").exists()
    (saved / "manifest.ocdbt").unlink() if database else shutil.rmtree(saved / "b.c")
    fails(saved, "manifest.ocdbt is missing; copy it" if database else "tensor b/c cannot be opened: NOT_FOUND")


@pytest.mark.parametrize("key", ["../../x", "a/../b", "/etc", ".", ""])
def test_keys_that_lead_elsewhere(key, saved):
    metadata = json.loads((saved / "_METADATA").read_text())
    next(iter(metadata["tree_metadata"].values()))["key_metadata"][0]["key"] = key
    (saved / "_METADATA").write_text(json.dumps(metadata))
    fails(saved, f"is said to be in something that is no folder of this directory; found {key!r}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not valid JSON"),
        ("[]", "not a JSON object"),
        ("{}", "not the metadata of Orbax; found KeyError"),
        ('{"tree_metadata": {"a": 5}}', "not the metadata of Orbax; found TypeError"),
        ('{"tree_metadata": {}}', "holds no arrays; expected a tree that Orbax saved"),
        (
            '{"tree_metadata": {"()": {"key_metadata": [], "value_metadata": {"value_type": "scalar"}}}}',
            "holds one array without a name",
        ),
    ],
)
def test_metadata_that_makes_no_sense(content, message, tmp_path):
    (tmp_path / "_METADATA").write_text(content)
    fails(tmp_path, message)


def lie(folder, **fields):
    """Change what the array ``b.c`` says of itself, where it is in files."""
    file = next(folder.glob("b.c/.zarray"), folder / "b.c" / "zarr.json")
    document = json.loads(file.read_text())
    document.update({key: value for key, value in fields.items() if key in document})
    file.write_text(json.dumps(document))


@pytest.mark.parametrize("saved", ["files", "files, zarr3"], indirect=True)
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shape": [2**50, 30]}, "is said to be larger than this machine's memory; found"),
        ({"shape": [80, 30]}, "NOT_FOUND"),
        ({"shape": "many"}, "cannot be opened"),
        ({"dtype": "<f8", "data_type": "float64"}, "cannot be"),
        ({"dtype": "|O", "data_type": "python"}, "cannot be opened"),
    ],
)
def test_an_array_that_lies_about_itself(fields, message, saved):
    lie(saved, **fields)
    assert message in unreadable(saved)


def test_chunks_without_bounds(tmp_path):
    save(tmp_path / "x", {"b": {"c": np.ones((4, 6))}}, use_ocdbt=False)
    lie(tmp_path / "x", chunks=[2**45, 6])
    assert "is said to be larger than this machine's memory" in unreadable(tmp_path / "x")


def test_older_checkpoints_left_zeros_out(tmp_path):
    """In a database that is told from a loss; a file that is not there may be either."""
    for name, database in (("database", True), ("files", False)):
        folder = save(tmp_path / name, {"a": np.zeros((40, 30))}, use_ocdbt=database)
        metadata = json.loads((folder / "_METADATA").read_text())
        del metadata["store_array_data_equal_to_fill_value"]
        (folder / "_METADATA").write_text(json.dumps(metadata))
        assert not open_checkpoint(folder).read("a").any()
    (tmp_path / "files" / "a" / "0.0").unlink()
    assert "NOT_FOUND" in unreadable(tmp_path / "files", "a")
