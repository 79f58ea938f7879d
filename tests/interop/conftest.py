"""Comparisons with libraries that no one here wrote. They need environments of their own: ``make test-interop``.

Elsewhere nothing in this folder is collected; there, nothing is skipped.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ckptdbg.models.loaders.function import importable

HERE = Path(__file__).parent
collect_ignore_glob = [] if "CKPTDBG_LEVANTER" in os.environ else ["test_*.py"]

with importable(HERE):
    from table import Table

# Not ours to change: each is raised while one of the libraries is imported or used.
THIRD_PARTY_WARNINGS = (
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.interop)
            for warning in THIRD_PARTY_WARNINGS:
                item.add_marker(pytest.mark.filterwarnings(warning))


@pytest.fixture(scope="session")
def table() -> Iterator[Table]:
    """What was compared; written into docs/interop.md where CKPTDBG_INTEROP_DOC names it."""
    table = Table()
    yield table
    if page := os.environ.get("CKPTDBG_INTEROP_DOC"):
        table.write_into(Path(page))
