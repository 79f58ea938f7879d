"""Statistics of a compiled run: each array is summed up on its device, and only numbers leave that.

Sums inside the model's own program have to be compiled for every site: measured, half as long as the model itself to as
long again. Here it is once per shape, and not at all on the host, where NumPy reads the memory of an array in place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ckptdbg.models.jax_side.blocks import BlockSite
from ckptdbg.models.jax_side.border import at_slot
from ckptdbg.models.jax_side.walk import Walk
from ckptdbg.models.records import Array, Graph, Statistics, Summary

Values = np.ndarray | jax.Array


def statistics(
    walk: Walk, graph: Graph, blocks: Sequence[BlockSite], output: jax.Array, captured: Mapping[int, Mapping[str, Any]]
) -> Statistics:
    """The record of one run, whose output and captured arrays are still on their device."""
    seen = jax.tree.map(in_place, captured)
    ports = [at_slot(walk, slot, seen[slot.key]) for slot in walk.anchor_slots]
    return Statistics(
        graph,
        tuple(summarise(port["in"]) if "in" in port else None for port in ports),
        tuple(summarise(port["out"]) for port in ports),
        tuple(summarise(seen[site.key]["block"][site.iteration]) for site in blocks),
        summarise(in_place(output)),
    )


def in_place(array: jax.Array) -> Values:
    """The memory of an array on the host, not copied; one on another device as it is."""
    return np.asarray(array) if all(device.platform == "cpu" for device in array.devices()) else array


def summarise(values: Values) -> Summary:
    """Statistics of an array of any shape and dtype."""
    if not values.size:
        return Summary(math.nan, math.nan, math.nan, math.nan, 0)
    wide = values.astype(jnp.promote_types(values.dtype, jnp.float32), copy=False)
    if isinstance(wide, np.ndarray):
        return _on_host(wide)
    mean, std, low, high, finite = map(float, jax.device_get(on_device(wide)))
    return Summary(mean, std, low, high, values.size - int(finite))


def _on_host(values: Array) -> Summary:
    low, high, size = values.min(), values.max(), values.size
    if not (np.isfinite(low) and np.isfinite(high)):  # neither passes over a NaN
        values = values[np.isfinite(values)].astype(np.float64)
        if not values.size:
            return Summary(math.nan, math.nan, math.nan, math.nan, size)
        low, high = values.min(), values.max()
    mean, variance = _mean_and_variance(values)
    if not math.isfinite(variance):  # a sum went over the range of float32
        mean, variance = _mean_and_variance(values.astype(np.float64))
    return Summary(mean, math.sqrt(variance), float(low), float(high), size - values.size)


def _mean_and_variance(values: Array) -> tuple[float, float]:
    """Row by row, as products: BLAS sums several times as fast as ``ndarray.mean``."""
    rows = np.atleast_2d(values).reshape(-1, values.shape[-1] if values.ndim else 1)
    with np.errstate(over="ignore", invalid="ignore"):
        mean = (rows @ np.ones(rows.shape[1], rows.dtype)).sum(dtype=np.float64) / rows.size
        apart = rows - rows.dtype.type(mean)
        return float(mean), float(np.einsum("ij,ij->i", apart, apart).sum(dtype=np.float64) / rows.size)


@jax.jit
def on_device(values: jax.Array) -> tuple[jax.Array, ...]:
    """Mean, std, minimum and maximum of the finite values, and how many they are: NaN where there are none.

    Rows are summed before their sums are: float32 stays exact enough for any number of rows.
    """
    finite = jnp.isfinite(values)
    count = finite.sum(dtype=values.dtype)
    mean = jnp.where(finite, values, 0).sum(-1).sum() / count
    variance = jnp.where(finite, jnp.square(values - mean), 0).sum(-1).sum() / count
    low = jnp.where(finite, values, jnp.inf).min()
    high = jnp.where(finite, values, -jnp.inf).max()
    found = [jnp.where(count > 0, each, jnp.nan) for each in (mean, jnp.sqrt(variance), low, high)]
    return (*found, finite.sum())
