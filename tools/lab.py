"""A real JupyterLab in a real browser: started by ``ckptdbg open``, driven by its own commands."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, Playwright, WebSocket

TOKEN = "ckptdbg-tests"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
CONFIG = {
    "ServerApp": {"allow_root": True, "port_retries": 0},
    "IdentityProvider": {"token": TOKEN},
    "LabApp": {"expose_app_in_browser": True, "check_for_updates_class": "jupyterlab.NeverCheckForUpdate"},
}
# Neither asks for news nor covers the page with the question.
NEWS = "@jupyterlab/apputils-extension/notification.jupyterlab-settings"
# The idle badge shows "idle" before there is a kernel; these three say that a cell will run.
READY = """async () => {
  const context = window.jupyterapp?.shell?.currentWidget?.sessionContext;
  if (!context?.isReady) return false;
  const kernel = context.session?.kernel;
  if (kernel?.connectionStatus !== "connected") return false;
  await kernel.info;
  return true;
}"""
CELLS = """() => window.jupyterapp.shell.currentWidget.content.model.cells
  ? Array.from(window.jupyterapp.shell.currentWidget.content.model.cells).map(cell => cell.toJSON()) : []"""


def chromium() -> str | None:
    """Debian's browser; playwright's own is never downloaded."""
    return os.environ.get("CKPTDBG_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")


def launch(playwright: Playwright) -> Browser:
    """Headless, without a GPU and without traffic of its own."""
    return playwright.chromium.launch(executable_path=chromium(), args=FLAGS)


@dataclass
class Lab:
    """A running server. ``folder`` is its root."""

    address: str
    folder: Path

    def url(self, notebook: str) -> str:
        return f"{self.address}/lab/tree/{notebook}?token={TOKEN}&reset"


@contextmanager
def opened(folder: Path, *arguments: str, home: Path) -> Iterator[Lab]:
    """``ckptdbg open ARGUMENTS`` run in ``folder``, its settings in ``home``; stopped at the end."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "jupyter_server_config.json").write_text(json.dumps(CONFIG))
    (settings := home / "settings" / NEWS).parent.mkdir(parents=True, exist_ok=True)
    settings.write_text(json.dumps({"fetchNews": "false", "checkForUpdates": False}))
    places = ("CONFIG", "DATA", "RUNTIME")
    environment = os.environ | {f"JUPYTER_{place}_DIR": str(home) for place in places}
    environment |= {"IPYTHONDIR": str(home / "ipython"), "JUPYTERLAB_SETTINGS_DIR": str(home / "settings")}
    environment |= {"JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"), "OMP_NUM_THREADS": "1"}
    port = _free_port()
    command = [sys.executable, "-m", "ckptdbg.cli", "open", *arguments, "--no-browser", "--port", str(port)]
    with (home / "log.txt").open("w") as log:
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        try:
            lab = Lab(f"http://localhost:{port}", folder)
            _wait_for(lab, server, home / "log.txt")
            yield lab
        finally:
            server.terminate()
            server.wait(30)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def _wait_for(lab: Lab, server: subprocess.Popen[bytes], log: Path, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if server.poll() is not None:
            break
        try:
            urllib.request.urlopen(f"{lab.address}/api/status?token={TOKEN}", timeout=5)
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
        else:
            return
    raise AssertionError(f"JupyterLab did not start:\n{log.read_text()[-3000:]}")


@dataclass
class Notebook:
    """A notebook open in the browser."""

    lab: Lab
    page: Page
    errors: list[str]
    """What the page complained of."""
    sent: list[int]
    """Sizes of the messages sent to kernels, in bytes."""
    received: list[int]
    """Sizes of the messages that kernels sent."""

    @classmethod
    def open(cls, page: Page, lab: Lab, name: str, seconds: float = 60) -> Notebook:
        """Load it and wait until its kernel would run a cell."""
        shown = cls(lab, page, [], [], [])
        page.on("pageerror", lambda error: shown.errors.append(str(error)))
        page.on("console", lambda message: shown.errors.append(message.text) if message.type == "error" else None)
        page.on("websocket", shown._listen)
        page.goto(lab.url(name))
        shown.until(lambda: page.evaluate(READY), "a kernel", seconds)
        return shown

    def _listen(self, socket: WebSocket) -> None:
        if "/api/kernels/" in socket.url:
            socket.on("framesent", lambda data: self.sent.append(len(data)))
            socket.on("framereceived", lambda data: self.received.append(len(data)))

    def stop(self) -> None:
        """Shut its kernel down."""
        self.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")

    def save(self) -> None:
        """As Ctrl-S does."""
        self.page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")

    def until(self, true: Callable[[], Any], what: str, seconds: float = 30) -> Any:
        """Poll, since widgets merge what happens in between; returns what came true. Raises AssertionError."""
        end = time.monotonic() + seconds
        while not (value := true()):
            assert time.monotonic() < end, f"waited {seconds:g} s for {what}"
            self.page.wait_for_timeout(50)
        return value

    def run_all(self) -> None:
        """Start every cell; returns when all have run, whether they failed or not."""
        self.page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")

    def cells(self) -> list[dict[str, Any]]:
        """The cells as they would be saved now."""
        return self.page.evaluate(CELLS)

    def outputs(self, kind: str) -> list[Any]:
        """All outputs of one type, in order."""
        bundles = [output.get("data", {}) for cell in self.cells() for output in cell.get("outputs", ())]
        return ["".join(bundle[kind]) for bundle in bundles if kind in bundle]

    def failures(self) -> list[str]:
        return [o["evalue"] for c in self.cells() for o in c.get("outputs", ()) if o["output_type"] == "error"]
