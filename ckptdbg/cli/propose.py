"""`ckptdbg mapping propose`: a mapping from names and shapes, and what is left to choose."""

from __future__ import annotations

import json as json_format
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ckptdbg.cli.frame import guarded, progress, say

if TYPE_CHECKING:
    from ckptdbg.mapping.proposal import Proposal
    from ckptdbg.proposers.decide import Decided

Step = Callable[[str], None]


@guarded
def propose(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="A checkpoint or context file; or CONFIG, without TARGET.")
    ],
    target: Annotated[Path | None, typer.Argument(metavar="[TARGET]", help="A checkpoint or context file.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write the mapping here.")] = None,
    json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the plan as JSON.")] = None,
    run: Annotated[bool, typer.Option("--run", help="With CONFIG: settle the choices by running both models.")] = False,
    like: Annotated[
        Path | None, typer.Option(metavar="PLAN", help="Settle choices as in this plan, written with --json.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The source's config.json, where none lies beside it.")
    ] = None,
    llm: Annotated[
        str | None,
        typer.Option(metavar="KIND", help="Ask a language model instead: openai (any such endpoint), google."),
    ] = None,
    llm_model: Annotated[str | None, typer.Option(metavar="NAME", help="Which language model.")] = None,
    chained: Annotated[bool, typer.Option("--chained", help="Ask it for the pairs first, then for the file.")] = False,
) -> int:
    """Propose a mapping from names, shapes and the source's config, and list the choices that are left.

    CONFIG is a config as for `compare`, with or without a mapping. Exits with 1 where some parameter of either side is
    not paired or, with --run, where the models are not equivalent in the end.
    """
    from ckptdbg.report.proposal import decided_lines, lines

    _check_free(out, json)
    if llm is not None:
        return _by_language_model(source, target, config, llm, llm_model, chained, run, out)
    with progress() as step:
        found, decided = _proposed(source, target, config, like, run, step)
    for line in lines(found) if decided is None else decided_lines(decided):
        say(line)
    _write(found, decided, out, json)
    if decided is not None:
        return 0 if found.complete and decided.result.verdict == "equivalent" else 1
    return 0 if found.complete else 1


def _check_free(*paths: Path | None) -> None:
    """Said before anything runs."""
    from ckptdbg.errors import CkptdbgError

    for path in paths:
        if path is not None and path.exists():
            raise CkptdbgError("there is a file here already", where=str(path), hint="name a new one")


def _proposed(
    source: Path, target: Path | None, config: Path | None, like: Path | None, run: bool, step: Step
) -> tuple[Proposal, Decided | None]:
    from ckptdbg.mapping.proposal.settled import read_plan, settled_like

    plan = None if like is None else read_plan(like)
    if target is None:
        return _of_config(source, plan, run, step)
    found = _of_checkpoints(source, target, config, run)
    if plan is not None:
        found, left = settled_like(found, plan)
        for name in left:
            say(f"not settled by {like}: {name}")
    return found, None


def _of_checkpoints(source: Path, target: Path, config: Path | None, run: bool) -> Proposal:
    from ckptdbg.checkpoint import open_checkpoint
    from ckptdbg.checkpoint.huggingface import read_json
    from ckptdbg.errors import ConfigError
    from ckptdbg.mapping.proposal import propose as proposed

    if run:
        hint = "give one CONFIG that says how both models are loaded"
        raise ConfigError("two checkpoints alone cannot be run", where=f"{source} {target}", hint=hint)
    a, b = open_checkpoint(source), open_checkpoint(target)
    return proposed(a.specs, b.specs, read_json(config) if config is not None else a.config or {})


def _of_config(file: Path, plan: dict[str, str] | None, run: bool, step: Step) -> tuple[Proposal, Decided | None]:
    from ckptdbg.config import load_config
    from ckptdbg.errors import ConfigError
    from ckptdbg.mapping.proposal.settled import settled_like
    from ckptdbg.proposers.decide import decide, propose_for
    from ckptdbg.session import Session

    if file.is_dir() or file.suffix not in (".yaml", ".yml"):
        raise ConfigError("one argument is a config", where=str(file), expected="CONFIG, or SOURCE and TARGET")
    session = Session(load_config(file, mapping={"propose": True}), progress=step)
    found = propose_for(session)
    if plan is not None:
        found, _ = settled_like(found, plan)
    return (found, None) if not run else _both(decide(session, found))


def _both(decided: Decided) -> tuple[Proposal, Decided]:
    return decided.proposal, decided


def _write(found: Proposal, decided: Decided | None, out: Path | None, json: Path | None) -> None:
    from ckptdbg.proposers.decide import with_notes
    from ckptdbg.report.files import write_new
    from ckptdbg.report.proposal import plan_data

    data: dict[str, Any] = plan_data(found, decided)
    if json is not None:
        say(f"wrote {write_new(json, json_format.dumps(data, indent=2) + chr(10))}")
    if out is not None:
        say(f"wrote {write_new(out, found.mapping.text if decided is None else with_notes(decided))}")


def _by_language_model(
    source: Path,
    target: Path | None,
    config: Path | None,
    kind: str,
    model: str | None,
    chained: bool,
    run: bool,
    out: Path | None,
) -> int:
    """A mapping that a language model wrote and that binds, beside the one from names and shapes."""
    from ckptdbg.errors import ConfigError
    from ckptdbg.mapping.grids import judge_bound
    from ckptdbg.proposers.llm import CLIENTS, ask_for_mapping
    from ckptdbg.report.files import write_new

    if kind not in CLIENTS:
        raise ConfigError("unknown kind of language model", found=repr(kind), expected=" or ".join(CLIENTS))
    if target is None or run:
        hint = "compare the mapping that it gives afterwards: `ckptdbg compare CONFIG`"
        raise ConfigError("a language model is given SOURCE and TARGET", hint=hint)
    chat = CLIENTS[kind](model)
    with progress() as step:
        found = _of_checkpoints(source, target, config, run=False)
        step("asking the language model")
        mapping = ask_for_mapping(chat, found.source, found.target, found.config, chained)
    bound = mapping.bind(found.config, found.source, found.target)
    judged = judge_bound(found.bound(), bound)
    for item in judged.differing:
        detail = f" ({item.detail})" if item.detail else ""
        say(f"{item.same:8} {item.target}: otherwise than by names and shapes{detail}")
    left = sorted(set(found.source) - set(bound.entries_of_source) - set(found.left_out))
    for name in left:
        say(f"nobody uses  {name}")
    same = len(judged.targets) - len(judged.differing)
    say(f"it binds; {same} of {len(judged.targets)} tensors are made as by names and shapes")
    if out is not None:
        say(f"wrote {write_new(out, mapping.text)}")
    return 1 if left else 0
