"""Promotion to float64, jitter, and the casts that a model makes by itself."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import nn
from torch_families import FAMILIES, inputs_of, make, randomise, relative

from ckptdbg.models.torch_side import TorchSide


class Small(nn.Module):
    """Casts down and up in its own code, as real models do."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.norm, self.down = nn.Linear(6, 9), nn.Parameter(torch.ones(9)), nn.Linear(9, 4, bias=False)
        self.register_buffer("table", torch.linspace(0.1, 0.7, 9), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(self.up(x)).to(torch.bfloat16).float()
        variance = hidden.pow(2).mean(-1, keepdim=True)
        hidden = hidden * torch.rsqrt(variance + 1e-6) * (1 + self.norm)
        return self.down(hidden + self.table * torch.arange(9, dtype=torch.float32) ** 0.5)


def _inputs():
    return {"x": np.random.default_rng(0).standard_normal((2, 7, 6)).astype(np.float32)}


def _reference(side, x):
    read = {name: side.read(name).astype(np.float64) for name in side.parameters()}
    hidden = np.tanh(x.astype(np.float64) @ read["up.weight"].T + read["up.bias"])
    hidden = hidden / np.sqrt((hidden**2).mean(-1, keepdims=True) + 1e-6) * (1 + read["norm"])
    table = torch.linspace(0.1, 0.7, 9).numpy().astype(np.float64) * np.arange(9) ** 0.5
    return (hidden + table) @ read["down.weight"].T


def test_promoted_is_the_float64_computation():
    side = TorchSide(randomise(Small()))
    x = _inputs()["x"]
    expected = _reference(side, x).reshape(14, 4)
    assert relative(side.run({"x": x}, promoted=True).output, expected) < 1e-14
    assert relative(side.run({"x": x}).output, expected) > 1e-4  # the cast inside shows


def test_casts_are_listed_with_their_place():
    side = TorchSide(randomise(Small()))
    (cast,) = side.graph(_inputs()).casts
    assert (cast.from_dtype, cast.to_dtype, cast.before) == ("float32", "bfloat16", 1)
    assert cast.where.file == __file__
    assert cast.where.line is not None
    with open(__file__) as source:
        assert "bfloat16" in source.readlines()[cast.where.line - 1]


def test_the_plain_run_leaves_casts_alone():
    module = randomise(Small())
    with torch.no_grad():
        expected = module(torch.from_numpy(_inputs()["x"])).numpy()
    np.testing.assert_array_equal(TorchSide(module).run(_inputs()).output, expected.reshape(14, 4))


def test_a_bfloat16_model_is_promoted_from_its_own_values():
    low = make("llama").to(torch.bfloat16)
    high = make("llama")
    high.load_state_dict({name: tensor.float() for name, tensor in low.state_dict().items()})
    for constant, rounded in zip(high.buffers(), low.buffers(), strict=True):
        constant.copy_(rounded)  # the rotary frequencies were cast along with the model
    inputs = inputs_of("llama")
    trace = TorchSide(low).run(inputs)
    assert trace.output.dtype == ml_dtypes.bfloat16
    assert trace.records[3].input.dtype == ml_dtypes.bfloat16
    promoted, expected = (TorchSide(module).run(inputs, promoted=True) for module in (low, high))
    assert relative(promoted.output, expected.output) < 1e-12
    assert 1e-3 < relative(trace.output, promoted.output) < 1e-1


@pytest.mark.parametrize("family", FAMILIES)
def test_jitter_is_rounding_sized(family):
    """One ulp of the constants moves the promoted output by no more than float32 rounding does; masks survive."""
    side, inputs = TorchSide(make(family)), inputs_of(family)
    pins = [choose.indices for choose in side.run(inputs).choices]
    promoted = side.run(inputs, promoted=True, choices=pins)
    jittered = side.run(inputs, promoted=True, jitter=1, choices=pins)
    assert 0 < relative(jittered.output, promoted.output) < 2e-6
    again = side.run(inputs, promoted=True, jitter=1, choices=pins)
    np.testing.assert_array_equal(again.output, jittered.output)


def test_jitter_of_a_rotary_decoder():
    side, inputs = TorchSide(make("llama")), inputs_of("llama")
    promoted = side.run(inputs, promoted=True).output
    moved = [side.run(inputs, promoted=True, jitter=seed).output for seed in (1, 2)]
    assert all(1e-8 < relative(output, promoted) < 1e-6 for output in moved)
    assert relative(moved[0], moved[1]) > 1e-8
    assert 0 < relative(side.run(inputs, jitter=1).output, side.run(inputs).output) < 1e-5


class Constants(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([2.5, 3.5]))
        self.register_buffer("mask", torch.tensor([-torch.inf, 0.0, 1.0, 0.5, -3.4e38, 0.3]), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([(x[:, :1] + self.mask), x * 1.0 * self.scale, (x * 0.3) ** 2.0], -1)


def test_jitter_leaves_alone_what_cannot_have_been_rounded():
    side = TorchSide(Constants())
    inputs = {"x": np.zeros((1, 2), np.float32)}
    plain, moved = (side.run(inputs, promoted=True, jitter=seed).output[0] for seed in (None, 3))
    np.testing.assert_array_equal(moved[:5], plain[:5])
    assert 0 < abs(moved[5] / plain[5] - 1) < 2.0**-22
    inputs = {"x": np.ones((1, 2), np.float32)}
    plain, moved = (side.run(inputs, promoted=True, jitter=seed).output[0] for seed in (None, 3))
    np.testing.assert_array_equal(moved[6:8], plain[6:8])  # a parameter, and a factor of one
    assert (moved[8:] != plain[8:]).all()


def test_values_are_cast_to_the_models_dtype_unless_promoted():
    side = TorchSide(nn.Linear(3, 2, bias=False), rename_inputs={"input": "x"})
    inputs = {"x": np.ones((1, 4, 3), np.float32)}
    value = {"weight": np.full((2, 3), 1 / 3)}
    assert side.run(inputs, values=value).output.dtype == np.float32
    promoted = side.run(inputs, values=value, promoted=True).output
    np.testing.assert_allclose(promoted, 1.0, rtol=1e-15)
    assert side.run(inputs).output[0, 0] != side.run(inputs, values=value).output[0, 0]
