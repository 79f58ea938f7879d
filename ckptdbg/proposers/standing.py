"""How well a candidate mapping stands: how many of the target's tensors it misses, or how many places diverge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.diagnose.elements import deviation
from ckptdbg.diagnose.regions import find_places
from ckptdbg.diagnose.suspects import suspects_of
from ckptdbg.errors import CkptdbgError, MappingError
from ckptdbg.mapping import Mapping as TensorMapping
from ckptdbg.mapping.made import Made
from ckptdbg.repair import made_by
from ckptdbg.session import Session

Array = NDArray[Any]
FAILED = 10**6
"""Stands for a candidate whose run could not be compared: numbers that are not finite, for instance."""


@dataclass
class Stand:
    """Where candidates are tried. Nothing is loaded or compiled anew; what was tried once is remembered."""

    session: Session
    """With the mapping that the target was filled by."""
    progress: Callable[[str], None] = lambda _: None
    runs: int = 0
    _known: dict[str, int] = field(default_factory=dict)

    def wrong_tensors(self, mapping: TensorMapping) -> int:
        """Target tensors that are not what the mapping makes of the source, within their stored dtype."""
        session = self.session
        bound = mapping.bind(session.model_config, session.source_specs, session.target.specs)
        made, wrong = Made(bound, session.read_source), 0
        for name, expected in made.items():
            actual = np.asarray(session.target.read(name))
            wrong += bool(deviation(expected, actual, session.target.specs[name].dtype).wrong)
        return wrong

    def places(self, mapping: TensorMapping) -> int:
        """Places of both models that diverge, each piece judged alone, and the output."""
        if mapping.text not in self._known:
            self.runs += 1
            self.progress(f"trying the choices, run {self.runs}")
            self._known[mapping.text] = _places(self.candidate(mapping))
        return self._known[mapping.text]

    def suspects(self, mapping: TensorMapping) -> set[str]:
        """Entries that may be at fault where places diverge."""
        try:
            comparison = self.candidate(mapping).comparison
        except CkptdbgError:
            return set()
        return {s.entry.name for place in find_places(comparison) for s in suspects_of(comparison, place)}

    def candidate(self, mapping: TensorMapping, seed: int | None = None) -> Session:
        """The session with another mapping; where the target has no tensors of its own, filled by it."""
        session = self.session
        patches: dict[str, Array] = {}
        if session.config.target.path is None:
            patches = made_by(session, mapping, _changed(session.unbound_mapping, mapping))
        return session.repaired(mapping, patches, seed=seed)


def _changed(before: TensorMapping, after: TensorMapping) -> set[str]:
    """Entries that are not the same in both. Raises MappingError where they have not the same entries."""
    names = [entry.name for entry in before.entries]
    if names != [entry.name for entry in after.entries]:
        raise MappingError("a candidate has other entries than the mapping it stands for")
    return {n for n in names if (before.ops(n), before.source(n)) != (after.ops(n), after.source(n))}


def _places(session: Session) -> int:
    try:
        comparison = session.comparison
    except CkptdbgError:
        return FAILED
    sites = sum(site.isolated.divergent for site in comparison.sites)
    return sites + comparison.output.isolated.divergent + comparison.output.free.divergent
