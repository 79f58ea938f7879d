"""Joins ES modules into one text: a widget is loaded as one module, and an exported page has nothing to fetch from.

Only the plain forms are read, one per line: ``import { a, b as c } from "./x.js";``, ``export function``,
``export class``, ``export const`` and ``export default``. Every module keeps a scope of its own.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
_IMPORT = re.compile(r'^import \{([^}]*)\} from "(\.{1,2}/[\w./-]+)";$', re.MULTILINE)
_EXPORT = re.compile(r"^export (?:async )?(?:function\*?|class|const) (\w+)", re.MULTILINE)
_LEFT = re.compile(r"^(?:import|export)\b.*", re.MULTILINE)


@cache
def module(name: str) -> str:
    """The module ``name`` (``name.js``) with all that it imports, its default export exported: what a widget loads."""
    return f"{joined(name)}export default {_variable(HERE / f'{name}.js')}.default;\n"


@cache
def joined(*names: str) -> str:
    """These modules and all that they import, each once, after those it needs. The default export of ``a.js`` is
    ``$a.default``."""
    done: dict[Path, str] = {}
    for name in names:
        _add(HERE / f"{name}.js", done, ())
    return "".join(done.values())


@cache
def styles(*names: str) -> str:
    """The style sheets of these widgets after the one they share."""
    return "".join((HERE / f"{name}.css").read_text(encoding="utf-8") for name in ("shared/base", *names))


def _add(path: Path, done: dict[Path, str], parents: tuple[Path, ...]) -> None:
    if path in done:
        return
    if path in parents:
        raise ValueError(f"{path.name} imports itself through {', '.join(p.name for p in parents)}")
    text = path.read_text(encoding="utf-8")
    for match in _IMPORT.finditer(text):
        _add(path.parent.joinpath(match[2]).resolve(), done, (*parents, path))
    done[path] = _wrapped(path, text)


def _wrapped(path: Path, text: str) -> str:
    """One module as a constant that holds its exports."""

    def bind(match: re.Match[str]) -> str:
        names = re.sub(r"\s+as\s+", ": ", " ".join(match[1].split()))
        return f"const {{ {names} }} = {_variable(path.parent.joinpath(match[2]).resolve())};"

    exports = _EXPORT.findall(text)
    text = _IMPORT.sub(bind, text)
    text = re.sub(r"^export (?=(?:async )?(?:function|class|const) )", "", text, flags=re.MULTILINE)
    text, defaults = re.subn(r"^export default ", "const $default = ", text, flags=re.MULTILINE)
    if left := _LEFT.search(text):
        raise ValueError(f"{path.name}: this form of import or export is not read: {left[0]}")
    names = ", ".join([*exports, *(["default: $default"] if defaults else [])])
    return f"const {_variable(path)} = (() => {{\n{text}return {{ {names} }};\n}})();\n"


def _variable(path: Path) -> str:
    return "$" + path.stem.replace("-", "_")
