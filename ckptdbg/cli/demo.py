"""`ckptdbg demo`: faults planted in a tiny conversion, found and shown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ckptdbg.cli.compare import run, shown, write_reports
from ckptdbg.cli.frame import Html, Json, complain, guarded, progress

if TYPE_CHECKING:
    from ckptdbg.result import Result
    from ckptdbg.samples.fault import Planted


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
    with progress() as step:
        step("building the sample")
        session, result = run(build_sample(out, pair, names), step)
    ahead = [f"planted: {item.fault.name}: {item.fault.description}" for item in planted]
    with shown(result, ahead) as done:
        write_reports(session, result, done, json=json or out / "report.json", html=html or out / "report.html")
    missed = [item.fault.name for item in planted if not was_found(item, result)]
    if not planted and result.verdict != "equivalent":
        missed = ["a healthy conversion must be equivalent"]
    for name in missed:
        complain(f"the demo did not end as planted: {name}")
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
