"""`ckptdbg mapping ...`: where a mapping comes from, and what it is worth."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ckptdbg.cli import propose
from ckptdbg.cli.check import check
from ckptdbg.cli.frame import Config, guarded, progress, say

if TYPE_CHECKING:
    from ckptdbg.config import Config as ReadConfig
    from ckptdbg.obtain import Named

app = typer.Typer(help="Where a mapping comes from, and whether two do the same.", no_args_is_help=True)
app.command("check")(check)
app.command("propose")(propose.propose)


Out = Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write the mapping here.")]


def _give(text: str, out: Path | None) -> None:
    """A mapping, on standard output or as a new file."""
    from ckptdbg.report.files import write_new

    if out is None:
        typer.echo(text, nl=False)
    else:
        say(f"wrote {write_new(out, text)}")


@app.command("trace")
@guarded
def trace(
    config: Config,
    out: Out = None,
) -> int:
    """Run the conversion that CONFIG names (a function, or another library's) on probes, and write what it does as a
    mapping file.

    Exits with 1 where some tensor is made in a way that no op says: such a tensor is left to the function.
    """
    from ckptdbg.config import load_config
    from ckptdbg.errors import ConfigError
    from ckptdbg.obtain import obtain_mapping, trace_asked
    from ckptdbg.weights.checkpoints import open_side

    read = load_config(config)
    if isinstance(read.mapping, dict) and "maxtext_plan" in read.mapping:
        source = open_side(read.source, "source", read.file)
        target = partial(_tensors_of_target, read)
        _give(obtain_mapping(read, source.specs, source.read, source.config or {}, target).text, out)
        return 0
    if not isinstance(read.mapping, dict) or "recover" in read.mapping:
        expected = "mapping: {trace: convert.py:name}, {torchtitan: ...}, {maxtext: ...} or {transformers: true}"
        raise ConfigError("the mapping is no function", where=str(config), expected=expected)
    with progress() as step:
        source = open_side(read.source, "source", read.file)
        step("tracing the conversion")
        target = partial(_tensors_of_target, read)
        traced = trace_asked(read, source.specs, source.read, source.config or {}, target)
    _give(traced.mapping.text, out)
    for left in traced.untraced:
        where = "made by function    " if left.sources else "not in the mapping  "
        typer.echo(f"{where}{left.target}: {left.reason}", err=True)
    for name in traced.inexact:
        typer.echo(f"last bits differ    {name}: its arithmetic is not one of the mapping's", err=True)
    counted = len(traced.specs) - sum(not left.sources for left in traced.untraced)
    typer.echo(f"{counted} of {len(traced.specs)} tensors in {len(traced.mapping.entries)} entries", err=True)
    if "trace" in read.mapping and any(left.sources for left in traced.untraced):
        function = read.mapping["trace"]
        typer.echo(f"to use the file, say so in the config: mapping: {{file: FILE, trace: {function}}}", err=True)
    return 1 if traced.untraced else 0


def _tensors_of_target(config: ReadConfig) -> Named:
    """Those of its checkpoint, else of the model that its loader makes."""
    from ckptdbg.session import open_session
    from ckptdbg.weights.checkpoints import open_side

    if config.target.path is not None:
        return open_side(config.target, "target", config.file)
    return open_session(config).empty_target


@app.command("recover")
@guarded
def recover(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="The checkpoint that was converted from.")],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="What it was converted to.")],
    out: Out = None,
) -> int:
    """Tell from the values alone which source tensors made each target tensor, and how, and write it as a mapping file.

    Exits with 1 where some tensor, or some element of one, comes from nowhere.
    """
    from ckptdbg.checkpoint import open_checkpoint
    from ckptdbg.mapping.recovery import recover as explain

    a, b = open_checkpoint(source), open_checkpoint(target)
    with progress() as step:
        found = explain(a.specs, a.read_apart, b.specs, b.read_apart, a.config or {}, step)
    _give(found.mapping.text, out)
    for left in found.unexplained:
        where = "" if left.at is None else f" (the first at {list(left.at)})"
        typer.echo(f"unexplained  {left.target}: {left.wrong} of {left.size} elements{where}: {left.reason}", err=True)
    for line in found.odd:
        typer.echo(f"odd          {line}", err=True)
    for line in found.mixed:
        typer.echo(f"mixed        {line}: right only where the target reads them so", err=True)
    for name in found.ambiguous:
        typer.echo(
            f"ambiguous    {name}: several source tensors hold its values; the one with the likest name", err=True
        )
    explained = len(b.specs) - sum(left.wrong == left.size for left in found.unexplained)
    typer.echo(f"{explained} of {len(b.specs)} tensors in {len(found.mapping.entries)} entries", err=True)
    return 1 if found.unexplained else 0


@app.command("diff")
@guarded
def diff(
    first: Annotated[str, typer.Argument(metavar="A", help="A mapping file, or file.py:function.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Another.")],
    source: Annotated[Path, typer.Option(metavar="CHECKPOINT", help="The source: its names, shapes and config.")],
    target: Annotated[
        Path | None, typer.Option(metavar="CHECKPOINT", help="The target's names and shapes, for mapping files.")
    ] = None,
) -> int:
    """Say whether two mappings compute the same thing, tensor by tensor, however they are written.

    Exits with 1 where they do not. No weights are read: both are run on probes, or, where the tensors are large and
    both are mapping files, compared as patterns of indices.
    """
    from ckptdbg.checkpoint import open_checkpoint
    from ckptdbg.judging import judged
    from ckptdbg.mapping.judge import MEANING

    opened = open_checkpoint(source)
    made = None if target is None else open_checkpoint(target).specs
    with progress() as step:
        step("comparing what both make")
        found = judged((first, second), opened.specs, opened.config or {}, made)
    for item in found.differing:
        say(f"{item.same:8} {item.target}: {MEANING[item.same]}{f' ({item.detail})' if item.detail else ''}")
    score = ", ".join(f"{share:.1%} {what} right" for what, share in found.score.items())
    say(f"{len(found.targets) - len(found.differing)} of {len(found.targets)} tensors are the same; {score}")
    return 1 if found.differing else 0
