"""The command line. Every command is thin: it wires rooms together and says how it went by its exit status.

0 equivalent or precision floor, 1 another verdict, 2 bad input (one line on stderr), 3 the tool failed,
130 interrupted."""

from __future__ import annotations

import functools
import math
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, ParamSpec

import typer

from ckptdbg.errors import CkptdbgError

if TYPE_CHECKING:
    from ckptdbg.result import Result
    from ckptdbg.samples.fault import Planted
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
        except KeyboardInterrupt:
            _complain("interrupted; no report was written")
            status = 130
        except Exception as error:
            _complain(f"ckptdbg itself failed: {type(error).__name__}: {error}; {_keep_traceback()}")
            status = 3
        raise typer.Exit(status or 0)

    return run


@app.command()
@guarded
def demo(
    fault: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Plant this fault (again for more, `none` for none).")
    ] = None,
    list_faults: Annotated[bool, typer.Option("--list-faults", help="Say which faults there are, and stop.")] = False,
    pair: Annotated[str | None, typer.Option(metavar="NAME", help="Which sample conversion to break.")] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where everything is written.")] = Path("ckptdbg-demo"),
    json: Json = None,
    html: Html = None,
) -> int:
    """Plant faults in a tiny conversion, find them, and show the report. Exits with 0 when they were found."""
    from ckptdbg.samples.build import DEMO_FAULTS, DEMO_PAIR, build_sample
    from ckptdbg.samples.fault import plan
    from ckptdbg.samples.faults import FAULTS
    from ckptdbg.samples.faults import list_faults as known

    if list_faults:
        for item in known(pair):
            typer.echo(f"{item.name:32}  {item.description}")
        return 0
    pair = pair or DEMO_PAIR
    names = [] if fault == ["none"] else list(fault or DEMO_FAULTS)
    planted = [plan(name, pair, FAULTS) for name in names]
    with _progress() as progress:
        progress("building the sample")
        session, result = _compare(build_sample(out, pair, names), progress)
    for item in planted:
        _say(f"planted: {item.fault.name}: {item.fault.description}")
    _show(result)
    _write(session, result, json=json or out / "report.json", html=html or out / "report.html")
    missed = [item.fault.name for item in planted if not was_found(item, result)]
    if not planted and result.verdict != "equivalent":
        missed = ["a healthy conversion must be equivalent"]
    for name in missed:
        _complain(f"the demo did not end as planted: {name}")
    return 1 if missed else 0


def was_found(planted: Planted, result: Result) -> bool:
    """Whether a finding says what was planted: an entry at fault by name, else that definition or precision differs."""
    if planted.fault.effect == "rounding":
        return result.verdict == "precision-floor"
    findings = [finding for finding in result.findings if finding.effect == planted.fault.effect]
    named = {entry.name for finding in findings for entry in finding.entries}
    if planted.fault.kind == "definition":
        return any(finding.cause == "model" for finding in findings)
    return not named.isdisjoint(planted.entries())


@app.command()
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
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 on a precision floor too.")] = False,
) -> int:
    """Compare source and target layer by layer and name the mapping entry at fault."""
    with _progress() as progress:
        session, result = _compare(config, progress, source_trace)
    _show(result)
    _write(session, result, json=json, html=html)
    for path, write in ((markdown, result.to_markdown), (csv, result.to_csv)):
        if path is not None:
            _say(f"wrote {write(path)}")
    if fix is not None:
        written = session.diagnosis.write(fix)
        _say(f"wrote {written}" if written else "no verified repair of the mapping: nothing to write")
    return exit_status(result, strict=strict)


@app.command()
@guarded
def capture(
    config: Config,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="TRACE", help="The folder to write.")],
    side: Annotated[Literal["source"], typer.Option(help="The model to run: the trusted one.")] = "source",
) -> None:
    """Run the source here and keep what a comparison needs of it, to be compared elsewhere."""
    from ckptdbg.session import open_session

    with _progress() as progress:
        session = open_session(config)
        session.progress = progress
        written = session.capture(out)
    _say(f"wrote {written}: compare with `ckptdbg compare CONFIG --source-trace {written}`")


@app.command()
@guarded
def inspect(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A file or folder with named tensors.")],
    stats: Annotated[bool, typer.Option("--stats", help="Read every tensor: mean, std, min, max, non-finite.")] = False,
    context: Annotated[bool, typer.Option("--context", help="Show the config that lies beside it.")] = False,
) -> None:
    """List the tensors of a checkpoint: name, shape, dtype."""
    from ckptdbg.checkpoint import describe, open_checkpoint
    from ckptdbg.report.names import number

    opened = open_checkpoint(checkpoint)
    if context:
        for key, value in (opened.config or {}).items():
            _say(f"{key}: {value}")
        typer.echo()
    width = max((len(name) for name in opened.specs), default=0)
    for row in describe(opened, stats=stats):
        shape = "x".join(map(str, row["shape"])) or "scalar"
        line = f"{row['name']:{width}}  {shape:>16}  {row['dtype']:10}"
        if stats:
            figures = (f"{key} {number(row[key]):>10}" for key in ("mean", "std", "min", "max"))
            line += f"{'  '.join(figures)}  nonfinite {row['nonfinite']}"
        _say(line.rstrip())
    total = sum(math.prod(spec.shape) for spec in opened.specs.values())
    _say(f"{len(opened.specs)} tensors, {total:,} elements")


@app.command()
@guarded
def logits(
    config: Config,
    greedy: Annotated[int, typer.Option(metavar="N", min=0, help="Decode N more tokens with both models.")] = 0,
) -> None:
    """Run both models and compare their logits only."""
    import numpy as np

    from ckptdbg.compare.logits import compare_greedy, compare_logits, decoder, tips
    from ckptdbg.report.terminal import logits_lines
    from ckptdbg.session import open_session

    with _progress() as progress:
        session = open_session(config)
        session.progress = progress
        sides, inputs = (session.source.side, session.target.side), session.inputs
        ids = inputs["input_ids"].astype(np.int64)
        ours, theirs = (decoder(side, inputs, 0)(ids) for side in sides)
        mask = inputs.get("attention_mask")
        figures = compare_logits(ours, theirs, mask=None if mask is None else mask != 0)
        if greedy:
            runs = [decoder(side, inputs, greedy) for side in sides]
            decoded = figures.greedy = compare_greedy(runs[0], runs[1], ids, greedy)
            # Ids as words: loops show in them, whatever the tokenizer.
            said = [[" ".join(map(str, row)) for row in rows] for rows in (decoded.source, decoded.target)]
            figures.tips = tips(said[0], said[1])
    for line in logits_lines(figures):
        _say(line)


def _compare(config: Path, progress: Callable[[str], None], source_trace: Path | None = None) -> tuple[Session, Result]:
    from ckptdbg.session import open_session

    session = open_session(config, source_trace=source_trace)
    return session, session.compare(progress=progress)


def exit_status(result: Result, *, strict: bool = False) -> int:
    """0 for ``equivalent`` and, unless ``strict``, for ``precision-floor``; else 1."""
    return 0 if result.verdict == "equivalent" or (result.verdict == "precision-floor" and not strict) else 1


def _write(session: Session, result: Result, *, json: Path | None, html: Path | None) -> None:
    from ckptdbg.report.entries import entry_views
    from ckptdbg.report.pictures import pictures_of

    if json is not None:
        _say(f"wrote {result.to_json(json)}")
    if html is not None:
        entries = entry_views(result, session.mapping)
        _say(f"wrote {result.to_html(html, pictures=pictures_of(session.comparison, result), entries=entries)}")


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


def _complain(text: str) -> None:
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


def main() -> None:
    """The ``ckptdbg`` command."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a sign gets an escape, not a crash.
        getattr(stream, "reconfigure", lambda **_: None)(errors="backslashreplace")
    app()


if __name__ == "__main__":
    main()
