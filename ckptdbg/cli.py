"""The command line. Every command is thin: it wires rooms together and says how it went by its exit status.

0 equivalent or precision floor, 1 any other verdict, 2 bad input (one line on stderr), 3 the tool itself failed.
"""

from __future__ import annotations

import functools
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ParamSpec

import typer

from ckptdbg.errors import CkptdbgError

if TYPE_CHECKING:
    from ckptdbg.result import Result
    from ckptdbg.session import Session

P = ParamSpec("P")

app = typer.Typer(
    name="ckptdbg",
    help="Finds where, and in which mapping entry, a converted model checkpoint goes wrong.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

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
            _complain(str(error))
            status = 2
        except (typer.Exit, typer.Abort, BrokenPipeError):
            raise
        except Exception as error:
            _complain(f"ckptdbg itself failed: {type(error).__name__}: {error}; {_keep_traceback()}")
            status = 3
        raise typer.Exit(status or 0)

    return run


@app.command()
@guarded
def compare(
    config: Config,
    json: Json = None,
    html: Html = None,
    markdown: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the findings as Markdown.")] = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Write one line per compared site.")] = None,
    source_trace: Annotated[
        Path | None, typer.Option(metavar="TRACE", help="Use this captured trace instead of running the source.")
    ] = None,
    strict: Annotated[bool, typer.Option(help="Exit with 1 on a precision floor too.")] = False,
) -> int:
    """Compare source and target layer by layer and name the mapping entry at fault."""
    from ckptdbg.session import open_session

    with _progress() as progress:
        session = open_session(config)
        result = session.compare(source_trace=source_trace, progress=progress)
    _show(result)
    _write(session, result, json=json, html=html)
    for path, write in ((markdown, result.to_markdown), (csv, result.to_csv)):
        if path is not None:
            _say(f"wrote {write(path)}")
    return exit_status(result, strict=strict)


def exit_status(result: Result, *, strict: bool = False) -> int:
    """0 for ``equivalent`` and, unless ``strict``, for ``precision-floor``; else 1."""
    return 0 if result.verdict == "equivalent" or (result.verdict == "precision-floor" and not strict) else 1


def _write(session: Session, result: Result, *, json: Path | None, html: Path | None) -> None:
    if json is not None:
        _say(f"wrote {result.to_json(json)}")
    if html is not None:
        _say(f"wrote {result.to_html(html, pictures=session.pictures, entries=session.entries)}")


def _show(result: Result) -> None:
    from rich.console import Console

    from ckptdbg.report.terminal import show

    # A pipe has no width of its own, and a reader of a log wants whole lines.
    show(result, Console(width=None if sys.stdout.isatty() else 160, highlight=False))


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Shows the step under way on a terminal, on stderr; silent in a pipe."""
    if not sys.stderr.isatty():
        yield lambda step: None
        return
    from rich.console import Console
    from rich.text import Text

    with Console(stderr=True).status("starting") as status:
        yield lambda step: status.update(Text(step))


def _say(line: str) -> None:
    from ckptdbg.report.names import visible

    typer.echo(visible(line))


def _complain(line: str) -> None:
    from ckptdbg.report.names import visible

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


def main() -> None:
    """The ``ckptdbg`` command."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a sign gets an escape, not a crash.
        getattr(stream, "reconfigure", lambda **_: None)(errors="backslashreplace")
    app()


if __name__ == "__main__":
    main()
