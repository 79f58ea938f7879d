"""`ckptdbg mapping ...`: where a mapping comes from, and what it is worth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ckptdbg.cli.frame import Config, guarded, progress, say

app = typer.Typer(help="Write a mapping file from a conversion function.", no_args_is_help=True)


@app.command("trace")
@guarded
def trace(
    config: Config,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write the mapping here.")] = None,
) -> int:
    """Run the conversion function that CONFIG names on probes, and write what it does as a mapping file.

    Exits with 1 where some tensor is made in a way that no mapping file says.
    """
    from ckptdbg.config import load_config
    from ckptdbg.errors import ConfigError
    from ckptdbg.obtain import trace_config
    from ckptdbg.report.files import write_new
    from ckptdbg.weights.checkpoints import open_side

    read = load_config(config)
    if not isinstance(read.mapping, dict) or "trace" not in read.mapping:
        raise ConfigError("the mapping is no function", where=str(config), expected="mapping: {trace: convert.py:name}")
    with progress() as step:
        source = open_side(read.source, "source", read.file)
        step("tracing the conversion")
        traced = trace_config(read, source.specs, source.read, source.config or {})
    if out is None:
        typer.echo(traced.mapping.text, nl=False)
    else:
        say(f"wrote {write_new(out, traced.mapping.text)}")
    for left in traced.untraced:
        typer.echo(f"not in the mapping  {left.target}: {left.reason}", err=True)
    for name in traced.inexact:
        typer.echo(f"last bits differ    {name}: its arithmetic is not one of the mapping's", err=True)
    counted = len(traced.specs) - len(traced.untraced)
    typer.echo(f"{counted} of {len(traced.specs)} tensors in {len(traced.mapping.entries)} entries", err=True)
    return 1 if traced.untraced else 0
