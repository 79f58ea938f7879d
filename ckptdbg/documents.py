"""YAML documents in which every key knows its line. Configs and mappings are read with it."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from ckptdbg.errors import CkptdbgError


def read_text(path: Path, error: type[CkptdbgError]) -> str:
    """The text of a file; ``error`` where there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as cause:
        raise error(
            "no such file", where=str(path), hint="check the path; it is relative to where it is written"
        ) from cause
    except (OSError, UnicodeDecodeError) as cause:
        raise error(f"cannot be read as text ({cause})", where=str(path)) from cause


def parse_yaml(text: str, file: str, error: type[CkptdbgError]) -> CommentedMap:
    """The document as a mapping that keeps comments and lines; ``error`` with file:line where it is not one."""
    try:
        document = _yaml().load(text)
    except MarkedYAMLError as cause:
        mark = cause.problem_mark or cause.context_mark
        where = f"{file}:{mark.line + 1}" if mark else file
        line = "".join(text.splitlines()[mark.line : mark.line + 1]) if mark else ""  # it may be behind the last one
        braces = re.search(r"\[.*[^\s,\[]\{", line)
        hint = "in a list in brackets, text with braces needs quotes" if braces else None
        raise error(f"not valid YAML: {cause.problem or cause.context}", where=where, hint=hint) from cause
    except YAMLError as cause:
        raise error(f"not valid YAML: {cause}", where=file) from cause
    if not isinstance(document, CommentedMap):
        found = "nothing" if document is None else "a list" if isinstance(document, list) else repr(document)[:60]
        raise error("not a document", where=f"{file}:1", found=found, expected="keys and values")
    return document


def lists_in_line(node: Any) -> Any:
    """The same document with lists of plain values written in brackets, on one line."""
    if isinstance(node, dict):
        return {key: lists_in_line(value) for key, value in node.items()}
    if not isinstance(node, list):
        return node
    if any(isinstance(item, dict | list) for item in node):
        return [lists_in_line(item) for item in node]
    line = CommentedSeq(node)
    line.fa.set_flow_style()
    return line


def dump_yaml(document: Any, like: str = "") -> str:
    """The document as text: comments and quotes kept, lists indented as in the text ``like``."""
    yaml, stream = _yaml(), io.StringIO()
    item = re.search(r"^( *)- ", like, re.MULTILINE)
    offset = len(item[1]) if item else 0
    yaml.indent(mapping=2, sequence=offset + 2, offset=offset)
    yaml.dump(document, stream)
    return stream.getvalue()


def _yaml() -> YAML:
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 10_000  # never fold a line that a person wrote
    return yaml


def line_of(node: Any, key: str | int | None = None) -> int:
    """The line (from 1) of a node, or of one key or item in it."""
    if not isinstance(node, CommentedMap | CommentedSeq):
        return 1
    if key is not None and key in (node.lc.data or {}):
        return node.lc.data[key][0] + 1
    return node.lc.line + 1


def plain(node: Any) -> Any:
    """The same values as ordinary dicts, lists and scalars."""
    if isinstance(node, dict):
        return {str(key): plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [plain(item) for item in node]
    for kind in (bool, int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return node
