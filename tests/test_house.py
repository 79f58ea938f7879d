"""The rooms of the house: who may import whom, and what must not be imported at all."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ckptdbg

ROOT = Path(ckptdbg.__file__).parent
FRAMEWORKS = {"torch", "jax", "jaxlib", "flax", "transformers", "orbax"}
HEAVY = FRAMEWORKS | {"pandas", "matplotlib"}
# Data flows from left to right: a room imports from the rooms before it.
LINE = [
    {"result", "errors", "documents"},
    {"config"},
    {"checkpoint"},
    {"mapping"},
    {"models"},
    {"compare"},
    {"diagnose"},
    {"golden"},
    {"weights"},
    {"report"},
]
# These wire the rooms together. The probe makes inputs from a config; samples are built from configs and mappings;
# proposers settle a proposed mapping by running sessions.
WIRING = {
    "obtain",
    "judging",
    "sides",
    "session",
    "sketching",
    "stepping",
    "repair",
    "api",
    "cli",
    "samples",
    "probe",
    "proposers",
}
RANK = {room: rank for rank, rooms in enumerate(LINE) for room in rooms}


def imports(tree: ast.AST, top_only: bool = False) -> list[tuple[str, int]]:
    """Modules imported (absolute names) and their lines. Under ``TYPE_CHECKING`` nothing is imported."""
    found = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [(f"{node.module}.{alias.name}", node.lineno) for alias in node.names]
        elif not (top_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
            found += imports(node, top_only)
    return found


def room_of(path: Path) -> str:
    relative = path.relative_to(ROOT)
    return relative.parts[0].removesuffix(".py")


def out_of_line(room: str, tree: ast.AST) -> list[str]:
    """Imports of a module in ``room`` that go against the line."""
    wrong = []
    for name, line in imports(tree, top_only=True):
        parts = name.split(".")
        if parts[0] != "ckptdbg" or len(parts) < 2 or parts[1] == room or room in WIRING:
            continue
        if parts[1] in WIRING or RANK[parts[1]] > RANK[room] or (RANK[parts[1]] == RANK[room] and RANK[room] > 0):
            wrong.append(f"line {line}: {room} imports {name}")
    return wrong


def sources() -> list[Path]:
    return sorted(path for path in ROOT.rglob("*.py") if path.name != "__init__.py" or path.parent != ROOT)


def known_rooms() -> set[str]:
    return set(RANK) | WIRING


def test_every_file_is_in_a_known_room():
    assert {room_of(path) for path in sources()} <= known_rooms()


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    assert out_of_line(room_of(path), ast.parse(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("mapping", "from ckptdbg.models.records import Side"),
        ("compare", "from ckptdbg.diagnose import find"),
        ("models", "import ckptdbg.session"),
        ("checkpoint", "if True:\n    from ckptdbg import mapping"),
        ("errors", "from ckptdbg.report.names import visible"),
    ],
)
def test_an_import_against_the_line_is_seen(room, line):
    assert out_of_line(room, ast.parse(line))


def frameworks_at(room: str, tree: ast.AST) -> list[str]:
    return [name for name, _ in imports(tree) if name.split(".")[0] in FRAMEWORKS and room in RANK]


def test_frameworks_are_imported_by_models_and_checkpoint_formats_only():
    allowed = {"models", "checkpoint"}
    wrong = {
        str(path.relative_to(ROOT)): found
        for path in sources()
        if room_of(path) not in allowed
        and (found := frameworks_at(room_of(path), ast.parse(path.read_text(encoding="utf-8"))))
    }
    assert wrong == {}


def test_a_framework_in_the_wrong_room_is_seen():
    assert frameworks_at("compare", ast.parse("def f():\n    import torch")) == ["torch"]
    assert frameworks_at("report", ast.parse("from jax.numpy import array")) == ["jax.numpy.array"]


def imported_by(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter has after ``statement``."""
    code = f"{statement}\nimport sys; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import ckptdbg",
        "import ckptdbg.cli",
        "import ckptdbg.session",
        "from ckptdbg import Result, Mapping, JaxModel, CkptdbgError",
        "import ckptdbg.report.html, ckptdbg.report.markdown, ckptdbg.report.table, ckptdbg.report.terminal",
    ],
)
def test_importing_is_light(statement):
    assert imported_by(statement) & HEAVY == set()


def test_a_heavy_import_is_seen():
    assert "pandas" in imported_by("import ckptdbg.report.table, pandas") & HEAVY


def test_every_public_name_resolves_and_an_unknown_one_does_not():
    for name in ckptdbg.__all__:
        assert getattr(ckptdbg, name) is not None
        assert name in dir(ckptdbg)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ckptdbg.nothing
