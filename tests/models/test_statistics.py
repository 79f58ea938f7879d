"""Statistics without values: the same numbers that NumPy finds in the values of a whole capture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax_decoders as d
import numpy as np
import pytest
import torch
import torch_families as families
from typer.testing import CliRunner

import ckptdbg as cd
from ckptdbg import cli
from ckptdbg.models.jax_model import JaxModel
from ckptdbg.models.jax_side import JaxSide, summing
from ckptdbg.models.records import Array, Side, Statistics, Summary, Trace
from ckptdbg.models.torch_side import TorchSide
from ckptdbg.models.torch_side.summing import summarise
from ckptdbg.samples.build import build_sample

FIGURES = ("mean", "std", "min", "max")


def expected(values: Array) -> Summary:
    """By NumPy in float64."""
    wide = np.asarray(values, np.float64)
    finite = wide[np.isfinite(wide)]
    figures = [float(getattr(finite, name)()) if finite.size else np.nan for name in FIGURES]
    return Summary(*figures, nonfinite=wide.size - finite.size)


def check(found: Summary | None, values: Array | None, rounding: float = 2e-6) -> None:
    if found is None or values is None:
        assert (found, values) == (None, None)
        return
    right = expected(values)
    assert found.nonfinite == right.nonfinite
    if np.isnan(right.mean):
        assert all(np.isnan(getattr(found, name)) for name in FIGURES)
        return
    size = max(abs(right.min), abs(right.max))
    for name in FIGURES:
        assert abs(getattr(found, name) - getattr(right, name)) <= rounding * size, name
    assert abs(found.std - right.std) <= 10 * rounding * right.std + 1e-12 * size


def agree(found: Statistics, trace: Trace, rounding: float = 2e-6) -> None:
    assert len(found.outputs) == len(found.inputs) == len(trace.records) == len(found.graph.anchors)
    for given, out, record in zip(found.inputs, found.outputs, trace.records, strict=True):
        check(given, record.input, rounding)
        check(out, record.output, rounding)
    for block, values in zip(found.blocks, trace.blocks, strict=True):
        check(block, values, rounding)
    check(found.output, trace.output, rounding)


def torch_side(family: str, dtype: torch.dtype = torch.float32) -> Side:
    return TorchSide(families.make(family).to(dtype))


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "qwen3-moe-eager", "qwen3-moe-grouped"])
def test_torch_finds_what_numpy_finds(family: str) -> None:
    inputs = families.inputs_of(family)
    full, first = torch_side(family), torch_side(family)
    walked = first.statistics(inputs)  # the walk itself
    agree(walked, full.run(inputs))
    assert walked.graph == full.graph(inputs)
    agree(first.statistics(inputs), full.run(inputs))  # a later pass


@pytest.mark.parametrize(
    "model",
    [
        lambda: JaxModel(d.unrolled, d.random_params()),
        lambda: JaxModel(d.scanned, d.random_params(stacked=True)),
        lambda: d.NnxDecoder(d.random_params()),
    ],
    ids=["unrolled", "scanned", "nnx"],
)
def test_jax_finds_what_numpy_finds(model: Callable[[], Any]) -> None:
    side = JaxSide(model())
    agree(side.statistics(d.ids()), side.run(d.ids()))


def experts(p: Any, i: Any) -> Any:
    """Tokens sorted by expert and multiplied group by group; nobody chooses the last expert."""
    x = p["table"][i["input_ids"]].reshape(d.BATCH * d.LENGTH, -1)
    chosen = jnp.argmax(x @ p["router"], -1)
    order = jnp.argsort(chosen)
    out = jax.lax.ragged_dot(x[order], p["w"], jnp.bincount(chosen, length=4).astype(jnp.int32))
    return jnp.zeros_like(out).at[order].set(out).reshape(d.BATCH, d.LENGTH, -1)


def test_jax_experts_are_summed_up_apart() -> None:
    rng = np.random.default_rng(0)
    shapes = {"table": (d.VOCAB, 8), "router": (8, 3), "w": (4, 8, 6)}
    side = JaxSide(JaxModel(experts, {n: jnp.asarray(rng.normal(size=s), jnp.float32) for n, s in shapes.items()}))
    trace = side.run(d.ids())
    sizes = [len(record.rows) for record in trace.records[2:]]
    assert len(set(sizes)) == 4
    assert sizes[-1] == 0
    agree(side.statistics(d.ids()), trace)


def test_a_scanned_layer_has_a_line_per_iteration() -> None:
    frame = JaxSide(JaxModel(d.scanned, d.random_params(stacked=True))).statistics(d.ids()).to_frame()
    lines = frame.query("site == 'layers/q' and port == 'out'")
    assert list(lines["layer"]) == ["0", "1", "2"]
    assert len({*lines["std"]}) == 3
    unrolled = JaxSide(JaxModel(d.unrolled, d.random_params())).statistics(d.ids()).to_frame()
    same = unrolled.query("site.str.endswith('/q') and port == 'out'")
    assert list(same["layer"]) == ["0", "1", "2"]
    np.testing.assert_allclose(lines["std"], same["std"], rtol=1e-5)


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_low_precision_is_summed_in_float32(framework: str) -> None:
    if framework == "torch":
        side, inputs = torch_side("llama", torch.bfloat16), families.inputs_of("llama")
    else:
        side = JaxSide(JaxModel(d.unrolled, jax.tree.map(lambda x: x.astype(jnp.bfloat16), d.random_params())))
        inputs = d.ids()
    trace = side.run(inputs)
    assert trace.records[0].output.dtype == "bfloat16"
    agree(side.statistics(inputs), trace, rounding=1e-3)  # compiled with other outputs, it may be fused otherwise


def grown(framework: str) -> tuple[Side, dict[str, Array], str]:
    """A side, its inputs and the name of a matrix in its middle layer."""
    if framework == "torch":
        return torch_side("llama"), families.inputs_of("llama"), "model.layers.1.mlp.down_proj.weight"
    return JaxSide(JaxModel(d.unrolled, d.random_params())), d.ids(), "layers/1/down"


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_a_planted_scale_is_seen(framework: str) -> None:
    side, inputs, name = grown(framework)
    before = side.statistics(inputs)
    after = side.statistics(inputs, values={name: 3 * side.read(name)})
    changed = [
        anchor.parameters
        for anchor, old, new in zip(before.graph.anchors, before.outputs, after.outputs, strict=True)
        if abs(new.std / old.std - 1) > 1e-4
    ]
    at = next(anchor.index for anchor in before.graph.anchors if anchor.parameters == (name,))
    assert changed[0] == (name,)
    assert after.outputs[at].std == pytest.approx(3 * before.outputs[at].std, rel=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_what_is_not_finite_is_counted_and_left_out(framework: str, bad: float) -> None:
    side, inputs, name = grown(framework)
    broken = np.array(side.read(name))
    column = (0, slice(None)) if framework == "torch" else (slice(None), 0)  # of one output feature
    broken[column] = bad
    values = {name: broken}
    found = side.statistics(inputs, values=values)
    at = next(anchor.index for anchor in found.graph.anchors if anchor.parameters == (name,))
    rows = len(side.run(inputs).records[at].rows)
    assert [summary.nonfinite for summary in found.outputs[:at]] == [0] * at
    assert found.outputs[at].nonfinite == rows
    assert np.isfinite(found.outputs[at].std)
    trace = side.run(inputs, values=values)
    check(found.outputs[at], trace.records[at].output)
    assert found.output.nonfinite == expected(trace.output).nonfinite > 0


VALUES = {
    "far from zero": 1e4 + np.random.default_rng(0).normal(size=(30, 700)),
    "one outlier": np.where(
        np.arange(21000).reshape(30, 700) == 5, 1e5, np.random.default_rng(1).normal(size=(30, 700))
    ),
    "over the range of sums": np.full((30, 700), 1e38),
    "squares over the range": 1e25 * np.random.default_rng(2).normal(size=(30, 700)),
    "some not finite": np.where(np.arange(21000).reshape(30, 700) % 7 == 0, np.nan, 3.0) + np.eye(30, 700),
    "none finite": np.full((3, 4), np.inf),
    "empty": np.zeros((0, 4)),
    "many": np.abs(np.random.default_rng(3).normal(size=(3000, 700))),
}


@pytest.mark.parametrize("how", ["torch", "host"])
@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_hard_values(values: Array, how: str) -> None:
    values = values.astype(np.float32)
    found = summarise(torch.from_numpy(values)) if how == "torch" else summing.summarise(values)
    check(found, values, rounding=1e-6)


@pytest.mark.parametrize("case", ["one outlier", "some not finite", "none finite", "many"])
def test_an_accelerator_finds_the_same(case: str) -> None:
    values = VALUES[case].astype(np.float32)
    mean, std, low, high, finite = map(float, summing.on_device(jnp.asarray(values)))
    check(Summary(mean, std, low, high, values.size - int(finite)), values, rounding=1e-6)


def test_a_capture_can_keep_statistics_only() -> None:
    model, inputs = families.make("llama"), families.inputs_of("llama")
    found = cd.capture(model, inputs, statistics=True)
    graph, trace = cd.capture(model, inputs)
    assert found.graph == graph
    agree(found, trace)
    frame = found.to_frame()
    assert list(frame.columns) == ["site", "port", "layer", "mean", "std", "min", "max", "nonfinite"]
    lookups = sum(anchor.kind == "lookup" for anchor in graph.anchors)
    assert len(frame) == 2 * len(graph.anchors) - lookups + len(graph.blocks) + 1
    assert list(frame["port"])[-1] == "output"
    assert str(found).count("\n") == len(frame)
    sites = list(frame["site"])
    assert sites[sites.index("model.norm") - 1] == graph.blocks[-2]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(build_sample(tmp_path_factory.mktemp("sample"), "llama_to_nnx", faults=("query-not-interleaved",)))


@pytest.mark.parametrize(
    ("side", "site"), [("source", "model.layers.3.mlp.up_proj.weight"), ("target", "decoder/layers_3/mlp/wi_1/kernel")]
)
def test_the_command_prints_a_line_per_port(config: str, side: str, site: str) -> None:
    done = CliRunner().invoke(cli.app, ["capture", config, "--stats", "--side", side])
    assert done.exit_code == 0, done.stderr
    head, *lines = done.stdout.splitlines()
    assert head.split() == ["site", "port", "layer", "mean", "std", "min", "max", "nonfinite"]
    found = {(fields[0], fields[1]): fields[2:] for fields in map(str.split, lines)}
    assert found[site, "out"][0] == "3"
    assert found[site, "out"][-1] == "0"
    assert float(found["output", "output"][1]) > 0


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ([], "a capture either writes a trace or prints statistics; found neither; expected -o TRACE or --stats"),
        (["--stats", "-o", "t"], "a capture either writes a trace or prints statistics; found both;"),
        (["--side", "target", "-o", "t"], "a trace is of the source; found --side target; --stats shows either side"),
    ],
)
def test_the_command_says_what_it_cannot_capture(config: str, options: list[str], line: str) -> None:
    done = CliRunner().invoke(cli.app, ["capture", config, *options])
    assert done.exit_code == 2
    assert done.stderr.startswith(f"ckptdbg: {line}")
    assert done.stderr.count("\n") == 1
