"""torchtitan's own adapters, traced in both directions: the mapping gives the adapter's bits."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.mapping.tracing import trace
from ckptdbg.models.loaders.function import find_function
from ckptdbg.samples.pairs import sample_configs

SIZES = {"layers": 12, "dim": 48, "heads": 6, "kv_heads": 3, "head_dim": 12, "mlp": 112, "vocab": 131}


def adapter_of(family: str):
    torch = pytest.importorskip("torch")
    pytest.importorskip("torchtitan")
    configure = find_function("torchtitan_models.py:configure", sample_configs() / "interop")
    config = configure(family, **SIZES, norm_epsilon=1e-6, rope_theta=10000.0, max_length=64)
    with torch.device("meta"):
        model = config.build()
    module = importlib.import_module(f"torchtitan.models.{family}.state_dict_adapter")
    adapter = getattr(module, f"{family.capitalize()}StateDictAdapter")(config, None)
    return adapter, {n: TensorSpec(tuple(v.shape), "float32") for n, v in model.state_dict().items()}


def in_numpy(function):
    from ckptdbg.models.torch_side.border import to_numpy, to_torch

    return lambda tensors: {n: to_numpy(v) for n, v in function({k: to_torch(a) for k, a in tensors.items()}).items()}


def differing(traced, function, tensors):
    """Targets that the traced mapping makes otherwise than the function."""
    specs = {n: TensorSpec(a.shape, a.dtype.name) for n, a in tensors.items()}
    wanted = function(tensors)
    made = traced.mapping.bind({}, specs, traced.specs).values(lambda n: tensors[n])
    return {n for n, value, _ in made if value.tobytes() != wanted[n].tobytes()} | (set(wanted) ^ set(traced.specs))


@pytest.mark.interop
@pytest.mark.parametrize("family", ["llama3", "qwen3"])
def test_an_adapter_becomes_a_mapping_in_both_directions(family):
    adapter, specs = adapter_of(family)
    generator = np.random.default_rng(3)
    own = {n: generator.standard_normal(s.shape).astype(np.float32) for n, s in specs.items()}
    to_hf, from_hf = in_numpy(adapter.to_hf), in_numpy(adapter.from_hf)
    there = trace(to_hf, specs, {}, f"{family}.to_hf")
    back = trace(from_hf, there.specs, {}, f"{family}.from_hf")
    for traced, function, tensors in ((there, to_hf, own), (back, from_hf, to_hf(own))):
        assert traced.untraced == traced.inexact == ()
        assert len(traced.mapping.entries) < 20
        assert differing(traced, function, tensors) == set()
    rotary = [e for e in back.mapping.entries if any("two" in op.written for op in e.ops)]
    assert len(rotary) == (2 if family == "llama3" else 0)
