"""`ckptdbg verify`: a conversion checked on its weights alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from ckptdbg.cli.frame import Config, Json, guarded, progress, say

if TYPE_CHECKING:
    from ckptdbg.result import EntryRef
    from ckptdbg.weights.checkpoints import Tensors
    from ckptdbg.weights.records import TensorReport, Verification


@guarded
def verify(
    config: Config,
    json: Json = None,
    load: Annotated[
        bool, typer.Option("--load", help="Take the target's tensors from the loaded model: for formats of its own.")
    ] = False,
) -> int:
    """Check every tensor of an existing conversion against what the mapping makes of the source. Nothing is run."""
    from ckptdbg.config import load_config
    from ckptdbg.obtain import obtain_mapping, open_named
    from ckptdbg.report.files import write_text
    from ckptdbg.weights.checkpoints import open_side
    from ckptdbg.weights.verify import verify as check

    read = load_config(config)
    with progress() as step:
        source = open_side(read.source, "source", read.file)
        target = _loaded(config) if load else open_side(read.target, "target", read.file)
        mapping = obtain_mapping(read, source.specs, source.read, source.config or {}, lambda: target)
        source = open_named(read, "source", mapping)
        target = target if load else open_named(read, "target", mapping)
        found = check(mapping, source, target, step)
    for line in _lines(found):
        say(line)
    if json is not None:
        say(f"wrote {write_text(json, found.model_dump_json(by_alias=True, indent=2))}")
    return 0 if found.good else 1


def _loaded(config: Config) -> Tensors:
    from ckptdbg.session import open_session
    from ckptdbg.weights.checkpoints import Tensors

    session = open_session(config)
    target = session.target
    return Tensors(target.specs, target.read, target.config, f"{session.config.target.loader}, loaded")


def _lines(found: Verification) -> Iterator[str]:
    for report in found.differing:
        yield from _differing(report)
    for missing in found.missing:
        yield f"missing  {missing.tensor}: the mapping makes it and the target lacks it"
        yield f"         entry  {_suspect(missing.entry)}"
    yield from (f"extra    {name}: no entry makes it" for name in found.extra)
    counts = {status: sum(r.status == status for r in found.tensors) for status in ("equal", "rounded", "differs")}
    told = [f"{counts['equal']} equal", f"{counts['rounded']} rounded to their dtype", f"{counts['differs']} differ"]
    told += [f"{len(found.missing)} missing"] if found.missing else []
    told += [f"{len(found.extra)} extra"] if found.extra else []
    yield f"{len(found.tensors) + len(found.missing)} tensors: {', '.join(told)}"


def _differing(report: TensorReport) -> Iterator[str]:
    from ckptdbg.report.names import number

    yield f"differs  {report.tensor}: {report.how}"
    yield f"         entry  {_suspect(report.entry)}"
    if report.worst is not None:
        worst = report.worst
        place = ", ".join(map(str, worst.index))
        made = f", made from {worst.origin}" if worst.origin else ""
        yield f"         worst  [{place}] is {number(worst.found, 6)}, due {number(worst.expected, 6)}{made}"


def _suspect(entry: EntryRef) -> str:
    from ckptdbg.report.words import suspect

    return suspect(entry)
