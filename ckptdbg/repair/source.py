"""The source, set otherwise and run again: what experiments on a difference are made with."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from ckptdbg.compare.comparison import Comparison
from ckptdbg.compare.replay import Replay, TargetReplay
from ckptdbg.diagnose.definitions.causes import Definitions
from ckptdbg.diagnose.definitions.fields import field_differences, settings_of

if TYPE_CHECKING:
    from ckptdbg.session import Session


def source_set(session: Session, settings: Mapping[str, Any]) -> AbstractContextManager[None]:
    """The source has these settings in here."""
    return session.source.side.knobs.turned(settings) if settings else nullcontext()  # type: ignore[attr-defined]


def definitions(session: Session, comparison: Comparison, moved: Collection[str] = ()) -> Definitions:
    """What the two models define differently is looked for with the source where it can be run here and set, else with
    the target."""
    target = session.target
    config, options = session.config.source, session.config.target.options
    knobs = getattr(getattr(target, "side", None), "knobs", None)
    theirs = settings_of(session.model_config, config.options)
    differences = field_differences(theirs, settings_of(target.config, options, knobs))
    replay = source_replay(session, comparison)
    if replay is None or getattr(replay.side, "knobs", None) is None:
        replay = None if knobs is None else TargetReplay(comparison.rerun, comparison.plants)
    return Definitions(comparison, replay, differences, session.sizes, moved)


def source_replay(session: Session, comparison: Comparison) -> Replay | None:
    """Runs the source again with its own values planted; None where it ran elsewhere."""
    if session.stored is not None:
        return None
    everywhere = frozenset(range(len(comparison.source.view.graph.anchors)))
    ins, outs = comparison.pairing.offered() if comparison.alike else (everywhere, everywhere)
    return Replay(session.source.side, session.inputs, session.source_exact, comparison.source.runs, ins, outs)
