"""Widgets on one page that opens from disk: the same modules, their data beside them, nothing to fetch."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from html import escape
from typing import Any

from ckptdbg_widgets.modules import joined, styles
from ckptdbg_widgets.panel import Panel

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def page(title: str, panels: Sequence[Panel], *, head: str = "", script: str = "shared/page") -> str:
    """An HTML page of ``panels`` in their order. ``head`` is markup above them, ``script`` the module that puts the
    panels on the page and connects them."""
    kinds = list(dict.fromkeys(panel.kind for panel in panels))
    sheets = list(dict.fromkeys(sheet for panel in panels for sheet in panel.sheets))
    values: list[str] = []
    shown = [{"kind": panel.kind, "traits": _traits(panel, values)} for panel in panels]
    data = f'{{"panels": {_json(shown)}, "values": [{", ".join(values)}]}}'
    widgets = ", ".join(f"{kind}: ${kind}.default" for kind in kinds)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>
{styles(*sheets, "shared/page")}</style>
</head>
<body>
{head}<main></main>
<script type="application/json" id="ckptdbg-data">{data}</script>
<script type="module">
{joined(*kinds, script)}${script.rpartition("/")[2]}.show({{ {widgets} }});
</script>
</body>
</html>
"""


def _traits(panel: Panel, values: list[str]) -> dict[str, int]:
    """Index in ``values`` of each trait's value: panels that show the same result share it."""
    found = {}
    for name, value in panel.state().items():
        text = _json({"base64": base64.b64encode(value).decode()} if isinstance(value, bytes) else {"value": value})
        if text not in values:
            values.append(text)
        found[name] = values.index(text)
    return found


def _json(value: Any) -> str:
    # Inside a script element nothing may look like the end of it.
    return json.dumps(value, allow_nan=False, ensure_ascii=True).replace("<", "\\u003c")
