"""Planting: what recovers when one place is right."""

from __future__ import annotations

import logging

import jax
import pytest

from ckptdbg.errors import CkptdbgError
from ckptdbg.samples.build import build_sample
from ckptdbg.session import open_session
from ckptdbg.stepping.stepper import Stepper


def at(stepper, name):
    """The cursor at the stop of this name."""
    stepper.goto(next(stop.order for stop in stepper.stops if stop.name == name))
    return stepper


def test_what_follows_is_quiet_up_to_the_next_fault(jax_stepper):
    jax_stepper.continue_()
    planted = jax_stepper.plant()
    again = jax_stepper.continue_()
    assert planted.left[0].order == again.order
    assert planted.recovered
    assert all(change.order < again.order for change in planted.recovered)
    assert all(change.after < 10 for change in planted.recovered)
    assert planted.output.diverges
    assert "differs again from  layer 1" in str(planted)


def test_the_rest_is_quiet_where_the_fault_was_the_only_one(torch_stepper):
    torch_stepper.continue_()
    assert torch_stepper.plant().output.diverges  # the other layer has the same fault
    planted = torch_stepper.plant(layers=True)
    assert len(planted.places) == 2
    assert planted.left == ()
    assert planted.output.recovered
    assert planted.output.after < 10 < planted.output.before
    assert str(planted).endswith("at noise")


def test_a_plant_beside_the_fault_mends_nothing(torch_stepper):
    planted = at(torch_stepper, "layers.0.attention.wo.weight out").plant()
    assert planted.recovered == ()
    assert planted.output.diverges


def test_a_region_is_planted_in_all_that_read_it(jax_stepper):
    planted = at(jax_stepper, "decoder/layers_1/self_attention/key/kernel in").plant()
    assert [name.split("/")[3] for name in planted.places] == ["query", "key", "value"]
    recovered = {change.name for change in planted.recovered}
    assert {f"decoder/layers_1/self_attention/{part}/kernel out" for part in ("query", "key", "value")} <= recovered


def test_blocks_and_the_output_cannot_be_planted(torch_stepper):
    for port in ("block", "output"):
        torch_stepper.goto(next(stop.order for stop in torch_stepper.stops if stop.row.port == port))
        with pytest.raises(CkptdbgError, match="nothing can be planted"):
            torch_stepper.plant()


@pytest.mark.slow
def test_experts_of_one_matrix_are_planted_together(tmp_path):
    faults = ("expert-gate-up-swapped",)
    stepper = Stepper(open_session(build_sample(tmp_path, "mixtral_to_jax", faults, num_hidden_layers=1)))
    stepper.continue_()
    planted = stepper.plant()
    assert len(planted.places) > 1
    assert planted.left == ()
    assert planted.output.recovered


class Compiled(logging.Handler):
    """Counts what JAX compiles."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "Compiling" in record.getMessage():
            self.messages.append(record.getMessage())


@pytest.fixture
def compiled():
    handler, logger = Compiled(), logging.getLogger("jax")
    logger.addHandler(handler)
    with jax.log_compiles():
        yield handler.messages
    logger.removeHandler(handler)


def test_plants_and_trials_compile_nothing(jax_stepper, compiled):
    jax_stepper.continue_()
    del compiled[:]
    jax_stepper.plant()
    jax_stepper.plant(layers=True)
    jax_stepper.try_("attention.query", "{scale: 2}", "last")
    assert compiled == []
    jax.jit(lambda x: x * 17 + 4)(3.0)
    assert compiled != []  # the counter can count
