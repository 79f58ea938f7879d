"""How an equation is computed: as the model has it, promoted to float64, or with its constants jittered by one ulp."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from ckptdbg.models.jax_side import compat
from ckptdbg.models.jax_side.program import Atom, Op, dtype_of

_AS_TRACED = frozenset({"bitcast_convert_type", "nextafter", "rng_uniform", "random_gamma", "ffi_call"})
"""Equations whose meaning depends on the dtype: computed in the traced one, the result promoted."""
_SCATTERS: dict[str, Callable[..., Any]] = {
    "scatter": lax.scatter,
    "scatter-add": lax.scatter_add,
    "scatter-sub": lax.scatter_sub,
    "scatter-mul": lax.scatter_mul,
    "scatter-min": lax.scatter_min,
    "scatter-max": lax.scatter_max,
}
"""Bound through their functions, which build the combining code for the promoted dtype."""


def as_array(value: Any, atom: Atom) -> Any:
    """A closed-over value with the dtype it was traced with."""
    dtype = dtype_of(atom)
    return value if dtype is None else jnp.asarray(value, dtype)


def double(dtype: Any) -> np.dtype:
    """float64 for every float, complex128 for every complex dtype; others unchanged."""
    if jnp.issubdtype(dtype, jnp.floating):
        return np.dtype(np.float64)
    return np.dtype(np.complex128) if jnp.issubdtype(dtype, jnp.complexfloating) else np.dtype(dtype)


def promote(value: Any) -> Any:
    """``value`` in float64 or complex128 if it is inexact."""
    dtype = getattr(value, "dtype", None)
    inexact = dtype is not None and jnp.issubdtype(dtype, jnp.inexact)
    return value.astype(double(dtype)) if inexact else value


def compute(op: Op, args: list[Any]) -> list[Any]:
    """What the model computes."""
    return compat.bind(op.eqn.primitive, args, op.params)


def compute_promoted(op: Op, args: list[Any]) -> list[Any]:
    """The same with every float in float64, casts to lower floats inside the model included."""
    if op.name == "reduce_precision":
        return args
    if op.name.startswith("scatter"):
        return [_scatter(op, args)]
    if op.name in _AS_TRACED or compat.holds_jaxpr(op.params):
        cast = [lax.convert_element_type(x, d) if (d := dtype_of(atom)) is not None else x
                for x, atom in zip(args, op.ins, strict=True)]  # fmt: skip
        return [promote(out) for out in compute(op, cast)]
    return compat.bind(op.eqn.primitive, args, {k: _promoted_param(k, v) for k, v in op.params.items()})


def _scatter(op: Op, args: list[Any]) -> Any:
    p = op.params
    operand, indices, updates = args
    return _SCATTERS[op.name.replace("_", "-")](
        operand,
        indices,
        updates,
        p["dimension_numbers"],
        indices_are_sorted=p["indices_are_sorted"],
        unique_indices=p["unique_indices"],
        mode=p["mode"],
    )


def _promoted_param(name: str, value: Any) -> Any:
    if name == "precision":
        return None
    is_dtype = isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic))
    return double(value) if is_dtype else value


def is_whole(value: Any, atom: Atom) -> bool:
    """Whether a closed-over value holds nothing that ``jitter`` would change."""
    dtype = dtype_of(atom)
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        return True
    array = np.asarray(value, np.float64)
    return bool((np.isnan(array) | (np.round(array) == array)).all())


def jitter(value: Any, dtype: np.dtype, seed: Any, key: int) -> Any:
    """Every element times 1 plus or minus one ulp of ``dtype``, the sign drawn from ``seed`` and ``key``.

    Whole numbers stay as they are: nothing was rounded to make them (exponents, counts, 0 and 1 of masks). So are all
    floats too large to have a fraction (the lowest finite value, which masks add) and infinities.
    """
    xp = np if isinstance(value, np.ndarray) else jnp
    signs = 1 - 2 * (_hash(xp, value.shape, seed, key) & 1).astype(value.dtype)
    ulp = xp.asarray(float(jnp.finfo(dtype).eps), value.dtype)
    moved = value * (1 + signs * ulp)
    return xp.where(xp.rint(value) == value, value, moved)


def _hash(xp: Any, shape: tuple[int, ...], seed: Any, key: int) -> Any:
    """A pseudo-random uint32 for every place, by an integer mixer: ``jax.random`` takes long to compile for each of
    many small constants. The multipliers are those of ``lowbias32`` (C. Wellons, "Prospecting for hash functions")."""
    mixed = xp.arange(int(np.prod(shape)), dtype=np.uint32) + xp.full((1,), seed, np.uint32) * np.uint32(0x9E3779B9)
    mixed = mixed + np.uint32(key * 0x85EBCA6B & 0xFFFFFFFF)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        mixed = (mixed ^ (mixed >> np.uint32(shift))) * np.uint32(factor)
    return (mixed ^ (mixed >> np.uint32(16))).reshape(shape)
