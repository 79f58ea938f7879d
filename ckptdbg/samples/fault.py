"""What a planted fault is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from ckptdbg.errors import ConfigError

NNX_LLAMA = ("llama_to_nnx", "llama_square_to_nnx", "llama_to_scan")
LLAMA = (*NNX_LLAMA, "llama_to_torch")
NNX = (*NNX_LLAMA, "qwen3_to_nnx")
MOE = ("mixtral_to_jax", "qwen3_moe_to_jax")
ROTARY = (*LLAMA, "qwen3_to_nnx", "gemma2_to_jax", *MOE)
ALL = (*ROTARY, "gpt2_to_jax", "bert_to_jax")


@dataclass(frozen=True)
class Fault:
    """One way in which a conversion goes wrong."""

    name: str
    description: str
    kind: Literal["mapping", "weights", "definition"]
    pairs: tuple[str, ...]
    """The sample conversions it can be planted in."""
    edit: Callable[..., None]
    """``mapping``: called with the nodes of ``entries``, in order, to change in place. ``weights``: called with
    ``Weights`` and a layer. ``definition``: called with the target's options."""
    entries: tuple[str, ...] = ()
    """The mapping entries that a report should name."""
    layers: tuple[int, ...] | None = None
    """Where it is planted unless told otherwise; None where it is in every layer."""
    effect: Literal["diverges", "none", "rounding"] = "diverges"
    """``none``: a symmetry, the output stays what it was. ``rounding``: a lower precision, no fault."""

    @property
    def expected(self) -> tuple[str, str]:
        """``kind`` and ``cause`` of the finding it should lead to."""
        if self.effect == "rounding":
            return ("precision", "model")
        return {
            "mapping": ("layout", "mapping"),
            "weights": ("tensor", "checkpoint"),
            "definition": ("definition", "model"),
        }[self.kind]

    def applies(self, pair: str) -> bool:
        """Whether it can be planted in this sample conversion."""
        return pair in self.pairs


@dataclass(frozen=True)
class Planted:
    """A fault and the layers it goes into (None: all)."""

    fault: Fault
    layers: tuple[int, ...] | None

    def entries(self) -> tuple[str, ...]:
        """The names that the faulty entries have in the written mapping."""
        if self.fault.kind != "mapping" or self.layers is None:
            return self.fault.entries
        return tuple(split_name(entry, self.layers) for entry in self.fault.entries)


def split_name(entry: str, layers: tuple[int, ...]) -> str:
    """The name of the copy of an entry that serves only some layers."""
    return f"{entry}@{','.join(map(str, layers))}"


def plan(spec: str, pair: str, faults: dict[str, Fault]) -> Planted:
    """``name`` or ``name@layer`` or ``name@layer,layer``. Raises ConfigError for a fault that has no place there."""
    name, _, where = spec.partition("@")
    fault = faults.get(name)
    if fault is None or not fault.applies(pair):
        known = [other.name for other in faults.values() if other.applies(pair)]
        raise ConfigError(
            "this fault cannot be planted here" if fault else "unknown fault",
            found=f"{name!r} for {pair}",
            expected=", ".join(known),
        )
    try:
        layers = tuple(int(layer) for layer in where.split(",")) if where else fault.layers
    except ValueError as error:
        raise ConfigError("not a list of layers", found=repr(spec), expected="name@1 or name@1,3") from error
    return Planted(fault, layers)


def fault_table(*faults: Fault) -> dict[str, Fault]:
    """The faults by name; each name once."""
    table: dict[str, Any] = {fault.name: fault for fault in faults}
    assert len(table) == len(faults), "two faults of one name"
    return table
