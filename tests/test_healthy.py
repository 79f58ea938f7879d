"""A healthy conversion is called equivalent, whatever its family, framework, layout and circumstances."""

from __future__ import annotations

from pathlib import Path

import pytest
from matrix_helpers import PLAIN, UNUSUAL, Conversion, Healthy, is_healthy, open_healthy, ratios

from ckptdbg.compare.noise import SUSPECT

# About a second each, and experts under padding and in bfloat16, where routing must raise no alarm. The rest is slow.
QUICK = [c for c in UNUSUAL if c.pair == "llama_to_torch" and c.name not in ("length 2048", "24 layers")]
QUICK += [c for c in UNUSUAL if c.pair == "mixtral_to_jax" and ("padding" in c.name or "bfloat16" in c.name)]
CASES = [*PLAIN, *(c if c in QUICK else pytest.param(c, marks=pytest.mark.slow) for c in UNUSUAL)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_healthy_conversion_is_equivalent(case: Healthy, tmp_path: Path):
    session = open_healthy(case, tmp_path)
    result = session.compare()
    assert is_healthy(result), (result.verdict, [f.explanation for f in result.findings], result.not_compared)
    worst = ratios(session)
    assert max(worst.isolated, worst.isolated_promoted, worst.free, worst.output) < SUSPECT, worst


def test_every_circumstance_is_covered():
    assert {c.pair for c in PLAIN} == {c.pair for c in UNUSUAL}
    assert len({c.id for c in [*PLAIN, *UNUSUAL]}) == len(PLAIN) + len(UNUSUAL)
    assert len(QUICK) >= 8


def test_healthy_can_fail(tmp_path: Path):
    session = Conversion("llama_to_torch", tmp_path).plant(["norm-plus-one"])
    assert not is_healthy(session.compare())
    assert ratios(session).isolated > SUSPECT
