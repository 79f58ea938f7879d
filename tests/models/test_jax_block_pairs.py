"""Blocks of a scanned model are laid over those of an unrolled one, in either direction."""

from __future__ import annotations

from typing import Any

import jax_decoders as d
import pytest

import ckptdbg as cd
from ckptdbg.result import Result, Site

OUTSIDE = {"embed": "embed/embedding", "norm": "norm", "head": "head/kernel"}


def _mapping(scanned: str) -> cd.Mapping:
    """Between ``d.unrolled`` or ``d.scanned`` and the linen decoder. ``scanned``: which side is."""
    entries: list[dict[str, Any]] = [{"name": own, "source": own, "target": theirs} for own, theirs in OUTSIDE.items()]
    for name in d.LAYER_SHAPES:
        each, linen = f"layers/{{layer}}/{name}", f"layers_{{layer}}/{name}"
        stacked = f"layers/{name}"
        names = {
            "neither": {"source": each, "target": linen},
            "target": {"source": each, "target": stacked, "stack": [{"over": "layer", "axis": 0}]},
            "source": {
                "source": stacked,
                "target": [f"layers_{i}/{name}" for i in range(d.LAYERS)],
                "ops": [{"unstack": 0}],
            },
        }
        entries.append({"name": name, **names[scanned]})
    return cd.Mapping.from_dict({"version": 1, "variables": {}, "entries": entries})


def _compared(scanned: str, faulty: int | None = None) -> Result:
    """``faulty``: the layer of the target of which one weight is wrong."""
    params = d.random_params(stacked=scanned == "source")
    source = cd.JaxModel(d.scanned if scanned == "source" else d.unrolled, params)
    module, variables = d.linen(scan=scanned == "target")
    if faulty is not None:
        tree = variables["params"]
        layer, index = (tree["layers"], (faulty, 3, 5)) if scanned == "target" else (tree[f"layers_{faulty}"], (3, 5))
        layer["gate"] = layer["gate"].at[index].add(1.0)
    return cd.compare_models(source, (module, variables), _mapping(scanned), d.ids())


def _blocks(result: Result) -> list[Site]:
    return [site for site in result.sites if site.port == "block"]


@pytest.mark.parametrize("scanned", ["neither", "target", "source"])
def test_every_layer_shows_its_block(scanned: str) -> None:
    result = _compared(scanned)
    assert result.verdict == "equivalent"
    assert result.first_divergence is None
    blocks = _blocks(result)
    name = "layers[{}]" if scanned == "target" else "layers_{}"
    assert [block.site for block in blocks] == [name.format(i) for i in range(d.LAYERS)]
    assert all(block.ratio is not None and block.ratio < 10 for block in blocks)
    assert all(block.source.std == pytest.approx(block.target.std, rel=1e-4) for block in blocks)
    down = [site.order for site in result.sites if site.port == "out" and "down" in site.site]
    assert [block.order for block in blocks] == [order + 1 for order in down]
    assert not [row for row in result.not_compared if "layers" in row.name]


@pytest.mark.parametrize("scanned", ["target", "source"])
def test_a_fault_shows_from_its_own_block_on(scanned: str) -> None:
    result = _compared(scanned, faulty=1)
    assert result.verdict == "divergent"
    assert result.first_divergence is not None
    assert "gate" in result.first_divergence.site
    ratios = [block.ratio for block in _blocks(result)]
    assert [ratio is not None and ratio > 30 for ratio in ratios] == [False, True, True]
