"""Experts' weights that add up to one on one side only are told by an experiment, whichever side it is."""

from __future__ import annotations

import pytest

from ckptdbg.diagnose.definitions.meanings import ROUTER_NORM
from ckptdbg.diagnose.definitions.routers import normalised_on_one_side
from ckptdbg.diagnose.regions import find_places
from ckptdbg.repair.source import definitions, source_replay
from ckptdbg.samples.build import build_sample
from ckptdbg.session import open_session


def opened(config):
    session = open_session(config)
    return session, find_places(session.comparison)


@pytest.mark.parametrize(
    ("by", "other"), [("source", "target"), pytest.param("target", "source", marks=pytest.mark.slow)]
)
def test_the_side_whose_weights_add_up_to_one_is_named(by, other, tmp_path):
    if by == "source":
        config = build_sample(tmp_path, "mixtral_to_jax", ("router-not-normalised",), num_hidden_layers=2)
    else:
        config = build_sample(tmp_path, "qwen3_moe_to_jax", num_hidden_layers=2, norm_topk_prob=False)
        text = config.read_text()
        config.write_text(text.replace("normalise_top_k: false", "normalise_top_k: true"))
        assert config.read_text() != text
    session, places = opened(config)
    why = definitions(session, session.comparison)
    why.experiments.differences = []
    causes = why.known(places)
    assert causes is not None
    assert causes.meaning is ROUTER_NORM
    assert f"in the {by} the weights of a token's chosen experts add up to one, in the {other} they do not" in (
        causes.proved or ""
    )


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["gelu-for-silu", "experts-swapped@1", "norm-plus-one", "expert-gate-up-swapped"])
def test_no_other_fault_behind_a_router_is_called_that(fault, tmp_path):
    session, places = opened(build_sample(tmp_path, "mixtral_to_jax", (fault,), num_hidden_layers=2))
    comparison = session.comparison
    replay = source_replay(session, comparison)
    assert places
    assert [normalised_on_one_side(comparison, replay, p) for p in places] == [None] * len(places)
