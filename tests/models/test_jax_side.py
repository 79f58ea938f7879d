"""What goes in and out of a JAX model: parameter names, inputs, the selected output, and what is said of bad ones."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import jax_decoders as d
import ml_dtypes
import numpy as np
import pytest
from flax import nnx

from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.errors import CkptdbgError, LoaderError
from ckptdbg.models.jax_model import JaxModel
from ckptdbg.models.jax_side import JaxSide
from ckptdbg.models.records import Plant

IDS = d.ids()


def draw(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(shape).normal(size=shape), jnp.float32)


def linear(p: Any, i: Any) -> Any:
    return p["table"][i["input_ids"]] @ p["w"]


def small(**changed: Any) -> JaxModel:
    return JaxModel(linear, {"table": draw(d.VOCAB, 4), "w": draw(4, 3)} | changed)


def test_names_shapes_and_dtypes() -> None:
    expected = {f"layers/{i}/{name}": shape for i in range(d.LAYERS) for name, shape in d.LAYER_SHAPES.items()}
    expected |= {"embed/embedding": (d.VOCAB, d.EMBED), "norm": (d.EMBED,), "head/kernel": (d.EMBED, d.VOCAB)}
    side = JaxSide(d.NnxDecoder(d.random_params()))
    assert side.parameters() == {name: TensorSpec(shape, "float32") for name, shape in expected.items()}
    renamed = {name.replace("layers/", "layers_"): spec for name, spec in side.parameters().items()}
    linen = JaxSide(d.linen())
    assert linen.parameters() == renamed
    for name, layer in (("layers/1/o", d.random_layers()[1]["o"]), ("norm", d.random_params()["norm"])):
        np.testing.assert_array_equal(side.read(name), layer)
        np.testing.assert_array_equal(linen.read(name.replace("layers/", "layers_")), layer)


def test_only_keys_added_by_a_framework_are_dropped() -> None:
    class Boxed(nn.Module):
        @nn.compact
        def __call__(self, input_ids: Any) -> Any:
            box = nn.with_partitioning(nn.initializers.normal(1.0), ("vocab", "embed"))
            x = self.param("value", box, (d.VOCAB, 4))[input_ids]
            return nn.BatchNorm(use_running_average=True, name="inner")(x)

    module = Boxed()
    variables = module.init(jax.random.key(0), IDS["input_ids"])
    expected = {"value", "inner/scale", "inner/bias", "batch_stats/inner/mean", "batch_stats/inner/var"}
    side = JaxSide((module, variables))
    assert set(side.parameters()) == expected
    assert {name for m in side.graph(IDS).meetings for name in m.parameters} == expected - {"value"}
    own = JaxSide(JaxModel(lambda p, i: i["input_ids"], {"params": {"a": [draw(2), draw(3)], "value": draw(4)}}))
    assert set(own.parameters()) == {"params/a/0", "params/a/1", "params/value"}


def test_nnx_statistics_are_parameters_and_counters_are_not() -> None:
    class Model(nnx.Module):
        def __init__(self) -> None:
            self.embed = nnx.Embed(d.VOCAB, 4, rngs=nnx.Rngs(0))
            self.norm = nnx.BatchNorm(4, rngs=nnx.Rngs(1))
            self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(2))

        def __call__(self, input_ids: Any, *, attention_mask: Any = None) -> Any:
            return self.dropout(self.norm(self.embed(input_ids)))

    model = Model()
    side = JaxSide(model)
    assert set(side.parameters()) == {"embed/embedding", "norm/scale", "norm/bias", "norm/mean", "norm/var"}
    mask = np.ones_like(IDS["input_ids"])
    first = side.run(IDS | {"attention_mask": mask, "position_ids": mask})
    assert side.omitted_inputs == ("attention_mask", "position_ids")  # ignored by the call; not taken by it
    np.testing.assert_array_equal(first.output, side.run(IDS).output)  # no dropout, no counting
    assert side.omitted_inputs == ()
    assert not model.dropout.deterministic  # the user's model stays in the mode it was in


def test_two_parameters_of_one_name_are_refused() -> None:
    with pytest.raises(LoaderError) as caught:
        JaxSide(small(**{"a/b": draw(2), "a": {"b": draw(3)}}))
    assert str(caught.value) == "two parameters have the same name; found a/b; rename one of them in the model"


def test_inputs_are_renamed_and_unknown_ones_reported() -> None:
    class Model(nnx.Module):
        def __init__(self) -> None:
            self.embed = nnx.Embed(d.VOCAB, 4, rngs=nnx.Rngs(0))
            self.place = nnx.Embed(d.LENGTH, 4, rngs=nnx.Rngs(1))

        def __call__(self, tokens: Any, places: Any) -> Any:
            return self.embed(tokens) + self.place(places)

    positions = np.broadcast_to(np.arange(d.LENGTH), (d.BATCH, d.LENGTH))
    inputs = IDS | {"position_ids": positions}
    side = JaxSide(Model(), rename_inputs={"places": "position_ids"})  # the one that is left gets the tokens
    assert [a.kind for a in side.graph(inputs).anchors] == ["lookup", "lookup"]
    with pytest.raises(LoaderError) as caught:
        JaxSide(Model()).graph(inputs)
    assert str(caught.value) == (
        "Model.__call__ needs inputs that are not given: tokens, places; found input_ids, position_ids; "
        "say under `inputs` which of those found each one is, as `its_name: input_ids`"
    )


@pytest.mark.parametrize(("output", "scale"), [(None, 2), ("hidden", 1), ("logits", 2), ("both", 3)])
def test_the_selected_output_is_the_one_compared(output: str | None, scale: int) -> None:
    def apply(p: Any, i: Any) -> Any:
        x = linear(p, i)
        return {"hidden": x, "logits": 2 * x, "both": 3 * x}

    side = JaxSide(JaxModel(apply, small().params), output=output)
    plain = JaxSide(small()).run(IDS)
    trace = side.run(IDS)
    np.testing.assert_allclose(trace.output, scale * plain.output, rtol=1e-6)
    assert trace.output.shape == (d.BATCH * d.LENGTH, 3)
    assert trace.output_shape == (d.BATCH, d.LENGTH, 3)


def test_outputs_by_index_and_without_a_name() -> None:
    def apply(p: Any, i: Any) -> Any:
        return None, linear(p, i), p["w"]

    model = JaxModel(apply, small().params)
    expected = JaxSide(small()).run(IDS).output
    np.testing.assert_array_equal(JaxSide(model).run(IDS).output, expected)
    np.testing.assert_array_equal(JaxSide(model, output=1).run(IDS).output, expected)
    with pytest.raises(LoaderError, match="the model's output has no such part; found 7; expected an index below 3"):
        JaxSide(model, output=7).run(IDS)
    with pytest.raises(LoaderError, match="no such part; found logits; expected an index below 3"):
        JaxSide(model, output="logits").run(IDS)


def test_a_model_without_values_runs_on_those_given() -> None:
    empty = JaxSide(JaxModel(linear, jax.eval_shape(lambda: small().params)))
    assert empty.parameters() == JaxSide(small()).parameters()
    values = {name: np.asarray(value) for name, value in small().params.items()}
    np.testing.assert_array_equal(empty.run(IDS, values=values).output, JaxSide(small()).run(IDS).output)
    with pytest.raises(LoaderError) as caught:
        empty.run(IDS, values={"w": values["w"]})
    expected = "the parameter has no value; found table; give it in `values`, or load the model"
    assert str(caught.value) == expected


def test_values_are_cast_to_the_model_unless_promoted() -> None:
    side = JaxSide(small(w=draw(4, 3).astype(jnp.bfloat16)))
    assert side.parameters()["w"] == TensorSpec((4, 3), "bfloat16")
    assert side.read("w").dtype == ml_dtypes.bfloat16
    value = np.random.default_rng(5).normal(size=(4, 3))
    rounded = value.astype(ml_dtypes.bfloat16).astype(np.float64)
    table = np.asarray(side.read("table"), np.float64)[IDS["input_ids"].ravel()]
    np.testing.assert_allclose(side.run(IDS, values={"w": value}).output, table @ rounded, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(side.run(IDS, values={"w": value}, promoted=True).output, table @ value, rtol=1e-13)
    side.graph(IDS)
    np.testing.assert_array_equal(side.operands({"w": value}).anchors[1], value.T)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"v": np.ones(3)}, "the model has no such parameter; found v; see parameters() for the names"),
        ({"w": np.ones((3, 4))}, "w: a value of the wrong shape; found (3, 4); expected (4, 3)"),
    ],
)
def test_values_that_do_not_fit_are_named(values: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(LoaderError) as caught:
        JaxSide(small()).run(IDS, values=values)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("plants", "message"),
    [
        ({9: Plant(output=np.ones((1, 1)))}, "a plant for an anchor that does not exist; found 9; expected below 2"),
        ({1: Plant(output=np.ones((2, 3)))}, "w: a planted `out` of the wrong shape; found (2, 3); expected (14, 3)"),
        ({0: Plant(input=np.ones((14, 50)))}, "gather: a lookup has no `in` to plant; plant its `out`"),
    ],
)
def test_plants_that_do_not_fit_are_named(plants: dict[int, Plant], message: str) -> None:
    with pytest.raises(CkptdbgError) as caught:
        JaxSide(small()).run(IDS, plants=plants)
    assert str(caught.value) == message


def test_what_is_not_a_jax_model_is_refused() -> None:
    with pytest.raises(LoaderError, match="not a JAX model; found dict; expected a flax NNX module, a pair"):
        JaxSide({"w": draw(2)})


def test_a_model_that_fails_when_called_says_how() -> None:
    with pytest.raises(LoaderError) as caught:
        JaxSide(small(w=draw(5, 3))).graph(IDS)
    assert str(caught.value).startswith("the model cannot be called: TypeError: dot_general requires contracting")
    assert "found input_ids (2, 7)" in str(caught.value)


def test_operands_before_a_walk_are_refused() -> None:
    with pytest.raises(CkptdbgError, match=r"call graph\(inputs\) first"):
        JaxSide(small()).operands({})


def test_the_users_settings_are_left_as_they_were() -> None:
    before = jax.config.jax_enable_x64, jax.config.jax_default_matmul_precision
    side = JaxSide(small())
    side.run(IDS, promoted=True, jitter=1)
    side.operands({})
    assert (jax.config.jax_enable_x64, jax.config.jax_default_matmul_precision) == before
    assert jnp.ones(3).dtype == jnp.float32


def test_a_model_in_64_bits_stays_there() -> None:
    with jax.enable_x64(True):
        side = JaxSide(small(w=jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)))))
        assert side.parameters()["w"].dtype == "float64"
        assert side.run(IDS).output.dtype == np.float64


def test_each_input_shape_is_walked_by_itself() -> None:
    side = JaxSide(small())
    longer = {"input_ids": np.arange(11)[None]}
    assert side.graph(IDS) is side.graph(d.ids(3))
    assert side.run(longer).output_shape == (1, 11, 3)
    np.testing.assert_array_equal(side.run(longer).records[1].rows, np.arange(11))
    assert side.run(IDS).output_shape == (d.BATCH, d.LENGTH, 3)


def test_nnx_layers_made_by_vmap_and_run_by_scan() -> None:
    class Layer(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.norm = nnx.LayerNorm(4, rngs=rngs)
            self.linear = nnx.Linear(4, 4, rngs=rngs)
            self.dropout = nnx.Dropout(0.3, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            return x + self.dropout(jnp.tanh(self.linear(self.norm(x))))

    class Model(nnx.Module):
        def __init__(self) -> None:
            make = nnx.split_rngs(splits=3)(nnx.vmap(Layer, in_axes=(0,), out_axes=0))
            self.embed, self.layers = nnx.Embed(d.VOCAB, 4, rngs=nnx.Rngs(1)), make(nnx.Rngs(0))

        def __call__(self, input_ids: Any) -> Any:
            run = nnx.scan(lambda x, layer: layer(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
            return self.embed.attend(run(self.embed(input_ids), self.layers))

    side = JaxSide(Model())
    parts = ("linear/bias", "linear/kernel", "norm/bias", "norm/scale")
    assert set(side.parameters()) == {"embed/embedding", *(f"layers/{part}" for part in parts)}
    graph = side.graph(IDS)
    assert [(a.parameters[0], a.iteration) for a in graph.anchors] == [
        ("embed/embedding", ()),
        *(("layers/linear/kernel", (i,)) for i in range(3)),
        ("embed/embedding", ()),
    ]
    assert [set(a.feeds) for a in graph.anchors] == [set(), {0}, {0, 1}, {0, 1, 2}, {0, 1, 2, 3}]
    promoted, working = side.run(IDS, promoted=True).output, side.run(IDS).output
    assert 0 < np.linalg.norm(working - promoted) / np.linalg.norm(promoted) < 1e-6
