"""Single operations and control flow: what each one becomes, and that the run stays exact."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ckptdbg.models.jax_model import JaxModel
from ckptdbg.models.jax_side import JaxSide
from ckptdbg.models.records import Plant

B, T, D, V = 2, 5, 6, 11
IDS = {"input_ids": np.random.default_rng(0).integers(0, V, (B, T))}
TOKENS = np.arange(B * T)


def draw(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng([seed, *shape]).normal(size=shape), jnp.float32)


def side(apply: Callable[[Any, Any], Any], **params: Any) -> JaxSide:
    """A model that embeds the tokens and hands them to ``apply``."""
    return JaxSide(JaxModel(lambda p, i: apply(p, p["table"][i["input_ids"]]), {"table": draw(V, D)} | params))


def check(model: JaxSide, tolerance: float = 1e-5) -> None:
    """The invariants of every model: exact, its own plants change nothing, promoted agrees, out = in @ operand.T."""
    trace, graph, operands = model.run(IDS), model.graph(IDS), model.operands({})
    plain = jax.jit(lambda leaves, ids: model._model.call(leaves, (), {"input_ids": ids}))
    expected = np.asarray(plain(list(model._model.leaves), jnp.asarray(IDS["input_ids"])))
    np.testing.assert_array_equal(trace.output.reshape(trace.output_shape), expected)
    plants = {i: Plant(input=r.input, output=r.output) for i, r in enumerate(trace.records)}
    planted = model.run(IDS, plants=plants).output
    np.testing.assert_allclose(planted, trace.output, rtol=tolerance, atol=tolerance)  # not compiled whole
    promoted = model.run(IDS, promoted=True)
    plants = {i: Plant(input=r.input, output=r.output) for i, r in enumerate(promoted.records)}
    np.testing.assert_array_equal(model.run(IDS, promoted=True, plants=plants).output, promoted.output)
    np.testing.assert_allclose(promoted.output, trace.output.astype(np.float64), rtol=tolerance, atol=tolerance)
    for anchor, record, operand in zip(graph.anchors, promoted.records, operands.anchors, strict=True):
        assert operand.shape == (anchor.features, anchor.contraction)
        if record.input is not None:
            np.testing.assert_allclose(record.output, record.input @ operand.T, rtol=1e-12, atol=1e-12)


def test_stacked_experts_are_one_anchor_each() -> None:
    model = side(lambda p, x: jnp.einsum("btd,edf->ebtf", x, p["w"]), w=draw(3, D, 4))
    check(model)
    graph, trace = model.graph(IDS), model.run(IDS)
    assert [(a.group, a.features, a.contraction) for a in graph.anchors[1:]] == [(None, 12, D)]
    model = side(lambda p, x: jnp.einsum("ebtd,edf->btfe", jnp.stack([x, 2 * x, -x]), p["w"]), w=draw(3, D, 4))
    check(model)
    graph, trace = model.graph(IDS), model.run(IDS)
    assert [(a.group, a.features, a.contraction) for a in graph.anchors[1:]] == [(g, 4, D) for g in range(3)]
    w = np.asarray(model.read("w"), np.float64)
    for group, operand in enumerate(model.operands({}).anchors[1:]):
        np.testing.assert_array_equal(operand, w[group].T)
        np.testing.assert_array_equal(trace.records[1 + group].rows, TOKENS)


def test_elementwise_products_are_meetings_in_their_smallest_form() -> None:
    def apply(p: Any, x: Any) -> Any:
        y = jnp.einsum("btk,k->btk", x, p["scale"]) + jnp.broadcast_to(p["bias"], (B, T, D))
        return y * (1 + p["gain"][None, None])

    model = side(apply, scale=draw(D), bias=draw(D), gain=draw(D, seed=1))
    check(model)
    graph = model.graph(IDS)
    assert [a.parameters for a in graph.anchors] == [("table",)]
    assert [(m.parameters, m.shape) for m in graph.meetings] == [((n,), (D,)) for n in ("scale", "bias", "gain")]
    scale, bias, gain = model.operands({}).meetings
    np.testing.assert_array_equal(scale, np.asarray(model.read("scale"), np.float64))
    np.testing.assert_array_equal(bias, np.asarray(model.read("bias"), np.float64))
    np.testing.assert_array_equal(gain, 1 + np.asarray(model.read("gain"), np.float64))


def test_the_operand_is_what_arithmetic_on_parameters_gives() -> None:
    """LoRA, a quantised kernel, a tied and transposed head: whatever is computed from parameters alone."""

    def apply(p: Any, x: Any) -> Any:
        y = x @ (p["w"] + 0.5 * p["a"] @ p["b"]) + x @ (p["q"].astype(jnp.float32) * p["step"])
        return y @ p["table"].T

    q = jnp.asarray(np.random.default_rng(3).integers(-9, 9, (D, D)), jnp.int8)
    model = side(apply, w=draw(D, D), a=draw(D, 2), b=draw(2, D), q=q, step=draw(1, D))
    check(model, 1e-4)
    graph = model.graph(IDS)
    assert [a.parameters for a in graph.anchors] == [("table",), ("a", "b", "w"), ("q", "step"), ("table",)]
    p = {name: np.asarray(model.read(name), np.float64) for name in model.parameters()}
    _, lora, quantised, head = model.operands({}).anchors
    np.testing.assert_allclose(lora, (p["w"] + 0.5 * p["a"] @ p["b"]).T, rtol=1e-13)
    np.testing.assert_allclose(quantised, (p["q"] * p["step"]).T, rtol=1e-13)
    np.testing.assert_array_equal(head, p["table"])


def test_a_convolution_over_tokens() -> None:
    def apply(p: Any, x: Any) -> Any:
        return lax.conv_general_dilated(x, p["w"], (1,), [(2, 0)], dimension_numbers=("NWC", "WIO", "NWC"))

    model = side(apply, w=draw(3, D, 4))
    check(model)
    anchor = model.graph(IDS).anchors[1]
    assert (anchor.features, anchor.contraction) == (4, 3 * D)
    np.testing.assert_array_equal(model.run(IDS).records[1].rows, TOKENS)
    w = np.asarray(model.read("w"), np.float64)
    np.testing.assert_array_equal(model.operands({}).anchors[1], w.transpose(2, 0, 1).reshape(4, 3 * D))


def test_a_depthwise_convolution_is_a_meeting() -> None:
    def apply(p: Any, x: Any) -> Any:
        numbers = ("NWC", "WIO", "NWC")
        return lax.conv_general_dilated(x, p["w"], (1,), [(3, 0)], dimension_numbers=numbers, feature_group_count=D)

    model = side(apply, w=draw(4, 1, D))
    check(model)
    assert [(m.parameters, m.shape) for m in model.graph(IDS).meetings] == [(("w",), (4, D))]


@pytest.mark.parametrize("grouped", [False, True])
def test_each_expert_is_fed_by_its_own(grouped: bool) -> None:
    """Gated experts: the second matrix of an expert reads the first ones of that expert, not of the others."""

    def dense(p: Any, x: Any) -> Any:
        many = jnp.stack([x.reshape(-1, D)] * 3)
        fused = jnp.einsum("end,edf->enf", many, p["fused"]) + p["bias"][:, None]
        gate, up = jnp.split(fused, 2, -1)
        out = jnp.einsum("enf,efd->end", jax.nn.silu(gate) * up, p["down"])
        return out.sum(0).reshape(B, T, D) @ p["last"]

    def ragged(p: Any, x: Any) -> Any:
        sizes = jnp.asarray([3, 5, 2], jnp.int32)
        fused = lax.ragged_dot(x.reshape(-1, D), p["fused"], sizes) + jnp.repeat(
            p["bias"], sizes, 0, total_repeat_length=B * T
        )
        gate, up = jnp.split(fused, 2, -1)
        return lax.ragged_dot(jax.nn.silu(gate) * up, p["down"], sizes).reshape(B, T, D) @ p["last"]

    weights = {"fused": draw(3, D, 8), "bias": draw(3, 8), "down": draw(3, 4, D), "last": draw(D, 3)}
    model = side(ragged if grouped else dense, **weights)
    check(model, 1e-4)
    anchors = model.graph(IDS).anchors
    assert [set(a.feeds) for a in anchors] == [set(), {0}, {0}, {0}, {1}, {2}, {3}, {4, 5, 6}]


def test_experts_that_are_mixed_feed_each_other() -> None:
    def apply(p: Any, x: Any) -> Any:
        first = jnp.einsum("end,edf->enf", jnp.stack([x.reshape(-1, D)] * 3), p["up"])
        return jnp.einsum("enf,efd->end", first + first.sum(0), p["down"]).sum(0)

    model = side(apply, up=draw(3, D, 4), down=draw(3, 4, D))
    assert [set(a.feeds) for a in model.graph(IDS).anchors[4:]] == [{1, 2, 3}] * 3


def moe(grouped: bool) -> JaxSide:
    """Top-2 of 4 experts; tokens sorted by expert and multiplied group by group, or every expert on every token."""
    experts, k = 4, 2

    def apply(p: Any, x: Any) -> Any:
        flat = x.reshape(-1, D)
        weights, chosen = lax.top_k(jax.nn.softmax(flat @ p["router"]), k)
        if not grouped:
            gates = (jax.nn.one_hot(chosen, experts) * weights[..., None]).sum(1)
            return jnp.einsum("nef,ne->nf", jnp.einsum("nd,edf->nef", flat, p["w"]), gates).reshape(B, T, -1)
        order = jnp.argsort(chosen.reshape(-1))
        sizes = jnp.bincount(chosen.reshape(-1), length=experts).astype(jnp.int32)
        out = lax.ragged_dot(flat[order // k], p["w"], sizes) * weights.reshape(-1)[order][:, None]
        return jnp.zeros((B * T, 5)).at[order // k].add(out).reshape(B, T, -1)

    return side(apply, router=draw(D, experts), w=draw(experts, D, 5))


def test_grouped_experts_find_their_tokens() -> None:
    model = moe(grouped=True)
    check(model)
    graph, trace = model.graph(IDS), model.run(IDS)
    assert [(a.op, a.group) for a in graph.anchors[2:]] == [("ragged_dot_general", g) for g in range(4)]
    (choice,), (chosen,) = graph.choices, trace.choices
    assert (choice.options, choice.chosen, choice.feeds) == (4, 2, {1})
    for group, record in enumerate(trace.records[2:]):
        tokens = TOKENS[(chosen.indices == group).any(1)]
        np.testing.assert_array_equal(np.sort(record.rows), tokens)
        assert record.input is not None
        embedded = np.asarray(model.read("table"))[IDS["input_ids"].ravel()[record.rows]]
        np.testing.assert_array_equal(record.input, embedded)
    np.testing.assert_array_equal(chosen.rows, TOKENS)
    # What follows the scatter back to the tokens is again in token order.
    assert graph.output_feeds == {1, 2, 3, 4, 5}


def test_pinned_choices_replace_the_models_own() -> None:
    grouped, dense = moe(grouped=True), moe(grouped=False)
    probabilities = None
    for model in (grouped, dense):
        trace = model.run(IDS)
        (own,) = trace.choices
        router = trace.records[1].output
        probabilities = np.exp(router) / np.exp(router).sum(1, keepdims=True)
        ranked = np.sort(probabilities, 1)
        np.testing.assert_allclose(own.margin, ranked[:, -2] - ranked[:, -3], atol=1e-6)
        np.testing.assert_array_equal(model.run(IDS, choices=[own.indices]).output, trace.output)
        other = (own.indices + 1) % 4
        moved = model.run(IDS, choices=[other])
        assert not np.array_equal(moved.output, trace.output)
        np.testing.assert_array_equal(moved.choices[0].indices, own.indices)  # recorded before pinning
    other = (grouped.run(IDS).choices[0].indices + 1) % 4
    one, two = (model.run(IDS, choices=[other], promoted=True).output for model in (grouped, dense))
    np.testing.assert_allclose(one, two, rtol=1e-10, atol=1e-12)


def test_a_branch_is_captured_whether_taken_or_not() -> None:
    def apply(p: Any, x: Any) -> Any:
        return lax.cond(x[0, 0, 0] > 0, lambda x: x @ p["yes"] + p["bias"], lambda x: x * p["no"], x)

    model = side(apply, yes=draw(D, D), no=draw(D), bias=draw(D, seed=5))
    table = np.array(model.read("table"))
    for sign in (1, -1):
        table[IDS["input_ids"][0, 0], 0] = sign
        trace = model.run(IDS, values={"table": table})
        assert (trace.records[1].rows >= 0).all() == (sign > 0)
    graph = model.graph(IDS)
    assert [a.parameters for a in graph.anchors] == [("table",), ("yes",)]
    assert {m.parameters for m in graph.meetings} == {("no",), ("bias",)}
    assert graph.output_feeds == {0, 1}
    np.testing.assert_array_equal(model.operands({}).anchors[1], np.asarray(model.read("yes"), np.float64).T)
    check(model)


def test_a_while_loop_with_parameters_is_listed_as_opaque() -> None:
    def apply(p: Any, x: Any) -> Any:
        return lax.while_loop(lambda c: jnp.abs(c).max() < 50, lambda c: c @ p["w"] * 2, x) * p["after"]

    model = side(apply, w=draw(D, D), after=draw(D))
    graph = model.graph(IDS)
    assert [(o.op, o.parameters) for o in graph.opaque] == [("while", ("w",))]
    assert [a.parameters for a in graph.anchors] == [("table",)]
    assert [m.parameters for m in graph.meetings] == [("after",)]
    check(model, 1e-3)


def test_a_reverse_and_a_nested_scan_keep_their_iterations() -> None:
    def apply(p: Any, x: Any) -> Any:
        def inner(x: Any, w: Any) -> Any:
            return jnp.tanh(x @ w), None

        def outer(x: Any, w: Any) -> Any:
            y, _ = lax.scan(inner, x * w["scale"], w["inner"])
            return y, y.sum(-1)

        x, sums = lax.scan(outer, x, {"scale": p["scale"], "inner": p["inner"]}, reverse=True)
        return x + sums.sum(0)[..., None]

    model = side(apply, scale=draw(3, D), inner=draw(3, 2, D, D))
    check(model)
    graph, operands = model.graph(IDS), model.operands({})
    order = [(i, j) for i in (2, 1, 0) for j in (0, 1)]
    assert [a.iteration for a in graph.anchors[1:]] == order
    assert [m.iteration for m in graph.meetings] == [(2,), (1,), (0,)]
    inner = np.asarray(model.read("inner"), np.float64)
    for (i, j), operand in zip(order, operands.anchors[1:], strict=True):
        np.testing.assert_array_equal(operand, inner[i, j].T)
    assert [set(a.feeds) for a in graph.anchors[1:]] == [{i} for i in range(6)]


def test_a_learned_initial_state_meets_the_tokens() -> None:
    def apply(p: Any, x: Any) -> Any:
        start = jnp.broadcast_to(p["start"], (B, D))
        _, states = lax.scan(lambda h, token: (h @ p["w"] + token,) * 2, start, x.transpose(1, 0, 2))
        return states.transpose(1, 0, 2)

    model = side(apply, start=draw(D), w=draw(D, D) / 3)
    check(model)
    graph = model.graph(IDS)
    assert [(m.op, m.parameters, m.shape) for m in graph.meetings] == [("scan", ("start",), (D,))]
    assert graph.unused_parameters == ()
    assert [a.iteration for a in graph.anchors[1:]] == [(t,) for t in range(T)]


def test_custom_derivatives_are_looked_through() -> None:
    @jax.custom_vjp
    def project(x: Any, w: Any) -> Any:
        return x @ w

    project.defvjp(lambda x, w: (x @ w, (x, w)), lambda saved, g: (g @ saved[1].T, None))

    @jax.custom_jvp
    def scale(x: Any, w: Any) -> Any:
        return x * w

    scale.defjvp(lambda primals, tangents: (scale(*primals), tangents[0] * primals[1]))
    model = side(lambda p, x: scale(project(x, p["w"]), p["s"]), w=draw(D, 4), s=draw(4))
    check(model)
    graph = model.graph(IDS)
    assert [a.parameters for a in graph.anchors] == [("table",), ("w",)]
    assert [m.parameters for m in graph.meetings] == [("s",)]


def test_a_closed_over_parameter_is_still_a_parameter() -> None:
    kernel = draw(D, 4)
    model = side(lambda p, x: jnp.tanh(x @ kernel) * jnp.asarray([0.1, 0.2, 0.3, 0.4]), w=kernel)
    check(model)
    assert [a.parameters for a in model.graph(IDS).anchors] == [("table",), ("w",)]
    doubled = model.run(IDS, values={"w": np.asarray(kernel) * 2}).records[1].output
    np.testing.assert_allclose(doubled, 2 * model.run(IDS).records[1].output, rtol=1e-6)


def test_casts_to_lower_floats_are_listed_and_promoted_away() -> None:
    def apply(p: Any, x: Any) -> Any:
        half = x.astype(jnp.bfloat16)
        return (half @ p["w"].astype(jnp.bfloat16)).astype(jnp.float32) @ p["out"]

    model = side(apply, w=draw(D, D), out=draw(D, 3))
    (cast,) = model.graph(IDS).casts
    assert (cast.from_dtype, cast.to_dtype, cast.before) == ("float32", "bfloat16", 1)
    assert cast.where.file == __file__
    trace, promoted = model.run(IDS), model.run(IDS, promoted=True)
    assert str(trace.records[1].output.dtype) == "bfloat16"
    p = {name: np.asarray(model.read(name), np.float64) for name in model.parameters()}
    expected = p["table"][IDS["input_ids"]] @ p["w"] @ p["out"]
    np.testing.assert_allclose(promoted.output.reshape(expected.shape), expected, rtol=1e-12, atol=1e-13)
    assert np.abs(trace.output - promoted.output).max() > 1e-4
    np.testing.assert_array_equal(model.operands({}).anchors[1], p["w"].T)


def test_rows_survive_being_moved_about() -> None:
    def apply(p: Any, x: Any) -> Any:
        flat = x.transpose(1, 0, 2).reshape(T * B, D)[::-1]
        flat = jnp.concatenate([flat[3:], flat[:3]])
        y = jnp.pad(flat @ p["w"], ((1, 2), (0, 0)))[1:-2]
        return jnp.roll(y, 3, 0)[::-1].reshape(T, B, D).transpose(1, 0, 2) @ p["out"]

    model = side(apply, w=draw(D, D), out=draw(D, 4))
    check(model)
    trace = model.run(IDS)
    moved = TOKENS.reshape(B, T).T.reshape(-1)[::-1]
    np.testing.assert_array_equal(trace.records[1].rows, np.concatenate([moved[3:], moved[:3]]))
    np.testing.assert_array_equal(trace.records[2].rows, TOKENS)


def test_pooled_rows_belong_to_no_token() -> None:
    model = side(lambda p, x: x.mean(1) @ p["w"], w=draw(D, 4))
    np.testing.assert_array_equal(model.run(IDS).records[1].rows, [-1, -1])


@pytest.mark.parametrize("place", ["w", "scale"])
def test_the_first_nonfinite_value_is_named(place: str) -> None:
    model = side(lambda p, x: (x * p["scale"]) @ p["w"] @ p["late"], w=draw(D, 4), scale=draw(D), late=draw(4, 3))
    assert model.run(IDS).nonfinite is None
    value = np.array(model.read(place))
    value.flat[1] = np.nan
    found = model.run(IDS, values={place: value}).nonfinite
    assert found is not None
    assert found.startswith("out of dot_general with w" if place == "w" else "in of dot_general with w")


def test_what_the_output_does_not_need_is_unused() -> None:
    def apply(p: Any, x: Any) -> Any:
        _ = x @ p["dead"]
        return x @ p["w"]

    model = side(apply, w=draw(D, 4), dead=draw(D, 3), never=draw(2))
    assert model.graph(IDS).unused_parameters == ("dead", "never")
