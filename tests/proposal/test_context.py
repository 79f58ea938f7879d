"""Context files: names and shapes without values, read and written."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from ckptdbg.checkpoint import open_checkpoint, write_safetensors
from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.cli.app import app
from ckptdbg.errors import CheckpointError


def test_inspect_writes_what_is_read_again(tmp_path):
    write_safetensors(tmp_path / "x.safetensors", [("a.b", np.zeros((2, 3), np.float16)), ("c", np.zeros(()))])
    done = CliRunner().invoke(app, ["inspect", str(tmp_path / "x.safetensors"), "--context"])
    assert json.loads(done.output) == {"a.b": [2, 3], "c": []}
    (tmp_path / "x.json").write_text(done.output)
    opened = open_checkpoint(tmp_path / "x.json")
    assert opened.specs == {"a.b": TensorSpec((2, 3), "float32"), "c": TensorSpec((), "float32")}
    with pytest.raises(CheckpointError, match=r"a\.b has no values: a context file holds names and shapes; give the"):
        opened.read("a.b")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": [2, -3]}', "no shape under a; found [2, -3]; expected a flat object, name to shape"),
        ('{"a": {"b": [2]}}', "no shape under a; found {'b': [2]}"),
        ('{"a": [true]}', "no shape under a; found [True]"),
        ("[1]", "not a JSON object; found list"),
        ("{", "not valid JSON"),
    ],
)
def test_what_is_no_context_file_is_said(tmp_path, text, said):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(CheckpointError) as error:
        open_checkpoint(tmp_path / "x.json")
    assert said in str(error.value)


def test_the_config_has_a_flag_of_its_own(tmp_path):
    write_safetensors(tmp_path / "model.safetensors", [("a", np.zeros(2))])
    (tmp_path / "config.json").write_text('{"hidden_size": 7}')
    assert "hidden_size: 7" in CliRunner().invoke(app, ["inspect", str(tmp_path), "--config"]).output
