"""Long work on a thread of its own: the notebook answers meanwhile, says how far it is, and can stop it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from html import escape
from typing import Any

import ipywidgets

from ckptdbg.errors import CkptdbgError
from ckptdbg.report.names import visible
from ckptdbg_widgets.try_it import Stopped


class Work(ipywidgets.HBox):
    """A line that says what is under way, and a button that stops it.

    ``begin`` runs one piece of work at a time. Work that calls ``step`` (a ``Session.progress``) is stopped there.
    """

    def __init__(self) -> None:
        self._said = ipywidgets.HTML()
        self._button = ipywidgets.Button(description="stop", tooltip="stop: nothing is changed")
        self._button.on_click(lambda _: self.stop())
        self._stopped, self._thread = threading.Event(), None
        self._show_stop(False)
        super().__init__([self._button, self._said])

    @property
    def busy(self) -> bool:
        """Whether work is under way."""
        return self._thread is not None and self._thread.is_alive()

    def begin(self, work: Callable[[], Any], then: Callable[[Any], Any]) -> None:
        """Run ``work`` and give what it returns to ``then``, both on the thread. An error is shown as text."""
        if self.busy:
            return
        self._stopped.clear()
        self._show_stop(True)
        self._thread: threading.Thread | None = threading.Thread(target=self._run, args=(work, then), daemon=True)
        self._thread.start()

    def step(self, text: str) -> None:
        """Say what is under way. Raises ``Stopped`` where "stop" was pressed."""
        if self._stopped.is_set():
            raise Stopped
        self.say(text)

    def stop(self) -> None:
        """Stop the work at its next step."""
        self._stopped.set()

    def wait(self, seconds: float | None = None) -> None:
        """Wait for the work under way: for scripts and tests."""
        if self._thread is not None:
            self._thread.join(seconds)

    def say(self, text: str) -> None:
        """One line for a person."""
        self._said.value = escape(visible(text))

    @property
    def said(self) -> str:
        """The last line, as HTML."""
        return self._said.value

    def _show_stop(self, shown: bool) -> None:
        self._button.layout.display = None if shown else "none"

    def _run(self, work: Callable[[], Any], then: Callable[[Any], Any]) -> None:
        try:
            found = work()
            self.say("")
            then(found)
        except Stopped:
            self.say("stopped: nothing was changed")
        except CkptdbgError as error:
            self.say(str(error))
        except Exception as error:  # a thread has nobody to raise to
            self.say(f"{type(error).__name__}: {error}")
        finally:
            self._show_stop(False)
