"""What an installed ckptdbg brings along."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder that the wheel of this checkout unpacks into."""
    folder = tmp_path_factory.mktemp("wheel")
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


@pytest.fixture(scope="module")
def inside(installed):
    return {str(path.relative_to(installed)) for path in installed.rglob("*")}


def shipped(folder: str) -> set[str]:
    files = (path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {f"ckptdbg/{path.relative_to(ROOT)}" for path in files}


@pytest.mark.parametrize("folder", ["notebooks", "sample_configs"])
def test_the_wheel_has_them_where_an_installed_package_looks(inside, folder):
    assert shipped(folder) - inside == set()
    assert len(shipped(folder)) > 5


def test_the_wheel_has_the_widgets_with_their_scripts_and_styles(inside):
    assert {f"ckptdbg_widgets/divergence_map.{kind}" for kind in ("py", "js", "css")} <= inside


def test_an_installed_package_opens_its_own_notebook_and_sample(installed, tmp_path):
    code = """
import sys
from pathlib import Path
from ckptdbg.cli.open import notebooks, place_notebook
from ckptdbg.samples.pairs import sample_configs
print(notebooks(), sample_configs(), place_notebook(None, Path())[0])
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=True,
    )
    package = installed / "ckptdbg"
    assert done.stdout.split() == [str(package / "notebooks"), str(package / "sample_configs"), "debug.ipynb"]
