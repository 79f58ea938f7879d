"""How fast the widgets are in a real JupyterLab: first picture, read-out below the pointer, click, bytes sent.

    python benchmarks/widgets.py

The map and the stepper show a real comparison of 32 layers, the heatmap 128 tokens by 4096 features. Times are taken
in the browser, from the command that runs the cell, or from the pointer's event, to the next frame.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from playwright.sync_api import sync_playwright

import ckptdbg
from ckptdbg.models.loaders.function import importable
from ckptdbg.samples import build_sample

with importable(Path(__file__).resolve().parents[1] / "tools"):
    from lab import Lab, Notebook, launch, opened

LAYERS = 32
MOVES = 40
SETUP = """
import numpy as np
from ckptdbg import Result
from ckptdbg_widgets import ActivationHeatmap, DivergenceMap, LayerStepper

result = Result.from_json("result.json")
rng = np.random.default_rng(0)
source = rng.normal(size=(128, 4096)).astype(np.float32)
target = source + 1e-3 * rng.normal(size=source.shape).astype(np.float32)
"""
CELLS = {
    f"DivergenceMap, {LAYERS} layers": "DivergenceMap(result)",
    f"LayerStepper, {LAYERS} layers": "LayerStepper(result)",
    "ActivationHeatmap, 128 x 4096": "ActivationHeatmap(source, target)",
}
# Runs the second cell and waits for something to see in its output: a canvas with two colours, else rows of text.
FIRST_PICTURE = """async () => {
  const started = performance.now();
  window.jupyterapp.commands.execute("notebook:run-cell");
  const frame = () => new Promise(requestAnimationFrame);
  for (;;) {
    await frame();
    const output = document.querySelectorAll(".jp-CodeCell")[1]?.querySelector(".jp-OutputArea-output");
    const canvas = output?.querySelector("canvas");
    if (canvas?.width > 1) {
      const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      const pixels = new Uint32Array(data.buffer);
      if (pixels.some((pixel) => pixel !== pixels[0])) break;
    } else if (output?.querySelector("tbody tr")) break;
    if (performance.now() - started > 60000) return null;
  }
  await frame();
  return performance.now() - started;
}"""
# Time from a pointer's event to the frame after the read-out changed.
WATCH = """(kind) => {
  window.measured = [];
  let started = null;
  window.addEventListener(kind, () => { started = performance.now(); }, true);
  const seen = new MutationObserver(() => {
    if (started === null) return;
    const at = started;
    started = null;
    requestAnimationFrame(() => window.measured.push(performance.now() - at));
  });
  const everything = { childList: true, subtree: true, attributes: true };
  document.querySelectorAll(".ck-readout, tbody").forEach((node) => seen.observe(node, everything));
}"""


def measure(lab: Lab, page: Any, cell: str, name: str) -> dict[str, Any]:
    """One widget in a notebook of its own."""
    cells = [nbformat.v4.new_code_cell(source) for source in (SETUP, cell)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), lab.folder / name)
    shown = Notebook.open(page, lab, name)
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-cell-and-select-next')")
    shown.until(lambda: shown.cells()[0]["execution_count"], "the first cell")
    page.wait_for_timeout(1000)
    before = sum(shown.received)
    first = page.evaluate(FIRST_PICTURE)
    page.wait_for_timeout(1000)
    figures = {"first_picture_ms": first, "bytes": sum(shown.received) - before}
    canvas = page.locator(".jp-OutputArea-output canvas")
    if canvas.count():
        figures |= _pointer(page, shown, canvas.first.bounding_box())
    shown.stop()
    return figures


def _pointer(page: Any, shown: Notebook, box: dict[str, float]) -> dict[str, Any]:
    sent = len(shown.sent)
    page.evaluate(WATCH, "pointermove")
    for step in range(MOVES):
        page.mouse.move(box["x"] + box["width"] * (step + 0.5) / MOVES, box["y"] + box["height"] * 0.6)
        page.wait_for_timeout(30)
    hover = page.evaluate("() => window.measured")
    figures = {"hover_ms": _median_and_worst(hover), "messages_while_hovering": len(shown.sent) - sent}
    page.evaluate(WATCH, "click")
    for step in range(10):
        page.mouse.click(box["x"] + box["width"] * (step + 0.5) / 10, box["y"] + box["height"] * 0.6)
        page.wait_for_timeout(50)
    return figures | {"click_ms": _median_and_worst(page.evaluate("() => window.measured"))}


def _median_and_worst(times: list[float]) -> list[float] | None:
    return [round(statistics.median(times), 1), round(max(times), 1)] if times else None


def main() -> None:
    with tempfile.TemporaryDirectory() as work, sync_playwright() as playwright:
        folder = Path(work)
        config = build_sample(folder / "sample", faults=["query-not-interleaved"], num_hidden_layers=LAYERS)
        ckptdbg.open(config).compare(repair=False).to_json(folder / "result.json")
        with opened(folder, home=folder / "home") as lab:
            browser = launch(playwright)
            for number, (name, cell) in enumerate(CELLS.items()):
                page = browser.new_page(viewport={"width": 1400, "height": 1000})
                print(json.dumps({"widget": name, **measure(lab, page, cell, f"{number}.ipynb")}), flush=True)
                page.close()
            browser.close()


if __name__ == "__main__":
    sys.exit(main())
