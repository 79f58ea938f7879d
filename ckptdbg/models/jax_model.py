"""A JAX model that is only a function and its parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass
class JaxModel:
    """What a loader returns for a JAX model that belongs to no module system.

    ``apply(params, inputs)`` takes the parameters and a dict of input arrays and returns the output (an array, or a dict or
    tuple from which the config's ``output`` selects); ``params`` is a pytree of arrays.
    """

    apply: Callable[[Any, dict[str, Any]], Any]
    params: Any
