"""A module that stores a fused parameter split: the mapping speaks of the parts, the side of the whole."""

import ml_dtypes
import numpy as np
import pytest
import torch

from ckptdbg.errors import LoaderError
from ckptdbg.models.loaders import Loaded, wrap_model
from ckptdbg.models.loaders.state_dict import StateDict


class Split(torch.nn.Module):
    """``fused`` [4, 3] is stored as ``lower`` (its last three rows) and ``upper`` (its first)."""

    def __init__(self) -> None:
        super().__init__()
        self.fused = torch.nn.Parameter(torch.arange(12.0).reshape(4, 3))
        self.scale = torch.nn.Parameter(torch.ones(4))
        self.register_state_dict_post_hook(self.split)
        self.register_load_state_dict_pre_hook(self.join)

    @staticmethod
    def split(module, state, prefix, metadata):
        fused = state.pop(prefix + "fused")
        state[prefix + "upper"], state[prefix + "lower"] = fused[:1].clone(), fused[1:].clone()

    @staticmethod
    def join(module, state, prefix, *_):
        parts = [state.pop(prefix + name) for name in ("upper", "lower")]
        state[prefix + "fused"] = torch.cat(parts)

    def forward(self, input_ids):
        return torch.nn.functional.one_hot(input_ids % 3, 3).float() @ self.fused.T * self.scale


@pytest.fixture
def loaded() -> Loaded:
    return wrap_model(Split())


def test_mappings_speak_of_the_state_dict(loaded):
    assert isinstance(loaded, StateDict)
    assert {name: spec.shape for name, spec in loaded.specs.items()} == {
        "scale": (4,),
        "upper": (1, 3),
        "lower": (3, 3),
    }
    assert set(loaded.side.parameters()) == {"fused", "scale"}
    np.testing.assert_array_equal(loaded.read("lower"), np.arange(12.0).reshape(4, 3)[1:])


@pytest.mark.parametrize("dtype", [np.float32, np.float64, ml_dtypes.bfloat16])
def test_tensors_become_parameters_and_leave_the_model_alone(loaded, dtype):
    values = {"upper": np.full((1, 3), 7), "lower": np.arange(9).reshape(3, 3), "scale": np.full(4, 2.5)}
    given = {name: value.astype(dtype) for name, value in values.items()}
    before = loaded.side.read("fused")
    made = loaded.to_parameters(given.__getitem__)
    assert made["fused"].dtype == np.float64
    np.testing.assert_array_equal(made["fused"], np.concatenate([values["upper"], values["lower"]]))
    np.testing.assert_array_equal(made["scale"], values["scale"])
    np.testing.assert_array_equal(loaded.side.read("fused"), before)


def test_what_is_set_is_what_runs(loaded):
    values = {"upper": np.full((1, 3), 7.0), "lower": np.zeros((3, 3)), "scale": np.full(4, 2.0)}
    loaded.set(loaded.to_parameters(values.__getitem__))
    output = loaded.side.run({"input_ids": np.array([[0, 1]])}).output
    np.testing.assert_array_equal(output, [[14, 0, 0, 0]] * 2)


def test_a_name_of_the_state_dict_is_no_parameter(loaded):
    with pytest.raises(LoaderError, match=r"the model has no parameter 'upper'; expected fused, scale"):
        loaded.set({"upper": np.ones((1, 3))})


def test_tied_parameters_cannot_hold_two_values():
    module = Split()
    module.other = torch.nn.Module()
    module.other.weight = module.scale
    loaded = wrap_model(module)
    with pytest.raises(LoaderError, match=r"scale is tied to another parameter that was given another value"):
        loaded.set({"scale": np.ones(4), "other.weight": np.zeros(4)})
