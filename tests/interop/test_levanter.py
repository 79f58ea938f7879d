"""levanter's Llama (scan and rematerialisation, named axes) in an environment of its own.

levanter needs another transformers than the source: the source is captured here, and compared there from its trace.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from checks import assert_healthy, entries
from place import copy_checkpoint, place, swap

from ckptdbg.result import Result
from ckptdbg.session import open_session


def compare_there(config: Path) -> Result:
    """Capture the source, then ``ckptdbg compare --source-trace`` under levanter's Python."""
    trace, found = config.parent / "trace", config.parent / "result.json"
    open_session(config).capture(trace)
    command = Path(os.environ["CKPTDBG_LEVANTER"]) / "ckptdbg"
    done = subprocess.run(
        [command, "compare", config, "--source-trace", trace, "--json", found],
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode in (0, 1), done.stderr
    return Result.from_json(found)


def test_llama_is_equivalent(tmp_path, table):
    config = place("levanter_llama", tmp_path, "llama", target="source")
    assert_healthy(table.compare("levanter Llama", "", lambda: compare_there(config)))


def test_a_layer_with_gate_and_up_exchanged_is_found(tmp_path, table):
    config = place("levanter_llama", tmp_path, "llama", target="broken")
    names = [f"model.layers.1.mlp.{which}_proj.weight" for which in ("gate", "up")]
    copy_checkpoint(tmp_path / "source", tmp_path / "broken", tensors=lambda tensors: swap(tensors, *names))
    result = table.compare("levanter Llama", "gate and up of layer 1 exchanged", lambda: compare_there(config))
    assert result.verdict == "divergent"
    assert {name for finding in result.findings for name in entries(finding)} == {"mlp.gate", "mlp.up"}
    assert {(f.kind, f.cause, *f.layers) for f in result.findings} == {("tensor", "checkpoint", "1")}
