"""A sample with its sketch."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from sketch_helpers import PAIR

from ckptdbg.samples.build import build_sample
from ckptdbg.session import open_session


@pytest.fixture(scope="session")
def sketched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config of a healthy sample, with ``sketch`` beside it."""
    config = build_sample(tmp_path_factory.mktemp("sketched"), PAIR)
    open_session(config).capture(config.parent / "sketch", sketch=True)
    return config


@pytest.fixture
def sample(sketched: Path, tmp_path: Path) -> Path:
    """A copy of it that may be spoilt."""
    return Path(shutil.copytree(sketched.parent, tmp_path / "sample")) / sketched.name
