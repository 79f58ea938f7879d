"""Names for the leaves of a tree on disk (Orbax, flax): those that the same parameters have in memory.

There they are made by the kind of each key (``models/jax_side/wrap.py``). On disk the kinds are lost, and what a
framework has added is known by where it stands: a root ``params``, twice where a train state holds the variables of a
linen module; and a last key ``value`` under every leaf, which boxes have (variables, partitioned arrays) and the
``value`` of an attention block, beside its ``query``, has not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ckptdbg.checkpoint.training import Keys, beside_the_model
from ckptdbg.errors import CheckpointError

PARAMS = "params"
BOX = "value"
NO_KEYS = "tensors go under keys in a tree only: --format orbax or msgpack"


def parameter_names(paths: Sequence[Keys], where: str) -> dict[Keys, str]:
    """The names of those leaves that are no trainer's, in order. ``CheckpointError`` where two get the same."""
    beside = beside_the_model(paths)
    kept = [path for path in paths if path not in beside]
    inner = {path: path[1:] for path in kept if path[0] == PARAMS and len(path) > 1}
    outer = {path: path for path in kept if path not in inner}
    inner = {path: rest[1:] if rest[0] == PARAMS and len(rest) > 1 else rest for path, rest in inner.items()}
    parts = _unboxed(inner) | _unboxed(outer)
    return _unique({path: "/".join(parts[path]) for path in kept}, where)


def _unboxed(parts: dict[Keys, Keys]) -> dict[Keys, Keys]:
    boxed = all(len(part) > 1 and part[-1] == BOX for part in parts.values())
    return {path: part[:-1] for path, part in parts.items()} if boxed else parts


def _unique(names: dict[Keys, str], where: str) -> dict[Keys, str]:
    first: dict[str, Keys] = {}
    for path, name in names.items():
        if name in first:
            problem = f"two tensors get the name {name}"
            raise CheckpointError(problem, where=where, found=f"{first[name]} and {path}", hint="rename one of them")
        first[name] = path
    return names


def tree_of(names: Iterable[str], where: str, under: Keys = ()) -> dict[str, Any]:
    """The tree whose leaves get these names when they are read: each name in its place, all of them below the keys
    ``under``. ``CheckpointError`` where there is none."""
    paths = {name: (*under, *name.split("/")) for name in names}
    read_back = parameter_names(list(paths.values()), where)
    for name, path in paths.items():
        if read_back.get(path) != name or "" in path:
            problem = f"{name} cannot be told from what frameworks add around parameters"
            hint = "give it another name in the mapping, or write .safetensors"
            raise CheckpointError(problem, where=where, found=read_back.get(path, "a trainer's own"), hint=hint)
    root: dict[str, Any] = {}
    for name, (*folders, leaf) in paths.items():
        node = root
        for folder in folders:
            node = node.setdefault(folder, {})
            if not isinstance(node, dict):
                raise CheckpointError(f"{node} is a tensor, and {name} would be inside it", where=where)
        if leaf in node:
            raise CheckpointError(f"{name} is a tensor, and others would be inside it", where=where)
        node[leaf] = name
    return root
