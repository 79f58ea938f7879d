"""Edits of a mapping document's entries, from which the mapping faults are made."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

from ckptdbg.errors import ConfigError
from ckptdbg.samples.fault import split_name

Node = dict[str, Any]


def ops(*new: Node) -> Callable[..., None]:
    """An edit: these ops instead, in every entry."""

    def edit(*nodes: Node) -> None:
        for node in nodes:
            node["ops"] = deepcopy(list(new))

    return edit


def also(*new: Node) -> Callable[..., None]:
    """An edit: these ops after the others."""

    def edit(*nodes: Node) -> None:
        for node in nodes:
            node["ops"] = [*node.get("ops", []), *deepcopy(new)]

    return edit


def without(kind: str) -> Callable[..., None]:
    """An edit: no op of this kind."""

    def edit(*nodes: Node) -> None:
        for node in nodes:
            node["ops"] = [op for op in node["ops"] if kind not in op]
            if not node["ops"]:
                del node["ops"]

    return edit


def pattern(new: str) -> Callable[..., None]:
    """An edit: another rearrange pattern, with those axis sizes that still occur in it."""

    def edit(*nodes: Node) -> None:
        for node in nodes:
            for op in node["ops"]:
                if "rearrange" in op:
                    op["rearrange"] = new
                    for size in [key for key in op if key != "rearrange" and key not in new]:
                        del op[size]

    return edit


def source(template: str) -> Callable[[Node], None]:
    """An edit: another source."""

    def edit(node: Node) -> None:
        node["source"] = template

    return edit


def swap_sources(first: Node, second: Node) -> None:
    """An edit: each entry takes the other's source."""
    first["source"], second["source"] = second["source"], first["source"]


def reverse_sources(node: Node) -> None:
    """An edit: the sources in the opposite order."""
    node["source"] = list(reversed(node["source"]))


def swap_neighbours(node: Node) -> None:
    """An edit: layers 0 and 1, 2 and 3, ... take each other's source."""
    node["source"] = node["source"].replace("{layer}", "{layer + 1 - 2 * (layer % 2)}")
    node.setdefault("for", {"layer": "0 .. num_hidden_layers"})


def order_experts_as_text(*nodes: Node) -> None:
    """An edit: experts 0, 1, 10, 11, 2, ..."""
    for node in nodes:
        node["for"] = {"expert": [int(name) for name in sorted(map(str, range(12)))]}


def split_layers(nodes: list[Any], name: str, layers: tuple[int, ...], count: int) -> Node:
    """Give some layers an entry of their own, to be changed; the others keep the entry. Returns the new node.

    Raises ConfigError where the layers are stacked in one tensor, which one entry must make.
    """
    index = next(i for i, node in enumerate(nodes) if node["name"] == name)
    node = nodes[index]
    if "{layer}" not in str(node["target"]):
        raise ConfigError(
            f"entry {name} makes one tensor for all layers",
            hint="plant it in every layer, or plant a fault of kind weights",
        )
    node["for"], others = {"layer": list(layers)}, [i for i in range(count) if i not in layers]
    special = deepcopy(node)
    special["name"] = split_name(name, layers)
    node["for"] = {"layer": others}
    nodes.insert(index + 1, special)
    if not others:
        del nodes[index]
    return special
