"""`ckptdbg open`: the debug notebook, filled in for one config, in JupyterLab."""

from __future__ import annotations

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from ckptdbg.cli.frame import guarded, say
from ckptdbg.errors import CkptdbgError

NOTEBOOK = "debug.ipynb"
NEEDED = ("jupyterlab", "ipywidgets", "anywidget")


@guarded
def open_notebook(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CONFIG",
            help="The YAML file that names source, target and mapping; without one a tiny faulty conversion is made. "
            "Options that are not ckptdbg's go to JupyterLab: --no-browser, --port 8890, --allow-root.",
        ),
    ] = None,
    folder: Annotated[
        Path, typer.Option(metavar="DIR", help="Where the notebook is put; one that is there already is kept.")
    ] = Path(),
) -> None:
    """Open the debug notebook in JupyterLab, filled in for this config."""
    given = list(arguments or ())
    config = Path(given.pop(0)) if given and not given[0].startswith("-") else None
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise CkptdbgError(
            "JupyterLab and the widgets are not installed here",
            found=f"no {', '.join(missing)}",
            hint='pip install "ckptdbg[notebook]"',
        )
    path, fresh = place_notebook(config, folder)
    say(f"{'wrote' if fresh else 'opening again'} {path}")
    # A kernel of this environment, whatever kernels the user has besides.
    environment = {"JUPYTER_PREFER_ENV_PATH": "1"} | dict(os.environ)
    # The address that JupyterLab prints, for a browser elsewhere, is then the notebook's own.
    where = [f"--ServerApp.root_dir={path.parent.resolve()}", f"--LabApp.default_url=/lab/tree/{quote(path.name)}"]
    sys.stdout.flush()
    # In place of this process: an interrupt, and the question whether to stop, are JupyterLab's alone.
    os.execve(sys.executable, [sys.executable, "-m", "jupyterlab", *where, *given], environment)


def notebooks() -> Path:
    """The folder ``notebooks``: inside an installed package, else at the root of the checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "notebooks"
    return installed if installed.is_dir() else package.parent / "notebooks"


def place_notebook(config: Path | None, folder: Path) -> tuple[Path, bool]:
    """The debug notebook for ``config`` in ``folder``, and whether it was written just now.

    A file that is there is never changed: it is opened again where it is for this config, else the copy takes the next
    free name. Raises CkptdbgError where ``config`` is no file or the folder cannot be made.
    """
    if config is not None and not config.is_file():
        raise CkptdbgError("no such config", where=str(config), expected="a YAML file; `ckptdbg demo` makes one")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CkptdbgError("the folder cannot be made", where=str(folder), found=error.strerror) from error
    parameters = f"config = {_from(config, folder)!r}"
    number = 1
    while (path := folder / (NOTEBOOK if number == 1 else f"debug-{number}.ipynb")).exists():
        if _parameters_in(path) == parameters:
            return path, False
        number += 1
    path.write_text(_filled(notebooks() / NOTEBOOK, parameters), encoding="utf-8")
    return path, True


def _from(config: Path | None, folder: Path) -> str | None:
    """How the notebook names the config: below its own folder from there, so that both can be moved together."""
    if config is None:
        return None
    config, folder = config.resolve(), folder.resolve()
    return str(config.relative_to(folder) if config.is_relative_to(folder) else config)


def _filled(template: Path, parameters: str) -> str:
    """The notebook with these parameters and without the outputs of another run."""
    notebook = json.loads(template.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell |= {"outputs": [], "execution_count": None}
        if _is_parameters(cell):
            cell["source"] = parameters
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def _parameters_in(path: Path) -> str | None:
    """What stands in the parameters cell of a notebook; None where there is none, or no notebook."""
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        return next(("".join(cell["source"]) for cell in cells if _is_parameters(cell)), None)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _is_parameters(cell: dict[str, Any]) -> bool:
    # The tag by which papermill and others know it.
    return "parameters" in cell.get("metadata", {}).get("tags", ())
