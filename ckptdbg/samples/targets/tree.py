"""The nested dicts of arrays that JAX models take: read from a file, or made from a table of shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax.numpy as jnp
from safetensors.numpy import load_file


def read_tree(path: Path) -> dict[str, Any]:
    """``{"a/b": x}`` on disk becomes ``{"a": {"b": x}}`` in memory."""
    tree: dict[str, Any] = {}
    for name, value in load_file(path).items():
        *folders, leaf = name.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[leaf] = jnp.asarray(value)
    return tree


def zeros_tree(shapes: dict[str, Any]) -> dict[str, Any]:
    """The same nesting with an array of zeros, float32, in the place of every shape."""
    return {key: zeros_tree(value) if isinstance(value, dict) else jnp.zeros(value) for key, value in shapes.items()}
