"""Two faulty conversions, compared once: one on JAX, one on torch. A test takes a cursor of its own."""

from __future__ import annotations

import pytest

from ckptdbg.samples.build import build_sample
from ckptdbg.session import Session, open_session
from ckptdbg.stepping.stepper import Stepper


@pytest.fixture(scope="session")
def on_jax(tmp_path_factory) -> Session:
    """A mistake in the mapping, in both layers; one in the checkpoint, in the last."""
    faults = ("query-not-interleaved", "checkpoint-gate-up-swapped@1")
    session = open_session(build_sample(tmp_path_factory.mktemp("on_jax"), "llama_to_nnx", faults, num_hidden_layers=2))
    assert session.comparison.output.free.divergent
    return session


@pytest.fixture(scope="session")
def on_torch(tmp_path_factory) -> Session:
    """A mistake in the mapping, in both layers."""
    folder = tmp_path_factory.mktemp("on_torch")
    session = open_session(build_sample(folder, "llama_to_torch", ("gate-up-order",), num_hidden_layers=2))
    assert session.comparison.output.free.divergent
    return session


@pytest.fixture
def jax_stepper(on_jax) -> Stepper:
    return Stepper(on_jax)


@pytest.fixture
def torch_stepper(on_torch) -> Stepper:
    return Stepper(on_torch)
