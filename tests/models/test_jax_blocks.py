"""The output of each numbered layer is found without modules, and only where it is the whole residual stream."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import jax_decoders as d
import numpy as np
import pytest
from flax import nnx
from jax import lax

from ckptdbg.models.jax_model import JaxModel
from ckptdbg.models.jax_side import JaxSide
from ckptdbg.models.jax_side.blocks import layer_of
from ckptdbg.models.records import Graph, Plant

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


def _holds_the_anchors_of_its_layer(graph: Graph) -> None:
    per_layer = len(d.ANCHORS_PER_LAYER)
    expected = [frozenset(range(1 + i * per_layer, 1 + (i + 1) * per_layer)) for i in range(d.LAYERS)]
    assert list(graph.block_anchors) == expected  # the embedding is anchor 0


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("promoted", [False, True])
def test_blocks_are_the_outputs_of_the_layers(kind: str, promoted: bool) -> None:
    build, name = MODELS[kind]
    side = JaxSide(build())
    graph, trace = side.graph(d.ids()), side.run(d.ids(), promoted=promoted)
    assert graph.blocks == tuple(name.format(i) for i in range(d.LAYERS))
    _holds_the_anchors_of_its_layer(graph)
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


class NnxStack(nnx.Module):
    """``nnx.scan`` over one module with stacked parameters."""

    def __init__(self) -> None:
        params = d.random_params(stacked=True)
        self.layers = nnx.Dict({name: nnx.Param(value) for name, value in params.pop("layers").items()})
        self.embed, self.norm, self.head = (nnx.Param(params[name]) for name in ("embed", "norm", "head"))

    def __call__(self, input_ids: Any) -> Any:
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def step(x: Any, layers: Any) -> Any:
            return d.layer(x, {name: layers[name][...] for name in d.LAYER_SHAPES})

        x = step(self.embed[...][input_ids], self.layers)
        return d.rms_norm(x, self.norm[...]) @ self.head[...]


def _scan(
    step: Callable, layers: Callable = lambda stacked: stacked, start: Callable = lambda x: x, **how: Any
) -> JaxModel:
    """A decoder whose layers are one ``lax.scan`` of ``step``. ``start`` makes the first carry of the embedding."""

    def apply(params: Any, inputs: dict[str, Any]) -> Any:
        carry, _ = lax.scan(step, start(params["embed"][inputs["input_ids"]]), params["layers"], **how)
        return d.rms_norm(jax.tree.leaves(carry)[0], params["norm"]) @ params["head"]

    params = d.random_params(stacked=True)
    return JaxModel(apply, params | {"layers": layers(params["layers"])})


def _with_sums(carry: Any, p: Any) -> Any:
    """What else is carried: a count, a sum over the tokens, and a row for every token that feeds nothing."""
    x, count, total, _ = carry
    x = d.layer(x, p)
    return (x, count + 1, total + x.sum(), x[..., 0]), x[0]


def _two_layers(x: Any, p: Any) -> Any:
    return d.layer(d.layer(x, p["one_0"]), p["one_1"]), None


def _nested(x: Any, p: Any) -> Any:
    return lax.scan(lambda x, p: (d.layer(x, p), None), x, p)


def _part(stacked: Any, i: int) -> Any:
    """Layer ``i``, still stacked."""
    return jax.tree.map(lambda x: x[i : i + 1], stacked)


def _pairs(stacked: Any) -> Any:
    """Layers 0 and 1 in one iteration."""
    return jax.tree.map(lambda x: x[None, :2], stacked)


SCANS = {
    "linen": (lambda: d.linen(scan=True), ("layers[0]", "layers[1]", "layers[2]")),
    "nnx": (NnxStack, ("layers[0]", "layers[1]", "layers[2]")),
    "function under remat": (
        lambda: JaxModel(d.scanned, d.random_params(stacked=True)),
        ("layers[0]", "layers[1]", "layers[2]"),
    ),
    "function": (
        lambda: _scan(lambda x, p: (d.layer(x, p), None)),
        ("layers[0]", "layers[1]", "layers[2]"),
    ),
    "carrying more": (
        lambda: _scan(_with_sums, start=lambda x: (x, 0, 0.0, x[..., 0])),
        ("layers[0]", "layers[1]", "layers[2]"),
    ),
    "backwards": (
        lambda: _scan(
            lambda x, p: (d.layer(x, p), None),
            lambda stacked: jax.tree.map(lambda x: x[::-1], stacked),
            reverse=True,
        ),
        ("layers[2]", "layers[1]", "layers[0]"),
    ),
    "two in one": (
        lambda: _scan(_two_layers, lambda stacked: {f"one_{i}": _part(stacked, i) for i in (0, 1)}),
        ("layers/one_0[0]", "layers/one_1[0]"),
    ),
    "nested": (lambda: _scan(_nested, _pairs), ("layers[0, 0]", "layers[0, 1]")),
}


@pytest.mark.parametrize("kind", SCANS)
@pytest.mark.parametrize("promoted", [False, True])
def test_each_iteration_of_a_scan_is_a_block(kind: str, promoted: bool) -> None:
    build, names = SCANS[kind]
    side = JaxSide(build())
    graph, trace = side.graph(d.ids()), side.run(d.ids(), promoted=promoted)
    assert graph.blocks == names
    per_layer = len(d.ANCHORS_PER_LAYER)
    for i, (found, expected) in enumerate(zip(trace.blocks, _streams(), strict=False)):
        assert graph.block_anchors[i] == frozenset(range(1 + i * per_layer, 1 + (i + 1) * per_layer))
        assert found.dtype == (np.float64 if promoted else np.float32)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_branch_in_every_layer_belongs_to_its_block() -> None:
    params = d.random_params(stacked=True)
    for chosen in (False, True):
        side = JaxSide(JaxModel(partial(d.grouped_scanned, chosen=chosen), params))
        graph, trace = side.graph(d.padded_ids()), side.run(d.padded_ids())
        assert graph.blocks == ("layers[0]", "layers[1]", "layers[2]")
        last = {max(anchors) for anchors in graph.block_anchors}
        assert last == {(1 + chosen) * len(d.ANCHORS_PER_LAYER) * (i + 1) for i in range(d.LAYERS)}
        x, mask = params["embed"][d.padded_ids()["input_ids"]], d.padded_ids()["attention_mask"]
        for i, found in enumerate(trace.blocks):
            x = d.grouped_layer(x, jax.tree.map(lambda stacked, i=i: stacked[i], params["layers"]), mask)
            np.testing.assert_allclose(found, np.asarray(x).reshape(-1, d.EMBED), rtol=1e-4, atol=1e-5)


def test_a_plant_inside_of_a_scan_shows_from_its_block_on() -> None:
    side = JaxSide(d.linen(scan=True))
    graph, free = side.graph(d.ids()), side.run(d.ids())
    anchor = max(graph.block_anchors[1])
    planted = side.run(d.ids(), plants={anchor: Plant(output=free.records[anchor].output + 1)})
    moved = [not np.allclose(a, b, atol=1e-4) for a, b in zip(free.blocks, planted.blocks, strict=True)]
    assert moved == [False, True, True]


def test_a_sum_over_experts_is_no_layer() -> None:
    """It has the shape of the stream and anchors feed it, but no anchor reads it: the layer around is the block."""

    def layer(x: Any, p: Any) -> Any:
        def expert(total: Any, weights: Any) -> Any:
            gate, down = weights
            return total + jnp.tanh(x @ gate) @ down, None

        weights = [jnp.stack([p[name], 0.5 * p[name]]) for name in ("gate", "down")]
        return x + lax.scan(expert, jnp.zeros_like(x), weights)[0]

    def unrolled(params: Any, inputs: dict[str, Any]) -> Any:
        x = params["embed"][inputs["input_ids"]]
        for p in params["layers"]:
            x = layer(x, p)
        return x @ params["head"]

    scanned = JaxSide(_scan(lambda x, p: (layer(x, p), None))).graph(d.ids())
    assert scanned.blocks == ("layers[0]", "layers[1]", "layers[2]")
    assert scanned.block_anchors == tuple(frozenset(range(1 + 4 * i, 5 + 4 * i)) for i in range(d.LAYERS))
    flat = JaxSide(JaxModel(unrolled, d.random_params())).graph(d.ids())
    assert flat.blocks == ("layers/0", "layers/1", "layers/2")
    assert flat.block_anchors == scanned.block_anchors


def test_two_streams_through_a_scan_are_no_block() -> None:
    def step(carry: Any, p: Any) -> Any:
        x, added = carry
        x = x + added
        return (x, jnp.tanh(x @ p["gate"]) @ p["down"]), None

    side = JaxSide(_scan(step, start=lambda x: (x, jnp.zeros_like(x))))
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
