"""`ckptdbg capture`: the source run here, to be compared elsewhere; or statistics of either model on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ckptdbg.cli.frame import Config, guarded, progress, say
from ckptdbg.errors import CkptdbgError


@guarded
def capture(
    config: Config,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="TRACE", help="The folder to write.")] = None,
    side: Annotated[
        Literal["source", "target"], typer.Option(help="The model to run; a trace is of the trusted one.")
    ] = "source",
    stats: Annotated[
        bool, typer.Option("--stats", help="Keep no values: print mean, std, min, max and non-finite of every site.")
    ] = False,
    sketch: Annotated[
        bool, typer.Option("--sketch", help="Write random projections in place of values: small enough for git.")
    ] = False,
    groups: Annotated[
        int, typer.Option(metavar="N", min=1, help="With --sketch: into how many groups token rows go at most.")
    ] = 32,
) -> None:
    """Run the source here and keep what a comparison needs of it, to be compared elsewhere or later."""
    from ckptdbg.session import open_session

    if stats == (out is not None):
        raise CkptdbgError(
            "a capture either writes a trace or prints statistics",
            found="both" if stats else "neither",
            expected="-o TRACE or --stats",
        )
    if sketch and out is None:
        raise CkptdbgError("a sketch is written", found="--stats", expected="-o TRACE")
    if out is not None and side == "target":
        raise CkptdbgError("a trace is of the source", found="--side target", hint="--stats shows either side")
    with progress() as step:
        session = open_session(config)
        session.progress = step
        if out is not None:
            written = session.capture(out, sketch=sketch, groups=groups)
            found = f"wrote {written}: compare with `ckptdbg compare CONFIG --source-trace {written}`"
        else:
            found = str(getattr(session, side).side.statistics(session.inputs))
    for line in found.splitlines():
        say(line)
