"""`ckptdbg step`: the debugger's verbs at a prompt, or from a pipe."""

from __future__ import annotations

import cmd
import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ckptdbg.cli.frame import Config, complain, guarded, progress
from ckptdbg.errors import CkptdbgError

if TYPE_CHECKING:
    from ckptdbg.session import Session
    from ckptdbg.stepping.edits import At
    from ckptdbg.stepping.stepper import Stepper

_SHORT = {"s": "step", "n": "next", "b": "back", "c": "continue", "w": "where", "q": "quit", "h": "help"}
_INTRO = "The models are run with the first command; `help` lists the commands, an empty line repeats the last."


@guarded
def step(
    config: Config,
    source_trace: Annotated[
        Path | None,
        typer.Option(metavar="TRACE", help="Take the source from what `capture` wrote; it is not run here."),
    ] = None,
) -> int:
    """Step through both models side by side: where they part, what is there, what would mend it."""
    from ckptdbg.session import open_session

    prompt = Prompt(open_session(config, source_trace=source_trace))
    prompt.loop()
    return prompt.status


class Prompt(cmd.Cmd):
    """Reads commands and prints what the verbs return.

    ``status`` is 2 where input that is not typed by hand held a command that failed: a pipe has nobody to see it.
    """

    prompt = "(ckptdbg) "

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session
        self._by_hand = sys.stdin.isatty()
        self.use_rawinput = self._by_hand
        self.intro = _INTRO if self._by_hand else None
        self.status = 0
        if not self._by_hand:
            self.prompt = ""

    def loop(self) -> None:
        """Until the input ends. An interrupt while a line is typed begins a new line."""
        while True:
            try:
                return self.cmdloop()
            except KeyboardInterrupt:
                if not self._by_hand:
                    raise
                typer.echo()
                self.intro = None

    @property
    def stepper(self) -> Stepper:
        return self._session.stepper

    def precmd(self, line: str) -> str:
        """Short names."""
        word, _, rest = line.strip().partition(" ")
        return f"{_SHORT.get(word, word)} {rest}".strip()

    def onecmd(self, line: str) -> bool:
        """One command; what goes wrong in it is said, and the prompt goes on."""
        try:
            return bool(super().onecmd(line))
        except CkptdbgError as error:
            complain(str(error))
            self.status = self.status if self._by_hand else 2
        except KeyboardInterrupt:
            complain("interrupted; what was finished before is kept")
        return False

    def default(self, line: str) -> None:
        raise CkptdbgError(f"no command {line.split()[0]}", hint="`help` lists the commands")

    def do_step(self, _: str) -> None:
        """step (s): to the next site"""
        self._say(self.stepper.step)

    def do_next(self, _: str) -> None:
        """next (n): to the next layer"""
        self._say(self.stepper.next)

    def do_back(self, _: str) -> None:
        """back (b): to the site before"""
        self._say(self.stepper.back)

    def do_continue(self, _: str) -> None:
        """continue (c): to the next divergence, else to the output"""
        self._say(self.stepper.continue_)

    def do_where(self, _: str) -> None:
        """where (w): layer, site, entry, code on both sides, region"""
        self._say(self.stepper.where)

    def do_goto(self, rest: str) -> None:
        """goto N: to the site of this number"""
        last = len(self.stepper.stops)
        if not rest.isdecimal() or not 1 <= int(rest) <= last:
            raise CkptdbgError("not a site's number", found=rest or "nothing", expected=f"goto 1 to goto {last}")
        self._say(lambda: self.stepper.goto(int(rest) - 1))

    def do_show(self, rest: str) -> None:
        """show [alone]: statistics and differences here; alone: on the source's own values"""
        self._say(lambda: self.stepper.show(alone=_word(rest, "alone")))

    def do_plant(self, rest: str) -> None:
        """plant [layers]: put the source's values in here (layers: here in every layer) and run on"""
        self._say(lambda: self.stepper.plant(layers=_word(rest, "layers")))

    def do_findings(self, _: str) -> None:
        """findings: what `ckptdbg compare` finds, numbered"""
        self._say(lambda: _findings(self._session))

    def do_try(self, rest: str) -> None:
        """try N: the repair of finding N
        try ENTRY OPS: other ops for an entry, such as try attention.query [{scale: 2}]
        try ENTRY first OPS, try ENTRY last OPS: these before, or behind, the ones it has"""
        if rest.isdecimal():
            self._say(lambda: self.stepper.try_(int(rest)))
            return
        found = re.fullmatch(r"(\S+)\s+(?:(first|last)\s+)?(.+)", rest)
        if found is None:
            raise CkptdbgError(
                "what to try is missing", expected="try N, or try ENTRY OPS", hint="`help` shows the forms"
            )
        entry, at, ops = found.groups()
        place: At = "first" if at == "first" else "last" if at == "last" else "all"
        self._say(lambda: self.stepper.try_(entry, ops, place))

    def do_apply(self, _: str) -> None:
        """apply: go on under what was tried last"""
        self._say(self.stepper.apply)

    def do_undo(self, _: str) -> None:
        """undo: take back the last repair that was applied"""
        self._say(self.stepper.undo)

    def do_write(self, rest: str) -> None:
        """write FILE: the mapping with all applied repairs, as a new file"""
        if not rest:
            raise CkptdbgError("write needs the name of a new file", expected="write FILE")
        self._say(lambda: f"wrote {self.stepper.write(rest)}")

    def do_help(self, _: str) -> None:
        """help (h): this list"""
        verbs = [verb for name, verb in vars(Prompt).items() if name.startswith("do_") and name != "do_EOF"]
        typer.echo("\n".join(inspect.cleandoc(verb.__doc__) for verb in verbs))

    def do_quit(self, _: str) -> bool:
        """quit (q): leave"""
        return True

    def do_EOF(self, _: str) -> bool:
        """the end of the input leaves too"""
        return True

    def _say(self, verb: Callable[[], Any]) -> None:
        with progress() as show:
            self._session.progress = show
            try:
                said = verb()
            finally:
                self._session.progress = lambda _: None
        typer.echo(str(said))


def _word(rest: str, word: str) -> bool:
    """Whether the one word that may follow a command does."""
    if rest not in ("", word):
        raise CkptdbgError("an unknown word", found=rest, expected=f"{word}, or nothing")
    return bool(rest)


def _findings(session: Session) -> str:
    from ckptdbg.report.changes import in_one_line
    from ckptdbg.report.names import visible
    from ckptdbg.report.words import title

    found = session.stepper.findings
    lines = [
        f"{i}. {title(f)}: {visible(in_one_line(f.repair)) if f.repair else 'no repair'}"
        for i, f in enumerate(found, 1)
    ]
    return "\n".join(lines) or "nothing was found"
