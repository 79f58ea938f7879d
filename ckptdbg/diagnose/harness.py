"""The harness is checked before the models: the same inputs on both sides, and runs that repeat exactly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.errors import HarnessError
from ckptdbg.models.records import Side

Array = NDArray[Any]


def check_inputs(inputs: Mapping[str, Array], sides: Mapping[str, Side]) -> None:
    """Raise HarnessError where one side would silently run without an input that matters to the other."""
    for name, side in sides.items():
        for omitted in getattr(side, "omitted_inputs", ()):
            values = np.asarray(inputs[omitted])
            if not _is_default(omitted, values):
                raise HarnessError(
                    f"the {name} does not accept the input {omitted!r}, and its values matter",
                    found=f"{omitted} with {len(np.unique(values))} different values",
                    hint=f"name the {name}'s own argument with `inputs:` in the config, or use a probe without padding",
                )


def check_repeatable(side: Side, inputs: Mapping[str, Array], name: str) -> None:
    """Raise HarnessError where two runs of one side differ: dropout left on, or unseeded randomness."""
    first, second = (side.run(inputs).output for _ in range(2))
    if not np.array_equal(first, second, equal_nan=True):
        worst = float(np.nanmax(np.abs(np.asarray(first, np.float64) - np.asarray(second, np.float64))))
        raise HarnessError(
            f"the {name} gives another output each time it is run on the same input",
            found=f"a difference of {worst:.3g}",
            expected="two identical runs",
            hint="switch dropout and other randomness off in the loader (eval mode, deterministic=True)",
        )


def _is_default(name: str, values: Array) -> bool:
    """Whether a model that is not given this input behaves as if it were: a mask of ones, positions counted from 0."""
    if name == "attention_mask":
        return bool((values == 1).all())
    if name == "position_ids":
        return bool((values == np.arange(values.shape[-1])).all())
    return bool((values == 0).all())
