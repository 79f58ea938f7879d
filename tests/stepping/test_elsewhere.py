"""The same verbs where the source ran elsewhere."""

from __future__ import annotations

import pytest

from ckptdbg.errors import LoaderError
from ckptdbg.session import open_session


@pytest.fixture
def elsewhere(on_torch, tmp_path):
    """The torch conversion with its source taken from a trace: here it cannot even be loaded."""
    source = on_torch.config.source.model_copy(update={"loader": "no_such_package:load"})
    config = on_torch.config.model_copy(update={"source": source})
    with pytest.raises(LoaderError, match="no_such_package"):
        _ = open_session(config).source
    return open_session(config, source_trace=on_torch.capture(tmp_path / "trace"))


def test_everything_is_as_where_the_source_runs(elsewhere, torch_stepper):
    here = torch_stepper
    assert str(elsewhere.cont()) == str(here.continue_())
    assert str(elsewhere.show()) == str(here.show())
    assert str(elsewhere.plant(layers=True)) == str(here.plant(layers=True))
    there = elsewhere.try_(1)
    assert there.mended
    assert there.alone == here.try_(1).alone
    elsewhere.apply()
    assert elsewhere.cont().note == "no divergence lies ahead"
    elsewhere.undo()
    assert elsewhere.stepper.applied == 0


def test_what_cannot_be_done_there_is_said(elsewhere, torch_stepper):
    said = "not verified on other tokens: the source ran elsewhere"
    assert said in str(elsewhere.try_(1))
    assert said not in str(torch_stepper.try_(1))
    assert "not verified on other tokens: `ckptdbg compare` does that" in str(
        torch_stepper.try_("mlp.down", "{scale: 2}")
    )
