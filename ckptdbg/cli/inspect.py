"""`ckptdbg inspect`: what is in a checkpoint."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from ckptdbg.cli.frame import guarded, say


@guarded
def inspect(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A file or folder with named tensors.")],
    stats: Annotated[bool, typer.Option("--stats", help="Read every tensor: mean, std, min, max, non-finite.")] = False,
    config: Annotated[bool, typer.Option("--config", help="Show the config that lies beside it.")] = False,
    context: Annotated[bool, typer.Option("--context", help="Names and shapes alone, as a JSON context file.")] = False,
) -> None:
    """List the tensors of a checkpoint: name, shape, dtype."""
    from ckptdbg.checkpoint import describe, open_checkpoint
    from ckptdbg.checkpoint.context_file import context_text
    from ckptdbg.report.names import number

    opened = open_checkpoint(checkpoint)
    if context:
        typer.echo(context_text(opened.specs), nl=False)
        return
    if config:
        for key, value in (opened.config or {}).items():
            say(f"{key}: {value}")
        typer.echo()
    width = max((len(name) for name in opened.specs), default=0)
    for row in describe(opened, stats=stats):
        shape = "x".join(map(str, row["shape"])) or "scalar"
        line = f"{row['name']:{width}}  {shape:>16}  {row['dtype']:10}"
        if stats:
            figures = (f"{key} {number(row[key]):>10}" for key in ("mean", "std", "min", "max"))
            line += f"{'  '.join(figures)}  nonfinite {row['nonfinite']}"
        note = opened.notes.get(row["name"])
        say(f"{line.rstrip()}  ({note})" if note else line.rstrip())
    total = sum(math.prod(spec.shape) for spec in opened.specs.values())
    say(f"{len(opened.specs)} tensors, {total:,} elements")
    for reason in dict.fromkeys(opened.left_out.values()):
        names = [name for name, why in opened.left_out.items() if why == reason]
        say(f"left out, {reason}: {', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}")
