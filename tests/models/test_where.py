"""Places in a model's code, as people read them."""

import pytest

from ckptdbg.models.records import Where


@pytest.fixture
def here(tmp_path, monkeypatch):
    for folder in ("here/models", "elsewhere/decoders/parts", "elsewhere/plain"):
        (tmp_path / folder).mkdir(parents=True)
    for package in ("decoders", "decoders/parts"):
        (tmp_path / "elsewhere" / package / "__init__.py").touch()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


@pytest.mark.parametrize(
    ("file", "shown"),
    [
        ("here/models/llama.py", "models/llama.py:7"),
        ("here/.venv/lib/python3/site-packages/torch/nn/linear.py", "torch/nn/linear.py:7"),
        ("another/dist-packages/flax/nnx/linear.py", "flax/nnx/linear.py:7"),
        ("elsewhere/decoders/parts/mlp.py", "decoders/parts/mlp.py:7"),
    ],
)
def test_no_folder_of_a_machine_is_shown(here, file, shown):
    assert str(Where("", str(here / file), 7)) == shown
    assert str(Where("mlp", str(here / file), 7)) == f"mlp {shown}"


def test_a_file_outside_every_package_is_named_in_full(here):
    assert str(Where("mlp", str(here / "elsewhere/plain/x.py"), 7)) == f"mlp {here}/elsewhere/plain/x.py:7"


def test_what_is_not_known_is_left_out():
    assert str(Where()) == ""
    assert str(Where("mlp")) == "mlp"
    assert str(Where("mlp", "<string>", 1)) == "mlp <string>:1"
    assert str(Where("mlp", "x.py")) == "mlp x.py"
