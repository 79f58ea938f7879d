"""Trying repairs: candidates with their ratio before and after, ops of one's own, and what to do with them.

The panel knows no session. It calls what was given to ``on_try`` and the others on a thread of its own, so that the
notebook stays usable and "stop" is heard while they work.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import traitlets

from ckptdbg.errors import CkptdbgError
from ckptdbg.report.names import number, visible
from ckptdbg.result import Result
from ckptdbg_widgets.mapped import finding_of, told
from ckptdbg_widgets.modules import module, styles
from ckptdbg_widgets.panel import Panel, shared

PLACES = ("all", "first", "last")
Try = Callable[[int | str, str, str], "Tried"]
"""``(finding number or entry name, ops as YAML, "all" | "first" | "last")``; ops are empty for a finding's repair."""


class Stopped(Exception):
    """Raised by ``TryIt.step`` once "stop" was pressed."""


@dataclass(frozen=True)
class Tried:
    """What a try-out gave."""

    before: float | None
    """Ratio at the output before the repair."""
    after: float | None
    mended: bool
    """Whether nothing diverges any more."""
    lines: tuple[str, ...] = ()
    """More to say, a line each."""


class TryIt(Panel):
    """Candidate repairs of a result and a field for ops of one's own.

    ``busy`` is True while a callback works, ``progress`` is ``{"text": str, "share": float | None}``, ``interrupt``
    becomes True when "stop" is pressed: long work calls ``step`` (a ``Session.progress``), which then raises
    ``Stopped``. ``applied`` counts the repairs in force, ``tried`` is the last try-out, ``message`` the last word.
    """

    kind = "try_it"
    sheets = ("shared/findings", kind)
    _esm = module(kind)
    _css = styles(*sheets)
    data = shared(traitlets.Dict())
    busy = shared(traitlets.Bool(False))
    progress = shared(traitlets.Dict())
    interrupt = shared(traitlets.Bool(False))
    tried = shared(traitlets.Dict(None, allow_none=True))
    applied = shared(traitlets.Int(0))
    message = shared(traitlets.Dict(None, allow_none=True))
    entry = shared(traitlets.Unicode(None, allow_none=True))
    can = shared(traitlets.List())

    def __init__(self, result: Result, entries: list[str] | None = None) -> None:
        """``entries`` are the names to choose from for ops of one's own; those of the findings come first."""
        self._calls: dict[str, Callable[..., Any]] = {}
        self._thread: threading.Thread | None = None
        self._names: dict[str, str] = {}
        data = self._data(result, entries or [])
        super().__init__(data=data, entry=next(iter(data["entries"]), None), tried=None, message=None, progress={})
        self.on_msg(self._heard)

    def show(self, result: Result, entries: list[str] | None = None) -> None:
        """Show the candidates of another result."""
        self.data = self._data(result, entries or list(self._names.values()))

    def on_try(self, call: Try) -> None:
        """``call(what, ops, at)`` runs a repair and returns ``Tried``; an error it raises is shown."""
        self._on("try", call)

    def on_apply(self, call: Callable[[], Any]) -> None:
        """``call()`` puts what was tried last in force."""
        self._on("apply", call)

    def on_undo(self, call: Callable[[], Any]) -> None:
        """``call()`` takes the last applied repair back."""
        self._on("undo", call)

    def on_write(self, call: Callable[[str], Any]) -> None:
        """``call(path)`` writes the mapping; what it returns is shown as the place."""
        self._on("write", call)

    def step(self, text: str, share: float | None = None) -> None:
        """Say what is under way (``share`` of it done, 0 to 1). Raises ``Stopped`` where "stop" was pressed."""
        if self.interrupt:
            raise Stopped
        self.progress = {"text": visible(text), "share": share}

    def wait(self, seconds: float | None = None) -> None:
        """Wait for the work under way: for scripts and tests."""
        if self._thread is not None:
            self._thread.join(seconds)

    def plain(self) -> str:
        """The candidates and what the last try-out gave."""
        lines = [_candidate(finding) for finding in self.data["findings"]] or ["no repair was found"]
        if self.tried:
            lines.append(f"tried {self.tried['what']}: ratio {self.tried['before']} -> {self.tried['after']}")
        return "\n".join([*lines, f"applied: {self.applied}"])

    def _data(self, result: Result, entries: list[str]) -> dict[str, Any]:
        findings = [finding_of(finding, result) for finding in result.findings]
        named = [entry.name for finding in result.findings for entry in finding.entries]
        # The browser gets names that print, and sends them back.
        self._names = {visible(name): name for name in [*named, *entries]}
        return {
            "findings": [finding for finding in findings if finding["repair"]],
            "without": [finding["title"] for finding in findings if not finding["repair"]],
            "entries": list(self._names),
        }

    def _on(self, verb: str, call: Callable[..., Any]) -> None:
        self._calls[verb] = call
        self.can = [*dict.fromkeys([*self.can, verb])]

    def _heard(self, _: Any, content: dict[str, Any], __: Any) -> None:
        verb = content.get("verb")
        if verb not in self._calls or self.busy:
            return
        self.busy, self.interrupt, self.message = True, False, None
        self.progress = {"text": "starting", "share": None}
        self._thread = threading.Thread(target=self._work, args=(verb, content), daemon=True)
        self._thread.start()

    def _work(self, verb: str, content: dict[str, Any]) -> None:
        try:
            self._say("done", getattr(self, f"_{verb}")(content))
        except Stopped:
            self._say("stopped", "stopped: nothing was changed")
        except CkptdbgError as error:
            self._say("failed", str(error))
        except Exception as error:  # a thread has nobody to raise to
            self._say("failed", f"{type(error).__name__}: {error}")
        finally:
            self.progress, self.busy, self.interrupt = {}, False, False

    def _try(self, content: dict[str, Any]) -> str:
        what, ops, at = content["what"], str(content.get("ops") or ""), content.get("at", "all")
        what = int(what) if isinstance(what, int | float) else self._names.get(str(what), str(what))
        found = self._calls["try"](what, ops, at if at in PLACES else "all")
        self.tried = {
            "what": f"finding {what}" if isinstance(what, int) else visible(what),
            "before": number(found.before),
            "after": number(found.after),
            "mended": found.mended,
            "lines": [visible(line) for line in found.lines],
        }
        return "mended" if found.mended else "tried: something still diverges"

    def _apply(self, _: dict[str, Any]) -> str:
        self._calls["apply"]()
        self.applied, self.tried = self.applied + 1, None
        return "applied"

    def _undo(self, _: dict[str, Any]) -> str:
        self._calls["undo"]()
        self.applied = max(0, self.applied - 1)
        return "taken back"

    def _write(self, content: dict[str, Any]) -> str:
        return f"wrote {self._calls['write'](str(content.get('path', '')))}"

    def _say(self, kind: str, text: str) -> None:
        self.message = {"kind": kind, "text": " ".join(visible(line) for line in text.splitlines())}


def _candidate(finding: dict[str, Any]) -> str:
    repair = finding["repair"]
    state = "verified" if repair["verified"] else "not verified"
    ratios = f"ratio {told(repair['before'])} becomes {told(repair['after'])}"
    return f"{finding['number']}. {repair['entry']}: {repair['change']} ({state}), {ratios}"
