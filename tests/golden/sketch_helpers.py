"""A session whose source is a sketch."""

from __future__ import annotations

from ckptdbg.golden.sketch import Sketch
from ckptdbg.session import Session

PAIR = "llama_to_torch"


def against(session: Session, sketch: Sketch) -> Session:
    """The same target, its source a sketch; nothing is loaded again."""
    other = Session(session.config, stored=sketch, repeats=True)
    shared = {"target": session.target, "unbound_mapping": session.unbound_mapping, "read_source": session.read_source}
    vars(other).update(shared)
    return other
