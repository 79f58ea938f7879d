"""`ckptdbg mapping check`: a mapping looked over before anything is converted or run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ckptdbg.cli.frame import Json, guarded, progress, say

if TYPE_CHECKING:
    from ckptdbg.mapping.check import Checked, Remark


@guarded
def check(
    mapping: Annotated[
        Path, typer.Argument(metavar="MAPPING|CONFIG", help="A mapping file, or a config that names one.")
    ],
    source: Annotated[
        Path | None, typer.Option(metavar="CHECKPOINT", help="With a mapping file: what it converts from.")
    ] = None,
    target: Annotated[
        Path | None, typer.Option(metavar="CHECKPOINT", help="With a mapping file: what it converts to.")
    ] = None,
    models: Annotated[
        bool,
        typer.Option("--models", help="With a config: load and run both models too, for what only they can tell."),
    ] = False,
    json: Json = None,
) -> int:
    """Look over a mapping without reading weights: tensors left out or made twice, shapes, mixed axes, orders, ranges,
    what has no way back, and what no such look can tell.

    Exits with 1 where something in it cannot be right; what is only odd is a note.
    """
    from ckptdbg.report.files import write_text

    if not _is_config(mapping):
        found = _of_mapping(mapping, source, target, models)
    else:
        found = _of_config(mapping, source, target, models)
    for remark in found.remarks:
        _say(remark)
    notes = len(found.remarks) - len(found.errors)
    if not models:
        say("not known without the models: rotary order, scale of the scores, what each norm adds (--models asks them)")
    say(f"{found.entries} entries: {_counted(len(found.errors), 'error')}, {_counted(notes, 'note')}")
    if json is not None:
        say(f"wrote {write_text(json, found.model_dump_json(by_alias=True, indent=2))}")
    return 1 if found.errors else 0


def _is_config(file: Path) -> bool:
    """A config says where a mapping is; a mapping has entries."""
    from ckptdbg.documents import parse_yaml, read_text
    from ckptdbg.errors import MappingError

    document = parse_yaml(read_text(file, MappingError), str(file), MappingError)
    if "entries" not in document and "mapping" not in document:
        expected = "entries: [...] (a mapping) or mapping: ... (a config)"
        raise MappingError("neither a mapping nor a config", where=f"{file}:1", expected=expected)
    return "entries" not in document


def _of_mapping(file: Path, source: Path | None, target: Path | None, models: bool) -> Checked:
    from ckptdbg.checkpoint import open_checkpoint
    from ckptdbg.errors import ConfigError
    from ckptdbg.mapping import Mapping
    from ckptdbg.mapping.check import check_mapping

    if source is None or target is None or models:
        expected = "a config: it says how models are loaded" if models else "--source CHECKPOINT --target CHECKPOINT"
        raise ConfigError("a mapping file alone is not enough", where=str(file), expected=expected)
    read, a, b = Mapping.load(file), open_checkpoint(source), open_checkpoint(target)
    with progress() as step:
        step("looking over the mapping")
        names = (str(source), str(target))
        return check_mapping(read, a.config or b.config or {}, a.specs, b.specs, (), names)


def _of_config(file: Path, source: Path | None, target: Path | None, models: bool) -> Checked:
    from ckptdbg.config import load_config
    from ckptdbg.errors import ConfigError
    from ckptdbg.mapping.check import check_mapping
    from ckptdbg.obtain import obtain_mapping
    from ckptdbg.weights.checkpoints import open_side

    if source is not None or target is not None:
        raise ConfigError(
            "a config names both checkpoints itself", where=str(file), hint="leave out --source, --target"
        )
    config = load_config(file)
    if models:
        return _of_models(file)
    with progress() as step:
        a, b = open_side(config.source, "source", config.file), open_side(config.target, "target", config.file)
        step("looking over the mapping")
        mapping = obtain_mapping(config, a.specs, a.read, a.config or {}, lambda: b)
        return check_mapping(mapping, a.config or b.config or {}, a.specs, b.specs, (), (a.where, b.where))


def _of_models(file: Path) -> Checked:
    """The same with what both models say, where the mapping can be bound at all."""
    from ckptdbg.cli.check_models import ask_models
    from ckptdbg.mapping.check import check_mapping
    from ckptdbg.mapping.check.subject import alike
    from ckptdbg.session import open_session

    session = open_session(file)
    with progress() as step:
        session.progress = step
        target, names = session.target.specs, ("the loaded source", "the loaded target")
        subject = session.unbound_mapping, session.model_config, session.source_specs, target
        found = check_mapping(*subject, names=names)
        if found.errors:
            return found
        step("asking the models")
        return check_mapping(*subject, more=alike(ask_models(session)), names=names)


def _say(remark: Remark) -> None:
    entry = f"entry {remark.entry}: " if remark.entry else ""
    say(f"{remark.level:5}  {remark.topic:10} {remark.where}: {entry}{remark.found}")
    if remark.advice:
        say(f"       {'':10} {remark.advice}")


def _counted(count: int, what: str) -> str:
    return f"{count or 'no'} {what}{'' if count == 1 else 's'}"
