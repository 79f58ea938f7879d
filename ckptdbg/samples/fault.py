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


How = Literal[
    "permuted",
    "transposed",
    "scaled",
    "shifted",
    "exchanged",
    "elements",
    "rounded",
    "zeros",
    "other values",
    "defined",
]
Effect = Literal["diverges", "none", "rounding"]


@dataclass(frozen=True)
class Difference:
    """What was planted, as data: what the explanation of a finding, or its repair, should state."""

    how: How
    by: float | None = None
    """The factor (scaled) or the term (shifted), where it does not depend on the model's sizes; the factor between the
    two models' values (defined)."""
    says: str = ""
    """What is called by its name (defined): a regular expression."""
    count: int | None = None
    """How many elements (elements)."""
    dtype: str | None = None
    """The precision (rounded)."""
    shift: int = 0
    """How many layers further on the other tensor is (exchanged)."""


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
    difference: Difference
    entries: tuple[str, ...] = ()
    """The mapping entries that a report should name."""
    layers: tuple[int, ...] | None = None
    """Where it is planted unless told otherwise; None where it is in every layer."""
    effect: Effect = "diverges"
    """``none``: a symmetry, the output stays what it was. ``rounding``: a lower precision, no fault."""
    region: tuple[str, ...] = ()
    """Where no entry is to blame: prefixes of the entries next to what differs, one of which a report should name."""
    mended_by: tuple[str, ...] = ()
    """Entries with which the mapping can make up for a fault of kind ``definition``."""

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

    @property
    def accepted(self) -> tuple[tuple[str, str], ...]:
        """``kind`` and ``cause`` of the findings that are true of it: what the mapping can make up for may as well be
        called a fault of the mapping."""
        return (self.expected, ("layout", "mapping")) if self.mended_by else (self.expected,)

    @property
    def mendable(self) -> bool:
        """Whether a tool that edits mappings and tensors can mend it."""
        return self.effect == "diverges" and (self.kind != "definition" or bool(self.mended_by))

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

    def where(self) -> tuple[int, ...]:
        """The layers that hold something wrong; none given where all do, or where what is wrong has no layer."""
        shift = self.fault.difference.shift
        return tuple(sorted({n for layer in self.layers or () for n in (layer, layer + shift)}))


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
