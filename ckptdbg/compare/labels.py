"""What a target operand is called, and which mapping entries made it: for people and for findings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.mapping import BoundEntry, BoundMapping
from ckptdbg.mapping.layout import Layout


@dataclass(frozen=True)
class Label:
    """Names of one operand of the target."""

    site: str
    """Target tensor(s), with the indices of the slice that is used where it is not the whole."""
    tensors: tuple[str, ...]
    """Names of the target tensors, as the mapping spells them."""
    entries: tuple[BoundEntry, ...]
    layer: str | None
    """Of the source tensors behind it, as the mapping's placeholders number them; None without one."""

    @property
    def entry(self) -> BoundEntry | None:
        return self.entries[0] if self.entries else None


def label(
    own: Layout,
    composed: Layout,
    parameters: Sequence[str],
    target: dict[str, TensorSpec],
    source: dict[str, TensorSpec],
    mapping: BoundMapping,
) -> Label:
    """Name an operand from its layout against the target's tensors (``own``) and against the source's (``composed``).

    ``parameters`` name it where the walk's index map is opaque.
    """
    names, sources = list(target), list(source)
    tensors = tuple(names[i] for i in own.tensors) or tuple(p for p in parameters if p in target)
    entries = tuple(dict.fromkeys(mapping.entry_of_target[t] for t in tensors if t in mapping.entry_of_target))
    made_from = [sources[i] for i in composed.tensors]
    layers = dict.fromkeys(layer for e in entries for layer in _layers(e, made_from))
    site = "+".join(tensors or parameters) + (_slice(own, target[tensors[0]]) if len(tensors) == 1 else "")
    return Label(site, tensors, entries, ", ".join(x for x in layers if x is not None) or None)


def _layers(entry: BoundEntry, made_from: list[str]) -> list[str | None]:
    if entry.layer is not None:
        return [entry.layer]
    return [layer for name, layer in zip(entry.sources, entry.source_layers, strict=True) if name in made_from]


def _slice(own: Layout, spec: TensorSpec) -> str:
    if own.opaque is not None:
        return ""
    fixed = [
        int(c.values)
        for c, size in zip(own.coordinates[1:], spec.shape, strict=False)
        if c.role == "constant" and size > 1 and int(c.values) >= 0
    ]
    return f"[{', '.join(map(str, fixed))}]" if fixed else ""
