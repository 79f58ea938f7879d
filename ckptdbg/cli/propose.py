"""`ckptdbg mapping propose`: a mapping from names and shapes, and what is left to choose."""

from __future__ import annotations

import json as json_format
from pathlib import Path
from typing import Annotated

import typer

from ckptdbg.cli.frame import guarded, progress, say


@guarded
def propose(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="A checkpoint or context file; or CONFIG, without TARGET.")
    ],
    target: Annotated[Path | None, typer.Argument(metavar="TARGET", help="A checkpoint or context file.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write the mapping here.")] = None,
    json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the plan as JSON.")] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="The source's config.json, where none lies beside it."),
    ] = None,
) -> int:
    """Propose a mapping from names, shapes and the source's config, and list the choices that are left.

    Exits with 1 where some parameter of either side is not paired.
    """
    from ckptdbg.checkpoint import open_checkpoint
    from ckptdbg.checkpoint.huggingface import read_json
    from ckptdbg.mapping.proposal import propose as proposed
    from ckptdbg.report.files import write_new
    from ckptdbg.report.proposal import lines, plan_data

    with progress() as step:
        step("pairing names and shapes")
        assert target is not None
        a, b = open_checkpoint(source), open_checkpoint(target)
        found = proposed(a.specs, b.specs, read_json(config) if config is not None else a.config or {})
    for line in lines(found):
        say(line)
    if json is not None:
        say(f"wrote {write_new(json, json_format.dumps(plan_data(found), indent=2))}")
    if out is not None:
        say(f"wrote {write_new(out, found.mapping.text)}")
    return 0 if found.complete else 1
