"""`ckptdbg open`: which notebook it puts where, and what it asks of JupyterLab."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ckptdbg import cli
from ckptdbg.cli import open as command
from ckptdbg.cli.open import notebooks, place_notebook
from ckptdbg.errors import CkptdbgError


@pytest.fixture
def config(tmp_path):
    file = tmp_path / "work" / "configs" / "llama.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("")
    return file


def code(path: Path) -> list[str]:
    cells = json.loads(path.read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def test_the_notebook_is_filled_in_and_has_no_outputs_of_another_run(tmp_path, config):
    path, fresh = place_notebook(config, tmp_path / "work")
    assert (path.name, fresh) == ("debug.ipynb", True)
    assert code(path)[0] == "config = 'configs/llama.yaml'"
    assert code(path)[1:] == code(notebooks() / "debug.ipynb")[1:]
    cells = json.loads(path.read_text())["cells"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells if cell["cell_type"] == "code")


def test_a_config_elsewhere_is_named_in_full(tmp_path, config):
    path, _ = place_notebook(config, tmp_path / "notes")
    assert code(path)[0] == f"config = {str(config)!r}"


def test_without_a_config_the_notebook_makes_the_sample(tmp_path):
    path, _ = place_notebook(None, tmp_path)
    assert code(path)[0] == "config = None"


def test_what_is_there_is_opened_again_and_never_changed(tmp_path, config):
    path, _ = place_notebook(config, tmp_path / "work")
    edited = path.read_text().replace("Debug a conversion", "My notes")
    path.write_text(edited)
    assert place_notebook(config, tmp_path / "work") == (path, False)
    assert path.read_text() == edited


@pytest.mark.parametrize("there", ["no notebook", "[]", '{"cells": [{}]}', '{"cells": ["x"]}', b"\xff\xfe"])
def test_another_file_of_that_name_stays(tmp_path, config, there):
    (tmp_path / "debug.ipynb").write_bytes(there if isinstance(there, bytes) else there.encode())
    before = (tmp_path / "debug.ipynb").read_bytes()
    path, fresh = place_notebook(config, tmp_path)
    assert (path.name, fresh) == ("debug-2.ipynb", True)
    assert (tmp_path / "debug.ipynb").read_bytes() == before


def test_another_config_gets_a_notebook_of_its_own(tmp_path, config):
    place_notebook(None, tmp_path)
    assert place_notebook(config, tmp_path)[0].name == "debug-2.ipynb"
    assert place_notebook(None, tmp_path)[0].name == "debug.ipynb"


def test_a_folder_that_is_a_file_is_one_line(tmp_path):
    (tmp_path / "there").write_text("mine")
    with pytest.raises(CkptdbgError, match="the folder cannot be made"):
        place_notebook(None, tmp_path / "there")


def test_a_missing_config_is_one_line(tmp_path):
    with pytest.raises(CkptdbgError, match=r"nowhere\.yaml: no such config; expected a YAML file"):
        place_notebook(tmp_path / "nowhere.yaml", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def started(monkeypatch):
    """What would take the place of this process."""
    calls = []
    monkeypatch.setattr(os, "execve", lambda *call: calls.append(call))
    return calls


def run(*arguments):
    return CliRunner().invoke(cli.app, ["open", *map(str, arguments)])


def test_options_that_are_not_ours_go_to_jupyterlab(tmp_path, config, started, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run(config, "--no-browser", "--port", "8890")
    assert done.exit_code == 0, done.output
    assert done.output == "wrote debug.ipynb\n"
    (program, arguments, environment) = started[0]
    assert program == sys.executable
    assert arguments[1:3] == ["-m", "jupyterlab"]
    assert arguments[-3:] == ["--no-browser", "--port", "8890"]
    assert f"--ServerApp.root_dir={tmp_path}" in arguments
    assert environment["JUPYTER_PREFER_ENV_PATH"] == "1"


def test_options_alone_open_the_sample_in_a_folder(tmp_path, started):
    assert run("--no-browser", "--folder", tmp_path / "new").exit_code == 0
    assert started[0][1][-1] == "--no-browser"
    assert code(tmp_path / "new" / "debug.ipynb")[0] == "config = None"


def test_without_the_extra_it_says_what_to_install(tmp_path, config, started, monkeypatch):
    monkeypatch.setattr(command, "find_spec", lambda name: None if name == "anywidget" else object())
    monkeypatch.chdir(tmp_path)
    done = run(config)
    assert done.exit_code == 2
    assert done.stderr == (
        "ckptdbg: JupyterLab and the widgets are not installed here; found no anywidget; "
        'pip install "ckptdbg[notebook]"\n'
    )
    assert not started
    assert not Path("debug.ipynb").exists()
