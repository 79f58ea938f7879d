"""Which format a folder has is told by what is in it; where it cannot be told, by what was found."""

import subprocess
import sys
import warnings

import numpy as np
import orbax.checkpoint as ocp
import pytest
import torch
import torch.distributed.checkpoint as dcp
from format_helpers import fails

from ckptdbg.checkpoint import open_checkpoint, write_safetensors
from ckptdbg.checkpoint.folders import find_config
from ckptdbg.models.loaders.load import config_beside


def save_dcp(folder, value=1.0):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        dcp.save({"w": torch.full((2, 3), value)}, checkpoint_id=folder, no_dist=True)


def test_torchtitans_steps(tmp_path):
    save_dcp(tmp_path / "run" / "step-500", 5)
    assert open_checkpoint(tmp_path / "run").read("w")[0, 0] == 5
    save_dcp(tmp_path / "run" / "step-1000", 10)
    assert open_checkpoint(tmp_path / "run" / "step-1000").read("w")[0, 0] == 10
    fails(tmp_path / "run", f"found step-500, step-1000; name one: {tmp_path}/run/step-1000")


def test_a_step_of_several_trees(tmp_path):
    for name in ("params", "other"):
        ocp.PyTreeCheckpointer().save(tmp_path / "3" / name, {"w": np.ones(2)})
    fails(tmp_path, f"there are 2 checkpoints in this folder; found 3/other, 3/params; name one: {tmp_path}/3/params")
    ocp.PyTreeCheckpointer().save(tmp_path / "3" / "items", {"model": np.ones(2)})
    assert list(open_checkpoint(tmp_path).specs) == ["model"]


def test_a_hugging_face_folder_stays_one(tmp_path):
    save_dcp(tmp_path)
    write_safetensors(tmp_path / "model.safetensors", [("mine", np.ones(2))])
    (tmp_path / "config.json").write_text("{}")
    assert list(open_checkpoint(tmp_path).specs) == ["mine"]
    (tmp_path / "checkpoint-5").mkdir()
    write_safetensors(tmp_path / "checkpoint-5" / "model.safetensors", [("mine", np.ones(2))])
    assert find_config(tmp_path / "checkpoint-5") is None


def test_what_was_found_is_said(tmp_path):
    (tmp_path / "notes.txt").touch()
    (tmp_path / "old").mkdir()
    fails(
        tmp_path, "no tensors in this directory; found notes.txt, old/; expected *.safetensors or one of model.safete"
    )
    fails(tmp_path, "; .metadata of torch's DCP; _METADATA of Orbax")


def test_the_config_of_a_step_is_a_loaders_too(tmp_path):
    save_dcp(tmp_path / "run" / "step-7")
    assert config_beside(tmp_path / "run") is None
    (tmp_path / "run" / "config.json").write_text('{"layers": 4}')
    for path in (tmp_path / "run", tmp_path / "run" / "step-7"):
        assert config_beside(path) == open_checkpoint(path).config == {"layers": 4}
    (tmp_path / "run" / "step-7" / "config.json").write_text('{"layers": 5}')
    assert open_checkpoint(tmp_path / "run").config == {"layers": 5}


@pytest.mark.parametrize(
    ("module", "name", "extra"),
    [
        ("torch", "x", "torch"),
        ("tensorstore", "y", "orbax"),
        ("msgpack", "z.msgpack", "msgpack"),
        ("gguf", "z.gguf", "gguf"),
    ],
)
def test_what_is_to_be_installed_is_said(module, name, extra, tmp_path):
    save_dcp(tmp_path / "x")
    ocp.PyTreeCheckpointer().save(tmp_path / "y", {"w": np.ones(2)})
    for file in ("z.msgpack", "z.gguf"):
        (tmp_path / file).write_bytes(b"GGUF")
    code = f"import sys; sys.modules[{module!r}] = None\nfrom ckptdbg.checkpoint import open_checkpoint\n"
    code += f"open_checkpoint({str(tmp_path / name)!r}).read('w')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"needs {module}" in (said := done.stderr.splitlines()[-1])
    assert said.endswith(f"pip install 'ckptdbg[{extra}]'")


def test_reading_needs_no_framework(tmp_path):
    """Orbax without JAX, the names of a DCP without torch."""
    save_dcp(tmp_path / "x")
    ocp.PyTreeCheckpointer().save(tmp_path / "y", {"w": np.ones(2)})
    code = "import sys\nfrom ckptdbg.checkpoint import open_checkpoint\n"
    code += (
        f"print(open_checkpoint({str(tmp_path / 'x')!r}).specs, open_checkpoint({str(tmp_path / 'y')!r}).read('w'))\n"
    )
    code += "assert not {'torch', 'jax', 'orbax', 'flax'} & {name.split('.')[0] for name in sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
