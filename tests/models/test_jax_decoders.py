"""One decoder written in six ways: the walk, the run and the operands must say the same of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax_decoders as d
import numpy as np
import pytest

from ckptdbg.models.jax_model import JaxModel
from ckptdbg.models.jax_side import JaxSide
from ckptdbg.models.jax_side import side as side_module
from ckptdbg.models.records import Anchor, Plant


def _plain_unrolled() -> tuple[Any, Callable[[Any], Any]]:
    model = JaxModel(d.unrolled, d.random_params())
    return model, lambda ids: jax.jit(model.apply)(model.params, {"input_ids": ids})


def _plain_scanned() -> tuple[Any, Callable[[Any], Any]]:
    model = JaxModel(d.scanned, d.random_params(stacked=True))
    return model, lambda ids: jax.jit(model.apply)(model.params, {"input_ids": ids})


def _nnx() -> tuple[Any, Callable[[Any], Any]]:
    from flax import nnx

    model = d.NnxDecoder(d.random_params())
    model.eval()
    return model, lambda ids: nnx.jit(model)(ids)["logits"]


def _linen(scan: bool) -> tuple[Any, Callable[[Any], Any]]:
    module, variables = d.linen(scan=scan)
    return (module, variables), lambda ids: jax.jit(module.apply)(variables, ids)


MODELS = {
    "function": _plain_unrolled,
    "function-scan": _plain_scanned,
    "nnx": _nnx,
    "linen": lambda: _linen(False),
    "linen-scan": lambda: _linen(True),
}
SCANNED = {"function-scan", "linen-scan"}
_SIDES: dict[str, tuple[JaxSide, Callable[[Any], Any]]] = {}


@pytest.fixture(params=list(MODELS))
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def model(kind: str) -> tuple[JaxSide, Callable[[Any], Any]]:
    """Compiled once for the module."""
    if kind not in _SIDES:
        built, plain = MODELS[kind]()
        _SIDES[kind] = JaxSide(built), plain
    return _SIDES[kind]


def short(anchor: Anchor) -> str:
    (name,) = anchor.parameters
    parts = [p for p in name.split("/") if p not in ("embedding", "kernel")]
    return parts[-1]


def layer_of(anchor: Anchor) -> int:
    if anchor.iteration:
        return anchor.iteration[0]
    digits = [p.removeprefix("layers_") for p in anchor.parameters[0].split("/")]
    return int(next(p for p in digits if p.isdigit()))


def test_every_parameter_is_accounted_for(model: tuple[JaxSide, Any], kind: str) -> None:
    side, _ = model
    graph = side.graph(d.ids())
    seen = [name for part in (graph.anchors, graph.meetings) for x in part for name in x.parameters]
    assert set(seen) == set(side.parameters())
    assert graph.unused_parameters == ()
    assert graph.opaque == ()
    assert [short(a) for a in graph.anchors] == ["embed", *d.ANCHORS_PER_LAYER * d.LAYERS, "head"]
    assert [m.shape for m in graph.meetings] == [(d.EMBED,)] * (2 * d.LAYERS + 1)
    inside = graph.anchors[1:-1]
    assert [layer_of(a) for a in inside] == [i for i in range(d.LAYERS) for _ in d.ANCHORS_PER_LAYER]
    assert {a.iteration for a in inside} == ({(i,) for i in range(d.LAYERS)} if kind in SCANNED else {()})


def test_feeds_and_meetings_are_those_of_the_architecture(model: tuple[JaxSide, Any]) -> None:
    graph = model[0].graph(d.ids())
    stream = {0}  # the anchors whose sum is the residual stream
    for i in range(d.LAYERS):
        q, k, v, o, gate, up, down = range(1 + 7 * i, 8 + 7 * i)
        for reader in (q, k, v):
            assert (graph.anchors[reader].feeds, graph.anchors[reader].met) == (stream, {2 * i})
        assert (graph.anchors[o].feeds, graph.anchors[o].met) == ({q, k, v}, set())
        stream = stream | {o}
        for reader in (gate, up):
            assert (graph.anchors[reader].feeds, graph.anchors[reader].met) == (stream, {2 * i + 1})
        assert (graph.anchors[down].feeds, graph.anchors[down].met) == ({gate, up}, set())
        stream = stream | {down}
    assert (graph.anchors[-1].feeds, graph.anchors[-1].met) == (stream, {2 * d.LAYERS})
    assert (graph.output_feeds, graph.output_met) == ({len(graph.anchors) - 1}, set())


def test_plain_run_is_the_models_own_output_bit_for_bit(model: tuple[JaxSide, Any]) -> None:
    side, plain = model
    inputs = d.ids()
    trace = side.run(inputs)
    assert trace.output_shape == (d.BATCH, d.LENGTH, d.VOCAB)
    expected = np.asarray(plain(jnp.asarray(inputs["input_ids"])))
    np.testing.assert_array_equal(trace.output.reshape(trace.output_shape), expected)
    assert trace.nonfinite is None


def test_operands_are_the_kernels(model: tuple[JaxSide, Any]) -> None:
    side, _ = model
    graph = side.graph(d.ids())
    operands = side.operands({})
    params, layers = d.random_params(), d.random_layers()
    features = {"q": (1, 2), "k": (1, 2), "v": (1, 2), "o": (2,), "gate": (1,), "up": (1,), "down": (1,)}
    for anchor, operand in zip(graph.anchors, operands.anchors, strict=True):
        name = short(anchor)
        native = np.asarray(params[name] if name in ("embed", "head") else layers[layer_of(anchor)][name], np.float64)
        kept = (1,) if name in ("embed", "head") else features[name]
        others = [axis for axis in range(native.ndim) if axis not in kept]
        expected = native.transpose([*kept, *others]).reshape(anchor.features, anchor.contraction)
        assert operand.dtype == np.float64
        np.testing.assert_array_equal(operand, expected)
    norms = [value for layer in layers for value in (layer["norm1"], layer["norm2"])] + [np.asarray(params["norm"])]
    for found, expected in zip(operands.meetings, norms, strict=True):
        np.testing.assert_array_equal(found, expected.astype(np.float64))


def test_records_obey_the_matrix_equation_and_name_their_tokens(model: tuple[JaxSide, Any]) -> None:
    side, _ = model
    inputs = d.ids()
    graph, trace, operands = side.graph(inputs), side.run(inputs), side.operands({})
    for anchor, record, operand in zip(graph.anchors, trace.records, operands.anchors, strict=True):
        np.testing.assert_array_equal(record.rows, np.arange(d.BATCH * d.LENGTH))
        assert record.output.shape == (len(record.rows), anchor.features)
        if anchor.kind == "lookup":
            assert record.input is None
            np.testing.assert_array_equal(record.output, operand.T[inputs["input_ids"].ravel()].astype(np.float32))
        else:
            assert record.input is not None
            np.testing.assert_allclose(record.output, record.input @ operand.T, rtol=1e-6, atol=3e-6)  # float32


def test_promoted_run_is_float64_all_the_way(model: tuple[JaxSide, Any]) -> None:
    side, _ = model
    inputs = d.ids()
    promoted, working = side.run(inputs, promoted=True), side.run(inputs)
    expected = d.reference(inputs["input_ids"])
    assert promoted.output.dtype == np.float64
    assert {r.output.dtype for r in promoted.records} == {np.dtype(np.float64)}
    np.testing.assert_allclose(promoted.output.reshape(expected.shape), expected, rtol=1e-11, atol=1e-12)
    error = np.linalg.norm(working.output - promoted.output) / np.linalg.norm(promoted.output)
    assert 1e-8 < error < 3e-6
    assert not jax.config.jax_enable_x64


@pytest.mark.parametrize("promoted", [False, True])
def test_jitter_moves_the_output_by_rounding(model: tuple[JaxSide, Any], promoted: bool) -> None:
    side, _ = model
    inputs = d.ids()
    still = side.run(inputs, promoted=promoted).output
    moved = [side.run(inputs, promoted=promoted, jitter=seed).output for seed in (1, 2, 1)]
    for one in moved:
        assert 1e-8 < np.linalg.norm(one - still) / np.linalg.norm(still) < 1e-5
    assert not np.array_equal(moved[0], moved[1])
    np.testing.assert_array_equal(moved[0], moved[2])


def test_planting_what_was_recorded_changes_nothing(model: tuple[JaxSide, Any]) -> None:
    side, _ = model
    inputs = d.ids()
    trace = side.run(inputs)
    plants = {i: Plant(input=r.input, output=r.output) for i, r in enumerate(trace.records)}
    np.testing.assert_array_equal(side.run(inputs, plants=plants).output, trace.output)


def test_a_plant_in_one_layer_reaches_only_what_follows(model: tuple[JaxSide, Any]) -> None:
    side, _ = model
    inputs = d.ids()
    graph, trace = side.graph(inputs), side.run(inputs, promoted=True)
    place = 1 + 7 + 6  # down, second layer
    value = trace.records[place].output.copy()
    value[3, 5] += 1
    after = side.run(inputs, promoted=True, plants={place: Plant(output=value)})
    same = [np.array_equal(a.output, b.output) for a, b in zip(trace.records, after.records, strict=True)]
    assert same == [i <= place for i in range(len(graph.anchors))]
    # Token 3 of the first sequence changed: what comes before it, and the other sequence, stay.
    changed = np.flatnonzero((after.output != trace.output).any(1))
    np.testing.assert_array_equal(changed, np.arange(3, d.LENGTH))
    mask = np.zeros(value.shape, bool)
    mask[3, 5] = True
    noise = np.where(mask, value, 99)
    masked = side.run(inputs, promoted=True, plants={place: Plant(output=noise, output_mask=mask)})
    np.testing.assert_array_equal(masked.output, after.output)


def test_a_planted_in_is_seen_at_that_use_only(model: tuple[JaxSide, Any]) -> None:
    side, _ = model
    inputs = d.ids()
    trace = side.run(inputs, promoted=True)
    query, key = 1 + 7, 1 + 7 + 1  # both read the same norm
    given = trace.records[query].input
    assert given is not None
    after = side.run(inputs, promoted=True, plants={query: Plant(input=given + 1)})
    np.testing.assert_array_equal(after.records[query].input, given)  # recorded before planting
    assert not np.array_equal(after.records[query].output, trace.records[query].output)
    np.testing.assert_array_equal(after.records[key].output, trace.records[key].output)


def test_new_values_and_new_plants_do_not_compile_again(model: tuple[JaxSide, Any], kind: str) -> None:
    side, _ = model
    inputs = d.ids()
    side.graph(inputs)
    name = next(n for n in side.parameters() if n.endswith("q"))
    other = np.asarray(side.read(name)) * 1.5
    trace = side.run(inputs)
    plants = {5: Plant(output=trace.records[5].output)}

    def everything(values: dict[str, np.ndarray], seed: int, scale: float) -> list[np.ndarray]:
        moved = {i: Plant(output=p.output * scale) for i, p in plants.items() if p.output is not None}
        return [
            side.run(inputs, values=values).output,
            side.run(inputs, values=values, promoted=True, jitter=seed).output,
            side.run(d.ids(1), values=values, plants=moved).output,
            side.operands(values).anchors[1],
        ]

    first = everything({}, 1, 1.0)
    with jax.log_compiles(), _counting() as compiled:
        second = everything({name: other}, 2, 0.5)
    assert compiled == []
    for a, b in zip(first, second, strict=True):
        assert not np.array_equal(a, b)


def _planted(side: JaxSide, inputs: dict[str, np.ndarray], seed: int) -> dict[int, Plant]:
    """Random values in part of some ports."""
    rng, plants = np.random.default_rng(seed), {}
    records = side.run(inputs).records
    for i in rng.choice(len(records), 4, replace=False):
        out, given = records[i].output, records[i].input
        plants[int(i)] = Plant(
            input=None if given is None else given + rng.normal(size=given.shape),
            output=out + rng.normal(size=out.shape),
            output_mask=rng.random(out.shape) < 0.1,
        )
    return plants


def test_after_many_runs_in_float64_one_program_serves_all_plants(kind: str) -> None:
    built, _ = MODELS[kind]()
    stepwise, repeated = JaxSide(built), JaxSide(built)
    inputs, name = d.ids(), next(n for n in stepwise.parameters() if n.endswith("q"))
    for _ in range(side_module._STEPS + 1):
        repeated.run(inputs, promoted=True)
    tried = [(_planted(stepwise, inputs, seed), {name: np.asarray(stepwise.read(name)) * seed}) for seed in (1, 2, 3)]
    with jax.log_compiles(), _counting() as compiled:
        found = [repeated.run(inputs, promoted=True, plants=p, values=v) for p, v in tried]
    assert compiled == []
    for (plants, values), trace in zip(tried, found, strict=True):
        expected = stepwise.run(inputs, promoted=True, plants=plants, values=values)
        pairs = [(trace.output, expected.output)]
        for a, b in zip(trace.records, expected.records, strict=True):
            np.testing.assert_array_equal(a.rows, b.rows)
            pairs.append((a.output, b.output))
            if a.input is not None and b.input is not None:
                pairs.append((a.input, b.input))
        assert max(np.abs(a - b).max() / np.abs(b).max() for a, b in pairs) < 1e-14
    assert not np.allclose(found[0].output, found[1].output)


class _counting:
    """The names of what JAX compiles inside the ``with``."""

    def __enter__(self) -> list[str]:
        import logging

        self.names: list[str] = []
        names = self.names

        class Listen(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                if "Compiling" in record.getMessage():
                    names.append(record.getMessage())

        self.handler, self.logger = Listen(), logging.getLogger("jax")
        self.logger.addHandler(self.handler)
        return names

    def __exit__(self, *_: object) -> None:
        self.logger.removeHandler(self.handler)


def test_the_compile_counter_can_count() -> None:
    with jax.log_compiles(), _counting() as compiled:
        jax.jit(lambda x: x * 17 + 4)(jnp.arange(11))
    assert compiled != []
