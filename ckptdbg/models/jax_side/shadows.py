"""The shadows themselves (see ``rows``): int32 arrays of flat token indices, of size 1 where the token is the same."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

Shadow = jax.Array
Shadows = tuple[Shadow, ...]
Shape = tuple[int, ...]


def varies(shadow: Shadow, axis: int) -> bool:
    return shadow.shape[axis] > 1


def widen(shadow: Shadow, shape: Shape, axes: Sequence[int]) -> Shadow:
    """``shadow`` at full size along ``axes``."""
    return jnp.broadcast_to(shadow, [shape[i] if i in axes else n for i, n in enumerate(shadow.shape)])


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
