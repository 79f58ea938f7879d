"""The plan as a mapping file: entries, and what is sure and what was chosen in comments above them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from glob import escape
from typing import Any

from ckptdbg.documents import dump_yaml, lists_in_line
from ckptdbg.mapping.proposal.alignment import Alignment
from ckptdbg.mapping.proposal.choices import Choice, settled_order
from ckptdbg.mapping.proposal.families import Family
from ckptdbg.mapping.proposal.plan import Draft, Item

Entry = dict[str, Any]


def mapping_text(
    draft: Draft, items: Sequence[Item], notes: Sequence[str], choices: Sequence[tuple[Choice, int]]
) -> str:
    """The file. ``notes`` stand above it; of every choice the number of its alternative that was taken is given."""
    shared = Counter(f.pieces for item in items for f in {*item.sources, *item.targets})
    entries = [entry_of(item, shared) for item in items]
    used = " ".join(str(entry.get("ops", "")) for entry in entries)
    variables = {n: e for n, e in draft.sizes.variables.items() if n in used.replace("'", " ").split()}
    lines = [f"# {printable(note)}" for note in [*notes, *map(_question, choices)]]
    lines += ["version: 1"]
    if variables:
        lines += dump_yaml({"variables": variables}).splitlines()
    lines.append("entries:")
    for item, entry in zip(items, entries, strict=True):
        lines.append(f"  # {printable(_comment(item, choices))}")
        lines += dump_yaml([_in_line(entry)], like="  - x").splitlines()
    ignored = {"source": _unused(draft), "target": [glob for f in draft.unexplained for glob in map(escape, f.names)]}
    if any(ignored.values()):
        lines += dump_yaml({"ignore": {k: v for k, v in ignored.items() if v}}).splitlines()
    return "\n".join(lines) + "\n"


def _unused(draft: Draft) -> list[str]:
    return [*map(escape, draft.tables), *(escape(n) for f in (*draft.tied, *draft.unused) for n in f.names)]


def printable(text: str) -> str:
    """A comment stays on its line, whatever the tensors are called."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _comment(item: Item, choices: Sequence[tuple[Choice, int]]) -> str:
    """How sure an item is, and the choices that are about it."""
    names = [choice.name for choice, _ in choices if item.name in choice.items]
    return why(item) + (f". Choices: {', '.join(names)}" if names else "")


def _question(settled: tuple[Choice, int]) -> str:
    """A choice on one line."""
    choice, taken = settled
    others = "; ".join(a.text for i, a in enumerate(choice.alternatives) if i != taken)
    return f"{choice.name}: {choice.alternatives[taken].text}" + (f". Or: {others}" if others else "")


def why(item: Item) -> str:
    """How an item was paired, in words."""
    if item.sure == "tie":
        return "tied: there is no other source for it"
    if item.sure == "names":
        return f"by names ({item.likeness:.0%} alike) and shapes"
    if item.sure == "elimination":
        return "by elimination: nothing else fits its shape"
    return "by shapes alone" + (f"; as likely: {', '.join(map(str, item.rivals))}" if item.rivals else "")


def _in_line(entry: Entry) -> Entry:
    return {k: v if k in ("source", "target") else lists_in_line(v) for k, v in entry.items()}


def entry_of(item: Item, shared: Counter[tuple[str, ...]]) -> Entry:
    """An item as an entry of a mapping file. ``shared`` counts the families of one name: where there are several, an
    entry lists its numbers."""
    sources, targets = settled_order(item)
    source_texts, target_texts, ranges = numbered(item.alignment, sources[0], targets[0])
    entry: Entry = {
        "name": item.name,
        "source": _one_or_all([f.filled(source_texts) for f in sources]),
        "target": _one_or_all([f.filled(target_texts) for f in targets]),
    }
    several = any(shared[f.pieces] > 1 for f in (*sources, *targets))
    needed = item.alignment.blocks or several or any(v != tuple(range(len(v))) for v in ranges.values())
    if needed and ranges:
        entry["for"] = {name: _range(values) for name, values in ranges.items()}
    if ops := item.recipe.ops():
        entry["ops"] = ops
    if stacks := _stacks(item.alignment, sources[0], targets[0]):
        entry["stack"] = stacks
    return entry


def _one_or_all(names: list[str]) -> str | list[str]:
    return names[0] if len(names) == 1 else names


def numbered(
    alignment: Alignment, source: Family, target: Family
) -> tuple[list[str], list[str], dict[str, tuple[int, ...]]]:
    """What stands in the slots of a source and of a target, and the values of every placeholder."""
    ours, theirs = [""] * len(source.slots), [""] * len(target.slots)
    ranges: dict[str, tuple[int, ...]] = {}
    for t, s in alignment.pairs:
        name = source.slots[s].name
        theirs[t], ours[s] = f"{{{name}}}", f"{{{_affine(name, target.slots[t].values, source.slots[s].values)}}}"
        ranges[name] = target.slots[t].values
    for s, _ in alignment.stacks:
        name = source.slots[s].name
        ours[s], ranges[name] = f"{{{name}}}", source.slots[s].values
    for block in alignment.blocks:
        ours[block.source], theirs[block.target] = f"{{{block.period}*block + inner}}", "{inner}"
        ranges["block"] = tuple(range(source.slots[block.source].size // block.period))
        ranges["inner"] = tuple(range(block.period))
    for t, _ in alignment.unstacks:
        name = target.slots[t].name
        theirs[t], ranges[name] = f"{{{name}}}", target.slots[t].values
    return ours, theirs, ranges


def _affine(name: str, values: Sequence[int], wanted: Sequence[int]) -> str:
    """A number of the source by that of the target."""
    if list(values) == list(wanted):
        return name
    step = (wanted[1] - wanted[0]) // (values[1] - values[0]) if len(values) > 1 else 1
    start = wanted[0] - step * values[0]
    return f"{'' if step == 1 else f'{step}*'}{name}" + (
        f" + {start}" if start > 0 else f" - {-start}" if start else ""
    )


def _stacks(alignment: Alignment, source: Family, target: Family) -> list[Entry]:
    found = [{"over": source.slots[s].name, "axis": axis} for s, axis in alignment.stacks]
    found += [{"over": "block", "axis": block.axis} for block in alignment.blocks]
    return found + [{"over": target.slots[t].name, "axis": axis} for t, axis in alignment.unstacks]


def _range(values: tuple[int, ...]) -> Any:
    plain = values == tuple(range(values[0], values[-1] + 1))
    return f"{values[0]} .. {values[-1] + 1}" if plain else list(values)


def tensors_in(items: Sequence[Item]) -> int:
    """How many target tensors the items make."""
    return sum(len(f.names) for item in items for f in item.targets)
