"""Trying repairs compiles nothing: weights and planted values are arguments of what the comparison compiled already."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from ckptdbg.compare.comparison import Rerun
from ckptdbg.samples.build import build_sample
from ckptdbg.session import Session, open_session

_COMPILED = "/jax/core/compile/backend_compile_duration"
HANDFUL = 3
"""The mended mapping is compared again as a whole; what that alone compiles does not depend on the candidates."""


class Counter:
    """Counts XLA compilations while it is listening."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, event: str, duration_secs: float, **details: Any) -> None:
        self.count += event == _COMPILED


@pytest.fixture
def compilations() -> Any:
    counter = Counter()
    jax.monitoring.register_event_duration_secs_listener(counter)
    yield counter
    jax.monitoring.unregister_event_duration_listener(counter)


def _diagnosed(folder: Path, pair: str, compilations: Counter) -> tuple[int, int]:
    """How many runs of candidates a diagnosis made, and how many compilations it took."""
    session: Session = open_session(build_sample(folder, pair, ("query-not-interleaved",), num_hidden_layers=2))
    stages: list[str] = []
    session.progress = stages.append
    assert session.comparison.output.free.divergent
    before = compilations.count
    assert before  # the comparison compiled the model, and was heard
    finding = session.diagnosis.findings[0]
    assert finding.repair is not None
    assert finding.repair.verified
    return sum(stage.startswith("trying repairs, run") for stage in stages), compilations.count - before


@pytest.mark.parametrize("pair", ["llama_to_nnx", pytest.param("llama_to_scan", marks=pytest.mark.slow)])
def test_candidates_compile_nothing(pair: str, tmp_path: Path, compilations: Counter) -> None:
    runs, compiled = _diagnosed(tmp_path, pair, compilations)
    assert runs > 5 * HANDFUL
    assert compiled <= HANDFUL


@pytest.mark.slow
def test_a_candidate_that_compiles_is_counted(
    tmp_path: Path, compilations: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    true: Callable = Rerun.promoted

    def compiling(self: Rerun, *args: Any) -> Any:
        jax.jit(lambda x: x + compilations.count)(jnp.ones(3)).block_until_ready()
        return true(self, *args)

    monkeypatch.setattr(Rerun, "promoted", compiling)
    runs, compiled = _diagnosed(tmp_path, "llama_to_nnx", compilations)
    assert compiled >= runs > HANDFUL
