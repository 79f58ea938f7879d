"""The shadows themselves (see ``rows``): int32 arrays of flat token indices, of size 1 where the token is the same.

A shadow that no value moves is *known* while the program is traced: a NumPy array. Control flow passes known shadows
around its bodies, not through them, so that equal ones are seen to be equal inside as well. The others are traced.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Shadow = jax.Array | np.ndarray
Shadows = tuple[Shadow, ...]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Value:
    """Data and the shadows that say which token each part belongs to. As a pytree, its known shadows are structure."""

    data: Any
    shadows: Shadows = ()


class _Known:
    """A known shadow as part of a tree's structure: equal where the tokens are."""

    def __init__(self, shadow: np.ndarray) -> None:
        self.shadow = shadow

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Known) and np.array_equal(self.shadow, other.shadow)

    def __hash__(self) -> int:
        return hash((self.shadow.shape, self.shadow.tobytes()))


def _flatten(value: Value) -> tuple[tuple[Any, ...], tuple[_Known | None, ...]]:
    traced = [s for s in value.shadows if not known(s)]
    return (value.data, *traced), tuple(_Known(s) if isinstance(s, np.ndarray) else None for s in value.shadows)


def _unflatten(structure: tuple[_Known | None, ...], leaves: Sequence[Any]) -> Value:
    data, *traced = leaves
    rest = iter(traced)
    return Value(data, tuple(next(rest) if one is None else one.shadow for one in structure))


jax.tree_util.register_pytree_node(Value, _flatten, _unflatten)


def known(shadow: Shadow) -> bool:
    return isinstance(shadow, np.ndarray)


def same(a: Shadow, b: Shadow) -> bool:
    """Whether the two are known to be equal."""
    return a is b or (known(a) and known(b) and np.array_equal(a, b))


def traced(shadow: Shadow) -> jax.Array:
    """``shadow`` as a leaf of the tree, where it has to pass through a body."""
    return jnp.asarray(shadow)


def varies(shadow: Shadow, axis: int) -> bool:
    return shadow.shape[axis] > 1


def widen(shadow: Shadow, shape: Shape, axes: Sequence[int]) -> Shadow:
    """``shadow`` at full size along ``axes``."""
    broadcast = np.broadcast_to if known(shadow) else jnp.broadcast_to
    return broadcast(shadow, tuple(shape[i] if i in axes else n for i, n in enumerate(shadow.shape)))


def none(shape: Sequence[int]) -> np.ndarray:
    """The shadow of what belongs to no token."""
    return np.full(shape, -1, np.int32)


def distinct(shadows: Sequence[Shadow]) -> Shadows:
    """One shadow per set of varying axes, the first one of each."""
    found: dict[Shape, Shadow] = {}
    for shadow in shadows:
        found.setdefault(shadow.shape, shadow)
    return tuple(found.values())


def best(shadows: Shadows, dead: Sequence[int]) -> Shadow | None:
    """The most telling shadow that is the same along the axes ``dead``."""
    alive = [s for s in shadows if not any(s.shape[axis] > 1 for axis in dead)]
    return max(alive, key=lambda s: sum(size > 1 for size in s.shape), default=None)
