"""The output of each numbered layer is found without modules, and only where it is the whole residual stream."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import jax_decoders as d
import numpy as np
import pytest

from ckptdbg.models.jax_model import JaxModel
from ckptdbg.models.jax_side import JaxSide
from ckptdbg.models.jax_side.blocks import layer_of

MODELS = {
    "function": (lambda: JaxModel(d.unrolled, d.random_params()), "layers/{}"),
    "nnx": (lambda: d.NnxDecoder(d.random_params()), "layers/{}"),
    "linen": (lambda: d.linen(), "layers_{}"),
}


def _streams() -> list[np.ndarray]:
    params = d.random_params()
    x, found = params["embed"][d.ids()["input_ids"]], []
    for p in params["layers"]:
        x = d.layer(x, p)
        found.append(np.asarray(x).reshape(-1, d.EMBED))
    return found


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("promoted", [False, True])
def test_blocks_are_the_outputs_of_the_layers(kind: str, promoted: bool) -> None:
    build, name = MODELS[kind]
    side = JaxSide(build())
    graph, trace = side.graph(d.ids()), side.run(d.ids(), promoted=promoted)
    assert graph.blocks == tuple(name.format(i) for i in range(d.LAYERS))
    under = tuple(tuple(f"{block}/{part}" for part in sorted(d.LAYER_SHAPES)) for block in graph.blocks)
    assert tuple(tuple(sorted(names)) for names in graph.block_parameters) == under
    for found, expected in zip(trace.blocks, _streams(), strict=True):
        assert found.dtype == (np.float64 if promoted else np.float32)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_the_norm_after_a_layer_belongs_to_the_layer_whose_parameter_it_has() -> None:
    def post_norm(params: Any, inputs: dict[str, Any]) -> Any:
        x = params["embed"][inputs["input_ids"]]
        for p in params["layers"]:
            x = d.rms_norm(x + (x @ p["gate"]) @ p["down"], p["norm1"])
        return x @ params["head"]

    params = d.random_params()
    side = JaxSide(JaxModel(post_norm, params))
    assert side.graph(d.ids()).blocks == ("layers/0", "layers/1", "layers/2")
    x, p = params["embed"][d.ids()["input_ids"]], params["layers"][0]
    expected = d.rms_norm(x + (x @ p["gate"]) @ p["down"], p["norm1"]).reshape(-1, d.EMBED)
    np.testing.assert_allclose(side.run(d.ids()).blocks[0], expected, rtol=1e-4, atol=1e-5)


def test_a_layer_that_others_read_the_inside_of_is_no_block() -> None:
    def skipping(params: Any, inputs: dict[str, Any]) -> Any:
        x = params["embed"][inputs["input_ids"]]
        inside: Any = None
        for i, p in enumerate(params["layers"]):
            hidden = jnp.tanh(x @ p["gate"])
            x = x + (hidden if i != 1 else hidden + inside) @ p["down"]
            inside = hidden
        return x @ params["head"]

    assert JaxSide(JaxModel(skipping, d.random_params())).graph(d.ids()).blocks == ("layers/1", "layers/2")


def test_iterations_of_a_scan_have_no_blocks() -> None:
    side = JaxSide(d.linen(scan=True))
    assert side.graph(d.ids()).blocks == ()
    assert side.run(d.ids()).blocks == ()


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("decoder/layers_3/attention/kernel", "decoder/layers_3"),
        ("layers/3/norm/scale", "layers/3"),
        ("blocks_1/layers_2/kernel", "blocks_1"),
        ("embed/embedding", None),
        ("head/kernel_2", None),
    ],
)
def test_the_layer_of_a_parameter_is_its_first_numbered_part(name: str, layer: str | None) -> None:
    assert layer_of(name) == layer
