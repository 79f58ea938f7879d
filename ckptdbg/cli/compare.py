"""`ckptdbg compare`: both models, layer by layer, and the reports that are asked for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ckptdbg.cli.frame import Config, Html, Json, guarded, progress, say

if TYPE_CHECKING:
    from ckptdbg.result import Result
    from ckptdbg.session import Session


@guarded
def compare(
    config: Config,
    json: Json = None,
    html: Html = None,
    markdown: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the findings as Markdown.")] = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Write one line per compared site.")] = None,
    source_trace: Annotated[
        Path | None,
        typer.Option(metavar="TRACE", help="Take the source from what `capture` wrote; it is not run here."),
    ] = None,
    fix: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the mapping with all verified repairs to a new file.")
    ] = None,
    coverage: Annotated[
        bool, typer.Option("--coverage", help="Say how small a change of each parameter would have been seen.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 on a precision floor too.")] = False,
) -> int:
    """Compare source and target layer by layer and name the mapping entry at fault."""
    from ckptdbg.golden.store import is_sketch

    if fix is not None:
        _check_free(fix)
    sketched = source_trace is not None and is_sketch(source_trace)
    if sketched and (fix is not None or coverage):
        raise _takes_values("--fix" if fix is not None else "--coverage", source_trace)
    with progress() as step:
        session, result = run(config, step, source_trace)
        if coverage:
            result = session.with_coverage(result)
    with shown(result) as done:
        write_reports(session, result, done, json=json, html=html, sketched=sketched)
        for path, write in ((markdown, result.to_markdown), (csv, result.to_csv)):
            if path is not None:
                done.append(f"wrote {write(path)}")
        if fix is not None:
            written = session.diagnosis.write(fix)
            done.append(f"wrote {written}" if written else "no verified repair of the mapping: nothing to write")
    return exit_status(result, strict=strict)


def _check_free(path: Path) -> None:
    """Said before the models run, not after."""
    from ckptdbg.errors import MappingError

    if path.exists():
        raise MappingError("there is a file here already", where=str(path), hint="name a new one")


def _takes_values(option: str, trace: Path | None) -> Exception:
    from ckptdbg.errors import HarnessError

    expected = "a trace that `ckptdbg capture` wrote without --sketch, or the source itself"
    return HarnessError(f"{option} takes values of the source", where=str(trace), found="a sketch", expected=expected)


def run(config: Path, progress: Callable[[str], None], source_trace: Path | None = None) -> tuple[Session, Result]:
    """What a config describes, opened and compared."""
    from ckptdbg.session import open_session

    session = open_session(config, source_trace=source_trace)
    return session, session.compare(progress=progress)


def exit_status(result: Result, *, strict: bool = False) -> int:
    """0 for ``equivalent`` and, unless ``strict``, for ``precision-floor``; else 1."""
    return 0 if result.verdict == "equivalent" or (result.verdict == "precision-floor" and not strict) else 1


def write_reports(
    session: Session, result: Result, done: list[str], *, json: Path | None, html: Path | None, sketched: bool = False
) -> None:
    """The result as JSON, and as a page with its pictures, where asked for; ``done`` is told. A sketch has no values to
    draw."""
    from ckptdbg.report.entries import entry_views
    from ckptdbg.report.pictures import pictures_of

    if json is not None:
        done.append(f"wrote {result.to_json(json)}")
    if html is not None:
        entries = entry_views(result, session.mapping)
        pictures = None if sketched else pictures_of(session.comparison, result)
        done.append(f"wrote {result.to_html(html, pictures=pictures, entries=entries)}")


@contextmanager
def shown(result: Result, ahead: Sequence[str] = ()) -> Iterator[list[str]]:
    """Files are written in here and put on the list; then the lines ``ahead`` and the result are shown, and what was
    written is said. Who reads the first lines only (``| head``) loses no file, and a file that cannot be written loses
    no result."""
    done: list[str] = []
    try:
        yield done
    finally:
        for line in ahead:
            say(line)
        show(result)
        for line in done:
            say(line)


def show(result: Result) -> None:
    """The result for a terminal, on stdout."""
    from rich.console import Console

    from ckptdbg.report import terminal

    # A pipe has no width of its own, and a reader of a log wants whole lines.
    terminal.show(result, Console(width=None if sys.stdout.isatty() else 160, highlight=False))
