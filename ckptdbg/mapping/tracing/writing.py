"""What was found of a conversion, written as a mapping file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping as Dict
from dataclasses import dataclass
from glob import escape
from typing import Any

from ckptdbg.documents import dump_yaml, lists_in_line
from ckptdbg.mapping.tracing.families import Made, entries_of


@dataclass(frozen=True)
class Untraced:
    """A target tensor that no op makes, and why."""

    target: str
    reason: str
    sources: tuple[str, ...] = ()
    """What it depends on: an opaque entry carries it. A constant depends on nothing, and is left to ``ignore``."""


def numbers_of(config: Dict[str, Any]) -> dict[str, float]:
    """Sizes in a config, by dotted path: whole numbers above 1 that are no token ids."""
    found: dict[str, float] = {}

    def walk(node: Dict[str, Any], path: str) -> None:
        for key, value in node.items():
            if isinstance(value, dict):
                walk(value, f"{path}{key}.")
            elif isinstance(value, int) and value > 1 and str(key).isidentifier() and not str(key).endswith("_id"):
                found[f"{path}{key}"] = value

    walk(config, "")
    return found


def sizes_of(numbers: Dict[str, float]) -> dict[int, str]:
    """Axis sizes that have a name of their own."""
    counts = Counter(numbers.values())
    return {int(v): name.rpartition(".")[2] for name, v in numbers.items() if counts[v] == 1}


def _plain_lists(entry: dict[str, Any]) -> dict[str, Any]:
    """Numbers in brackets; names, which may be long, one on a line."""
    return {key: value if key == "source" else lists_in_line(value) for key, value in entry.items()}


def mapping_text(
    made: list[Made], names: list[str], unused: tuple[str, ...], untraced: list[Untraced], name: str
) -> str:
    """The mapping file, with what no op makes said in comments."""
    document: dict[str, Any] = {"version": 1, "entries": [_plain_lists(e) for e in entries_of(made, names)]}
    # names are matched as globs there, and a name such as blocks[0] is none of its own
    left = [escape(u.target) for u in untraced if not u.sources]
    ignore = {"source": [*map(escape, unused)], "target": left}
    if any(ignore.values()):
        document["ignore"] = {key: value for key, value in ignore.items() if value}
    notes = [f"# {' '.join(f'{u.target}: {u.reason}'.splitlines())}" for u in untraced]
    return "\n".join([f"# from {name}", *notes, ""]) + dump_yaml(document)
