"""Change the ops of one entry in a mapping's text; every other line stays as its author wrote it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from ckptdbg.documents import dump_yaml, line_of


def replace_ops(text: str, document: Any, node: Any, ops: Sequence[Any]) -> str:
    """The text with these ops in the entry ``node`` of ``document``, which was read from it."""
    lines = text.splitlines(keepends=True)
    after = "ops" if "ops" in node else "target"
    start = line_of(node, after) - 1
    if not _opens_a_line(lines[start], after):  # an entry in braces: there are no lines of its own to replace
        node["ops"] = [_quoted(op) for op in ops]
        return dump_yaml(document, like=text)
    indent = _indent(lines[start].replace("- ", "  ", 1))
    end = _end(lines, start, indent)
    new = dump_yaml({"ops": [_quoted(op) for op in ops]}, like=text).splitlines(keepends=True) if ops else []
    kept = lines[: start if after == "ops" else end]
    return "".join([*kept, *(" " * indent + line for line in new), *lines[end:]])


def _opens_a_line(line: str, key: str) -> bool:
    return line.lstrip(" -").startswith(f"{key}:")


def _end(lines: list[str], start: int, indent: int) -> int:
    """The line after the value of the key in line ``start``; blank lines and comments behind it are not part of it."""
    end = start + 1
    for number in range(start + 1, len(lines)):
        line = lines[number]
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if _indent(line) < indent or (_indent(line) == indent and not line.lstrip().startswith("- ")):
            break
        end = number + 1
    return end


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def _quoted(op: Any) -> Any:
    """The op with its pattern in quotes, as people write it."""
    if not isinstance(op, dict):
        return op
    return {k: DoubleQuotedScalarString(v) if isinstance(v, str) and "->" in v else v for k, v in op.items()}
