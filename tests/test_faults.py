"""Every planted fault is found, and the entry it was planted in is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matrix_helpers import REGIONS, Verdict, judge, open_faulty

from ckptdbg.checkpoint import open_checkpoint, write_safetensors
from ckptdbg.cli import exit_status
from ckptdbg.compare.noise import DIVERGENT
from ckptdbg.samples.build import build_sample
from ckptdbg.samples.faults import FAULTS, list_faults
from ckptdbg.samples.pairs import PAIRS
from ckptdbg.session import Session, open_session

TORCH = "llama_to_torch"
# Half a second each; every other place runs with the slow tests.
QUICK = [
    *((TORCH, fault.name) for fault in list_faults(TORCH)),
    ("llama_to_nnx", "value-gauge"),
    ("llama_to_nnx", "query-not-interleaved"),
]
EVERYWHERE = [(pair, fault.name) for pair in PAIRS for fault in list_faults(pair)]
CASES = [case if case in QUICK else pytest.param(*case, marks=pytest.mark.slow) for case in EVERYWHERE]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Session]:
    """A session on the healthy conversion of a pair: its source is run once for all faults."""
    opened: dict[str, Session] = {}

    def get(pair: str) -> Session:
        if pair not in opened:
            opened[pair] = open_faulty(pair, (), tmp_path_factory.mktemp(pair))
        return opened[pair]

    return get


def told(verdict: Verdict) -> list[tuple]:
    return [(f.kind, f.effect, f.site, f.layers, [e.name for e in f.entries]) for f in verdict.result.findings]


@pytest.mark.parametrize(("pair", "fault"), CASES)
def test_fault_is_found_and_named(pair, fault, source, tmp_path):
    verdict = judge(pair, (fault,), open_faulty(pair, (fault,), tmp_path, source(pair)))
    assert verdict.caught, (verdict.result.verdict, told(verdict))
    assert not verdict.others, told(verdict)


def test_a_finding_elsewhere_does_not_count(source, tmp_path):
    """What `caught` asks for is not there when another fault was planted than the one that is looked for."""
    session = open_faulty(TORCH, ("norm-plus-one",), tmp_path, source(TORCH))
    assert not judge(TORCH, ("head-wrongly-tied",), session).caught
    assert judge(TORCH, ("down-element",), session).others


def test_every_definition_fault_has_a_region():
    assert {f.name for f in FAULTS.values() if f.kind == "definition" and not f.entries} == set(REGIONS)


def test_four_faults_in_four_layers(tmp_path):
    faults = ("qkv-not-interleaved@1", "norm-plus-one@3", "gate-up-order@5", "down-element@6")
    session = open_session(build_sample(tmp_path, TORCH, faults, num_hidden_layers=8))
    verdict = judge(TORCH, faults, session)
    assert verdict.caught, told(verdict)
    assert sorted(f.layers for f in verdict.result.findings) == [["1"], ["3"], ["5"], ["6"]], told(verdict)


def wrong_median(folder: Path, tensor: str, **sizes: Any) -> tuple[Session, tuple[int, ...]]:
    """A conversion in which one element of median size is 1.5 times too large, and where that is."""
    file = build_sample(folder, TORCH, **sizes)
    path = folder / "target.safetensors"
    checkpoint = open_checkpoint(path)
    tensors = {name: np.array(checkpoint.read(name)) for name in checkpoint.specs}
    value = tensors[tensor]
    at = np.unravel_index(np.argsort(np.abs(value), axis=None)[value.size // 2], value.shape)
    value[at] *= 1.5
    write_safetensors(path, tensors.items())
    return open_session(file), tuple(int(i) for i in at)


@pytest.mark.parametrize(
    ("tensor", "sizes"),
    [
        ("layers.6.feed_forward.w2.weight", {"num_hidden_layers": 12}),
        ("layers.6.attention.wqkv.weight", {"num_hidden_layers": 12}),
        pytest.param(
            "layers.0.feed_forward.w2.weight",
            {
                "num_hidden_layers": 1,
                "hidden_size": 1024,
                "intermediate_size": 4096,
                "num_attention_heads": 8,
                "num_key_value_heads": 4,
            },
            marks=pytest.mark.slow,
            id="4096 x 1024",
        ),
    ],
)
def test_one_element_of_median_size(tensor, sizes, tmp_path):
    session, at = wrong_median(tmp_path, tensor, **sizes)
    result = session.compare(repair=False)
    assert exit_status(result) == 1
    (finding,) = result.findings
    assert finding.explanation.startswith(f"{tensor} is not what the mapping makes of the source: 1 of ")
    assert f"at {at};" in finding.explanation
    assert finding.ratio is not None  # seen in the runs too, not only in the file
    assert finding.ratio > DIVERGENT
