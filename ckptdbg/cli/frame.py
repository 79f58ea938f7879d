"""What every command has in common: its exit status, the step under way, and how it speaks."""

from __future__ import annotations

import functools
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, ParamSpec

import typer

from ckptdbg.errors import CkptdbgError

P = ParamSpec("P")

Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="The YAML file that names source, target and mapping.")]
Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the result as JSON.")]
Html = Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a self-contained report.")]


def guarded(command: Callable[P, int | None]) -> Callable[P, None]:
    """Turn what a command returns or raises into an exit status and at most one line on stderr."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            status = command(*args, **kwargs)
        except CkptdbgError as error:
            complain(str(error))
            status = 2
        except (typer.Exit, typer.Abort, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            complain("interrupted; no report was written")
            status = 130
        except Exception as error:
            complain(f"ckptdbg itself failed: {type(error).__name__}: {error}; {_keep_traceback()}")
            status = 3
        raise typer.Exit(status or 0)

    return run


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """Shows the step under way on a terminal, on stderr; silent in a pipe."""
    if not sys.stderr.isatty():
        yield lambda step: None
        return
    from rich.console import Console
    from rich.text import Text

    with Console(stderr=True).status("starting") as status:
        yield lambda step: status.update(Text(step))


def say(line: str) -> None:
    """One line on stdout."""
    from ckptdbg.report.names import visible

    typer.echo(visible(line))


def complain(text: str) -> None:
    """One line on stderr."""
    from ckptdbg.report.names import visible

    # Some errors list what they found in lines of their own.
    line = re.sub(r"(:?)[ \t]*[\r\n]\s*", lambda end: ": " if end[1] else "; ", text.strip())
    typer.echo(f"ckptdbg: {visible(line)}", err=True)


def _keep_traceback() -> str:
    """Store the traceback of the exception being handled; the text says where it is."""
    if os.environ.get("CKPTDBG_DEBUG"):
        traceback.print_exc()
        return "the traceback is above"
    with tempfile.NamedTemporaryFile(
        "w", prefix="ckptdbg-", suffix=".log", delete=False, encoding="utf-8", errors="backslashreplace"
    ) as file:
        file.write(traceback.format_exc())
    return f"the traceback is in {file.name} (CKPTDBG_DEBUG=1 shows it here)"
