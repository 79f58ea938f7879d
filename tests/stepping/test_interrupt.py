"""An interrupt loses what was under way and nothing else."""

from __future__ import annotations

import gc
import signal
import threading
import time
from collections import Counter
from contextlib import suppress

import numpy as np
import pytest

from ckptdbg.errors import CkptdbgError
from ckptdbg.models.torch_side.side import TorchSide
from ckptdbg.samples.build import build_sample
from ckptdbg.session import open_session
from ckptdbg.stepping.stepper import Stepper


@pytest.fixture
def config(tmp_path):
    return build_sample(tmp_path, "llama_to_torch", ("gate-up-order",), num_hidden_layers=2)


def told(result):
    return result.model_dump(exclude={"timings"})


class Interrupting:
    """Progress that is interrupted when a stage begins that was not reached before."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.reached: set[str] = set()

    def __call__(self, stage: str) -> None:
        stage = stage.partition(", run ")[0]  # every run of a search is counted
        self.stages.append(stage)
        if stage not in self.reached:
            self.reached.add(stage)
            raise KeyboardInterrupt


def test_what_was_finished_before_an_interrupt_is_kept(config):
    whole = open_session(config).compare()
    session, progress = open_session(config), Interrupting()
    result = None
    while result is None:
        with suppress(KeyboardInterrupt):
            result = session.compare(progress=progress)
    assert told(result) == told(whole)
    # each stage is begun, interrupted, begun again and then kept, up to those that try repairs
    begun = Counter(progress.stages[: progress.stages.index("looking for causes")])
    assert begun["reading the target's layouts"] == 4  # it was also interrupted by the two stages it begins with
    assert begun["running the target"] > 2  # one name for two stages
    others = [n for stage, n in begun.items() if stage not in ("reading the target's layouts", "running the target")]
    assert others == [2] * len(others)
    assert len(others) >= 6


@pytest.mark.parametrize("number", [0, 1, 4])
def test_an_interrupted_diagnosis_can_be_begun_again(on_torch, config, monkeypatch, number):
    """The models are interrupted while they run, in the middle of a layer, in float64."""
    whole = told(on_torch.compare())
    session = open_session(config)
    comparison = session.comparison
    run, calls = TorchSide.run, []

    def interrupted(side, *args, **kwargs):
        calls.append(side)
        if len(calls) > number:
            with monkeypatch.context() as inside:
                inside.setattr("ckptdbg.models.torch_side.execute.Execution.leave", stop)
                return run(side, *args, **kwargs)
        return run(side, *args, **kwargs)

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TorchSide, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            _ = session.diagnosis
    assert len(calls) == number + 1
    assert session.comparison is comparison
    again = told(session.compare())
    assert [f["explanation"] for f in again["findings"]] == [f["explanation"] for f in whole["findings"]]
    assert again["findings"][0]["repair"]["verified"]


@pytest.mark.slow
# an interrupt that strikes in a destructor, or while a folder is listed, is Python's to lose
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("seconds", [0.02, 0.1, 0.3, 0.7])
def test_an_interrupt_at_any_moment_leaves_the_models_as_they_were(on_torch, seconds):
    """By a signal, as from a keyboard: wherever it strikes, the next try gives what an undisturbed one gives."""
    stepper = Stepper(on_torch)
    stepper.continue_()
    undisturbed = stepper.plant(), stepper.try_("attention.out", "{scale: 2}")
    places, states = [stop.free.working.ratio for stop in stepper.stops], stepper.applied
    _struck(seconds, lambda: (stepper.plant(), stepper.try_(1), stepper.apply()))
    while stepper.applied > states:
        stepper.undo()
    assert [stop.free.working.ratio for stop in stepper.stops] == places
    again = stepper.plant(), stepper.try_("attention.out", "{scale: 2}")
    assert [str(record) for record in again] == [str(record) for record in undisturbed]


def _struck(seconds, work):
    def strike(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, strike)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        work()
    except KeyboardInterrupt:
        pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        gc.collect()


def test_another_thread_is_told_to_wait(on_torch):
    stepper, begun, go_on = Stepper(on_torch), threading.Event(), threading.Event()
    stepper.continue_()
    run = stepper.session.comparison.rerun.side.run
    answers = []

    def slowly(*args, **kwargs):
        begun.set()
        assert go_on.wait(60)
        return run(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stepper.session.comparison.rerun.side, "run", slowly)
        worker = threading.Thread(target=lambda: answers.append(stepper.plant()))
        worker.start()
        assert begun.wait(60)
        started = time.monotonic()
        with pytest.raises(CkptdbgError, match="something else is running"):
            stepper.try_("attention.out", "{scale: 2}")
        assert time.monotonic() - started < 5
        go_on.set()
        worker.join(60)
    assert str(answers[0]) == str(stepper.plant())
    assert np.isfinite(answers[0].output.after)
