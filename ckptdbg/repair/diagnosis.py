"""Diagnosis by mending: every cause that is found is mended and the whole model run again, until nothing is left to
mend.

What an earlier fault masked shows in the next round; a repair counts as verified when the place it mends is at noise
in a run of the whole model on this probe and on a second seed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.diagnose.definitions.causes import Proved
from ckptdbg.diagnose.definitions.readings import Rows
from ckptdbg.diagnose.edit import Edit
from ckptdbg.diagnose.findings import by_template, each_definition_once, find
from ckptdbg.diagnose.regions import find_places, with_merged
from ckptdbg.diagnose.suspects import site_name
from ckptdbg.errors import MappingError
from ckptdbg.mapping import Mapping as TensorMapping
from ckptdbg.repair.round import Round
from ckptdbg.repair.source import definitions, source_set
from ckptdbg.report.files import write_new
from ckptdbg.result import Finding, Repair

if TYPE_CHECKING:
    from ckptdbg.models.loaders.loaded import Loaded
    from ckptdbg.session import Session

Array = NDArray[Any]
# Faults that mask each other come to light one round after another; more rounds than this would be guessing.
_MOST_ROUNDS = 4


@dataclass(frozen=True)
class Diagnosis:
    """What was found, and the mapping with all verified repairs."""

    findings: list[Finding]
    mapping: TensorMapping
    mended: bool
    """Whether the mapping differs from the one that was given."""
    tried: TensorMapping | None = None
    """The mapping with every repair that was found, verified or not; None where none was looked for."""

    def write(self, path: Path) -> Path | None:
        """Write the mended mapping to a new file; None where nothing was mended. Raises MappingError for a file that is
        there already."""
        if not self.mended:
            return None
        return write_new(path, self.mapping.text, MappingError)

    @classmethod
    def of(cls, session: Session) -> Diagnosis:
        """Where nothing diverges: findings without effect only (precision, symmetries)."""
        return cls(find(session.comparison, session.evidence, session.mapping), session.unbound_mapping, False)


@dataclass
class _State:
    mapping: TensorMapping
    patches: dict[str, Array] = field(default_factory=dict)
    """Target tensors that stand in for wrong ones."""
    edited: set[str] = field(default_factory=set)
    """Entries whose targets are to be made again."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Of the source, without which the repairs that were found would not be seen."""
    moved: dict[str, Rows] = field(default_factory=dict)
    """By target tensor, rows that are moved to where the target looks for them; its values may be right."""
    read: set[str] = field(default_factory=set)
    """Sites at which rows were moved: a later round says what else is wrong there."""
    groups: dict[str, set[str]] = field(default_factory=dict)
    """By the site of a finding, the sites of all its places."""
    seen: set[str] = field(default_factory=set)
    """Sites of all places that diverged in any round."""
    proved: Proved = field(default_factory=Proved)

    def tensors(self, target: Loaded) -> dict[str, Array]:
        """What stands in for the target's own tensors, rows moved last of all."""
        moved = {t: r.undone(self.patches[t] if t in self.patches else target.read(t)) for t, r in self.moved.items()}
        return self.patches | moved


def diagnose(session: Session) -> Diagnosis:
    """Find causes, try corrections, run the whole model again. Compiles nothing anew."""
    state = _State(session.unbound_mapping)
    findings: dict[tuple, Finding] = {}
    current = session
    for _ in range(_MOST_ROUNDS):
        earlier = set(state.read)
        with source_set(session, state.settings):
            found, mended = _round(current, state)
        for finding in found:
            key = (*_key(finding), "later") if finding.site in earlier else _key(finding)
            known = findings.get(key)
            if known is None or known.repair is None:
                findings[key] = finding
        if not mended:
            break
        current = session.repaired(state.mapping, state.tensors(session.target), source_anew=bool(state.settings))
    repaired = any(finding.repair is not None for finding in findings.values())
    possible = session.stored is None and repaired and current is not session and _can_draw_again(session)
    with source_set(session, state.settings):
        left = _left(current) | _left_on_another_seed(current) if possible else set()
    possible = possible and left <= state.seen
    if state.settings:
        for finding in _behind_settings(session, state):
            known = findings.get(_key(finding))
            beside = (finding.kind,) if known is not None and known.repair is not None else ()
            findings[(*_key(finding), *beside)] = finding
    done = [
        _finished(f, possible and not left & state.groups.get(f.site, {f.site}), session.unbound_mapping)
        for f in each_definition_once(list(findings.values()))
    ]
    proved = all(f.repair.verified for f in done if f.repair is not None)
    mapping = state.mapping if proved else session.unbound_mapping
    return Diagnosis(done, mapping, mapping.text != session.unbound_mapping.text, state.mapping)


def _can_draw_again(session: Session) -> bool:
    """Whether other tokens can be given to the models: not where the probe holds no tokens."""
    return any(name in session.inputs for name in ("input_ids", "decoder_input_ids"))


def _key(finding: Finding) -> tuple:
    """The same finding in a later round has the same key."""
    return finding.site, tuple(e.name for e in finding.entries)


def _round(session: Session, state: _State) -> tuple[list[Finding], bool]:
    """One comparison and what it leads to. Changes ``state`` where something is mended."""
    state.seen |= _divergent(session)
    this = Round(session, state.moved, state.proved)
    findings, solver = this.findings(), this.solver
    for site, sites in this.groups.items():
        state.groups.setdefault(site, set()).update(sites)
    replaced = {*state.patches, *state.moved}
    wrong = [d.tensor for d in session.evidence.tensors if d.tensor not in replaced]
    state.patches |= {t: session.made[t] for t in wrong}
    state.read |= solver.read
    state.moved |= solver.why.rows
    for edit in _distinct(e for m in solver.mends for e in m.edits):
        state.mapping = edit.written(state.mapping)
        state.edited.add(edit.entry)
    if solver.mends:
        state.settings |= solver.settings
        state.patches |= made_by(session, state.mapping, state.edited)
    return findings, bool(wrong or solver.mends or solver.why.rows)


def _distinct(edits: Iterable[Edit]) -> list[Edit]:
    """Each once: an order is put on top of what stands there, and two mends may share it."""
    found: list[Edit] = []
    for edit in edits:
        if edit not in found:
            found.append(edit)
    return found


def _behind_settings(session: Session, state: _State) -> list[Finding]:
    """What the models define differently, found with the source as it is and all repairs made; nothing that is mended
    here was proved."""
    mended = session.repaired(state.mapping, state.tensors(session.target))
    apart = replace(state, patches={**state.patches}, edited={*state.edited}, moved={**state.moved}, settings={})
    return [finding for finding in _round(mended, apart)[0] if finding.repair is None]


def _left_on_another_seed(mended: Session) -> set[str]:
    """Sites that are left on other tokens after all repairs."""
    return _left(mended.repaired(mended.unbound_mapping, {}, seed=mended.config.probe.seed + 1))


def _left(session: Session) -> set[str]:
    """Sites that diverge and are not at noise either where what the models define differently does not show."""
    comparison = session.comparison
    why = definitions(session, comparison)
    left = [p for places in by_template(comparison, find_places(comparison)) for p in why.unexplained(places)]
    return {site_name(comparison, place) for place in left}


def _divergent(session: Session) -> set[str]:
    """Sites of all places that diverge."""
    return {site_name(session.comparison, place) for place in with_merged(find_places(session.comparison))}


def _finished(finding: Finding, verified: bool, mapping: TensorMapping) -> Finding:
    """The finding with the proof of its repair, and the ops as the mapping file spells them."""
    if finding.repair is None:
        return finding

    def spelled(repair: Repair) -> Repair:
        before = mapping.ops(repair.entry)
        after = before if repair.ops_before == repair.ops_after else repair.ops_after
        together = [spelled(other) for other in repair.together]
        update = {"verified": verified, "ops_before": before, "ops_after": after, "together": together}
        return repair.model_copy(update=update)

    return finding.model_copy(update={"repair": spelled(finding.repair)})


def made_by(session: Session, mapping: TensorMapping, entries: set[str]) -> dict[str, Array]:
    """What these entries of a mapping make, in float64."""
    bound = mapping.bind(session.model_config, session.source_specs, session.target.specs)
    found: dict[str, Array] = {}
    for entry in bound.entries:
        if entry.name in entries:
            arrays = [np.asarray(session.read_source(s), np.float64) for s in entry.sources]
            found |= dict(zip(entry.targets, entry.apply(arrays, cast=False), strict=True))
    return found
