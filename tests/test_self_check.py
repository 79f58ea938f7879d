"""The source against itself, re-expressed through the mapping, is at noise everywhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reexpressed import Reexpressed, Undo, find_ways, undo_of

from ckptdbg.compare.noise import SUSPECT
from ckptdbg.mapping import BoundMapping
from ckptdbg.models.loaders.kinds import wrap_model
from ckptdbg.result import Result
from ckptdbg.samples.build import build_sample
from ckptdbg.samples.pairs import PAIRS
from ckptdbg.session import Session, open_session


def self_check(folder: Path, pair: str, wrong: Callable[[Undo], Undo] = lambda undo: undo) -> tuple[Result, Session]:
    """Compare a sample's source with itself in the layout of the sample's target. ``wrong`` may spoil the way back."""
    session = open_session(build_sample(folder, pair))
    source: Any = session.source
    bound = session.mapping
    undo = wrong(undo_of(bound))

    def to_parameters(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return source.to_parameters(
            lambda name: tensors[name] if name in tensors else np.zeros(source.specs[name].shape)
        )

    tensors = {name: np.array(value) for name, value, _ in bound.values(source.read)}
    ways = find_ways(undo, {name: value.shape for name, value in tensors.items()}, to_parameters)
    model = source.model_class.from_pretrained(folder / "source")
    other = Session(session.config)
    vars(other).update(
        source=source,
        target=wrap_model(Reexpressed(model.eval(), tensors, ways)),
        unbound_mapping=session.unbound_mapping,
        inputs=session.inputs,
    )
    return other.compare(repair=False), other


def _rolled(entry: str, bound: BoundMapping) -> Callable[[Undo], Undo]:
    """The way back with the rows of what one entry undoes rolled by one."""
    spoiled = {name for each in bound.entries if each.name == entry for name in each.sources}

    def wrong(undo: Undo) -> Undo:
        return lambda tensors: {n: np.roll(v, 1, 0) if n in spoiled else v for n, v in undo(tensors).items()}

    return wrong


def _at_noise(result: Result) -> None:
    assert result.verdict == "equivalent"
    assert result.findings == []
    for site in result.sites:
        for measured in filter(None, (site, site.isolated)):
            assert measured.ratio is not None, site
            assert measured.ratio < SUSPECT, site


def test_the_source_in_the_targets_layout_is_at_noise(tmp_path: Path) -> None:
    result, session = self_check(tmp_path, "llama_to_nnx")
    _at_noise(result)
    maps = [found for found in session.comparison.pairing.outputs if found is not None]
    turned = [found for found in maps if any((np.diff(index) < 0).any() for _, index in found.offers)]
    scaled = [found for found in maps if (found.scale != 1).any()]
    layers = session.model_config["num_hidden_layers"]
    assert len(turned) == 2 * layers  # queries and keys are interleaved: there is something to carry
    assert len(scaled) == layers  # queries


@pytest.mark.slow
@pytest.mark.parametrize("pair", [pair for pair in PAIRS if pair != "llama_to_nnx"])
def test_every_source_in_its_targets_layout_is_at_noise(pair: str, tmp_path: Path) -> None:
    _at_noise(self_check(tmp_path, pair)[0])


ENTRIES = ("attention.qkv",)
OTHERS = (
    "embedding", "attention.norm", "attention.out", "mlp.norm", "mlp.gate_up", "mlp.down", "final_norm", "head",
)  # fmt: skip


@pytest.mark.parametrize("entry", [*ENTRIES, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_an_inverse_that_is_wrong_in_one_entry_is_seen(entry: str, tmp_path: Path) -> None:
    mapping = open_session(build_sample(tmp_path / "names", "llama_to_torch")).mapping
    assert {*ENTRIES, *OTHERS} == {each.name for each in mapping.entries}
    result, _ = self_check(tmp_path, "llama_to_torch", _rolled(entry, mapping))
    assert result.verdict == "divergent"
    assert entry in {each.name for each in result.findings[0].entries}
