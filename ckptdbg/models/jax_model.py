"""A JAX model that is neither NNX nor linen: a function and its parameters. No framework is imported here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class JaxModel:
    """``apply(params, inputs) -> output``: pure, of a pytree of arrays and a dict of arrays (Hugging Face names)."""

    apply: Callable[[Any, dict[str, Any]], Any]
    params: Any
