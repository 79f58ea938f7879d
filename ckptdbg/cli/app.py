"""The command line: which commands there are."""

from __future__ import annotations

import sys

import typer

from ckptdbg.cli import capture, compare, convert, demo, inspect, logits, mapping, step, verify
from ckptdbg.cli.open import open_notebook

app = typer.Typer(
    name="ckptdbg",
    help="Finds where, and in which mapping entry, a converted model checkpoint goes wrong.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

# In the order in which `--help` lists them.
for command in (
    demo.demo,
    compare.compare,
    step.step,
    capture.capture,
    inspect.inspect,
    logits.logits,
    verify.verify,
    convert.convert,
):
    app.command()(command)
app.add_typer(mapping.app, name="mapping")
app.command("open", context_settings={"ignore_unknown_options": True})(open_notebook)


def main() -> None:
    """The ``ckptdbg`` command."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a sign gets an escape, not a crash.
        getattr(stream, "reconfigure", lambda **_: None)(errors="backslashreplace")
    app()
