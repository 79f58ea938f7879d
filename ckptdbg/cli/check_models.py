"""What both models, loaded and run, say of a mapping: for ``mapping check --models``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ckptdbg.mapping.check import Remark

if TYPE_CHECKING:
    from ckptdbg.diagnose.conventions import Agreement
    from ckptdbg.mapping import BoundEntry
    from ckptdbg.mapping.check.records import Level, Topic
    from ckptdbg.session import Session

ASK = "compare runs both models whole and looks for the cause"


def ask_models(session: Session) -> Iterator[Remark]:
    """Mixed axes and shifts of the operands that the models really use, the rotary order, the scale of the scores.
    Raises what loading and binding raise."""
    from ckptdbg.diagnose.structure import mixed_layouts, shift_differences, shifted_layouts

    source, target = session.source_view, session.target_view
    for i in mixed_layouts(target.anchors):
        label = target.labels[i]
        yield _remark(
            "error", "axes", label.entries, f"rows and columns are mixed in {label.site}, as the target uses it"
        )
    for i in shifted_layouts(target.anchors):
        label = target.labels[i]
        yield _remark("error", "norms", label.entries, f"a number is added to the matrix {label.site}")
    for shift in shift_differences(source.meetings, target.meetings):
        label = target.met_labels[shift.meeting]
        found = f"the target computes with w + {shift.target:g} where the source does with w + {shift.source:g}"
        yield _remark("error", "norms", label.entries, f"{found} ({label.site})")
    yield from _attention(session)


def _attention(session: Session) -> Iterator[Remark]:
    from ckptdbg.compare.features import pair
    from ckptdbg.diagnose.conventions import Model, compare_attention

    source, target = session.source_view, session.target_view
    width = head_width(session.model_config)
    if width is None:
        where = session.mapping.entries[:1]
        yield _remark("note", "rotary", where, "not known: the source's config does not say how wide a head is", "")
        return
    pairing = pair(source.graph.anchors, source.anchors, target.graph.anchors, target.anchors)
    sides = Model(session.source.side, source, session.inputs), Model(session.target.side, target, session.inputs)
    found = compare_attention(*sides, pairing, width, turned_width(session.model_config, width))
    yield from _rotary(session, found)
    if found.carried:
        yield from _scores(session, found)


def _rotary(session: Session, found: Agreement) -> Iterator[Remark]:
    entries = _entries(session, found.wrong or (found.query,))
    ours, theirs = _words(found.source), _words(found.target)
    if found.carried:
        told = (
            f"found by running: the source turns {ours}, the target {theirs}, and the mapping carries one to the other"
        )
        yield _remark("note", "rotary", entries, told, "")
    elif found.wrong and found.target:
        told = f"the source turns {ours} of each head, the target {theirs}, and this does not carry one to the other"
        for entry in entries:
            yield _remark("error", "rotary", [entry], told, "rearrange the rows of each head")
    else:
        side = "target" if found.source else "source"
        told = f"not known: the planes that the {side} turns are in no order that is tried"
        yield _remark("note", "rotary", entries, told, ASK)


def _scores(session: Session, found: Agreement) -> Iterator[Remark]:
    entries = _entries(session, (found.query,))
    if found.factor is None:
        told = "not known: given the source's own queries, keys and values the target attends otherwise"
        yield _remark("note", "scale", entries, told, ASK)
    elif found.factor != 1:
        told = f"the target's attention scores are {found.factor:.6g} times the source's"
        yield _remark("error", "scale", entries, told, "scale in the mapping or in the model, once")


def _entries(session: Session, anchors: Sequence[int]) -> list[BoundEntry]:
    """The entries that use the tensors behind some source anchors."""
    names, layouts = list(session.source_specs), session.source_view.anchors
    tensors = [names[t] for a in anchors if a >= 0 for t in layouts[a].tensors]
    users = session.mapping.entries_of_source
    return list({users[n][0].name: users[n][0] for n in tensors if n in users}.values())


def head_width(config: Mapping[str, Any]) -> int | None:
    """As Hugging Face configs say it; None where they do not."""
    width = config.get("head_dim")
    hidden, heads = config.get("hidden_size"), config.get("num_attention_heads")
    if isinstance(width, int):
        return width
    return hidden // heads if isinstance(hidden, int) and isinstance(heads, int) and heads else None


def turned_width(config: Mapping[str, Any], width: int) -> int:
    """How many features of a head positions turn."""
    rope = config.get("rope_parameters")
    said = (rope or {}).get("partial_rotary_factor") if isinstance(rope, Mapping) else None
    share = said or config.get("partial_rotary_factor") or 1.0
    return 2 * round(width * share / 2) if isinstance(share, int | float) else width


def _words(orders: frozenset[str]) -> str:
    return " or ".join(sorted(orders)) if len(orders) == 1 else "none" if orders else "an unknown order"


def _remark(level: Level, topic: Topic, entries: Sequence[BoundEntry], found: str, advice: str = ASK) -> Remark:
    entry = entries[0] if entries else None
    where, name = (entry.where, entry.name) if entry else ("the mapping", None)
    return Remark(level=level, topic=topic, where=where, entry=name, found=found, advice=advice)
