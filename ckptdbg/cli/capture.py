"""`ckptdbg capture`: the source run here, to be compared elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ckptdbg.cli.frame import Config, guarded, progress, say


@guarded
def capture(
    config: Config,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="TRACE", help="The folder to write.")],
    side: Annotated[Literal["source"], typer.Option(help="The model to run: the trusted one.")] = "source",
) -> None:
    """Run the source here and keep what a comparison needs of it, to be compared elsewhere."""
    from ckptdbg.session import open_session

    with progress() as step:
        session = open_session(config)
        session.progress = step
        written = session.capture(out)
    say(f"wrote {written}: compare with `ckptdbg compare CONFIG --source-trace {written}`")
