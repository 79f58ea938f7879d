"""Faults in the converted checkpoint: the mapping is right, one tensor is not what it makes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ckptdbg.mapping import BoundMapping
from ckptdbg.samples.fault import ALL, LLAMA, MOE, NNX, Difference, Effect, Fault, fault_table

Array = NDArray[Any]


@dataclass(frozen=True)
class Weights:
    """The target's tensors, to be changed in place, found by mapping entry and layer."""

    tensors: dict[str, Array]
    bound: BoundMapping

    def at(self, entry: str, layer: int | None = None) -> Array:
        """A view of what ``entry`` makes for ``layer``, inside the stacked tensor where layers are stacked.

        Of an entry with several targets the first. Raises KeyError where there is no such entry and layer.
        """
        for made in self.bound.entries:
            if made.name.partition("@")[0] != entry:
                continue
            tensor = self.tensors[made.targets[0]]
            axes = [stack.axis for stack in made.stacks if stack.over == "layer"]
            if axes and layer is not None:
                return tensor[(slice(None),) * axes[0] + (layer,)]
            if layer is None or made.layer == str(layer):
                return tensor
        raise KeyError(f"{entry} in layer {layer}")


def weight_fault(
    name: str,
    description: str,
    pairs: tuple[str, ...],
    entries: tuple[str, ...],
    edit: Callable[[Weights, int], None],
    difference: Difference,
    layers: tuple[int, ...] | None = (1,),
    effect: Effect = "diverges",
) -> Fault:
    """A fault of kind ``weights``, by default in layer 1."""
    return Fault(name, description, "weights", pairs, edit, difference, entries, layers, effect)


def change(entry: str, function: Callable[[Array], Array]) -> Callable[[Weights, int], None]:
    """An edit: what ``entry`` makes in one layer becomes a function of itself."""

    def edit(weights: Weights, layer: int) -> None:
        view = weights.at(entry, layer)
        view[...] = function(view.copy())

    return edit


def exchange(first: str, second: str, shift: int = 0) -> Callable[[Weights, int], None]:
    """An edit: two tensors change places, the second ``shift`` layers further on."""

    def edit(weights: Weights, layer: int) -> None:
        a, b = weights.at(first, layer), weights.at(second, layer + shift)
        a[...], b[...] = b.copy(), a.copy()

    return edit


def one_element(value: Array) -> Array:
    """The largest element, times 1.5."""
    value.flat[np.argmax(np.abs(value))] *= 1.5
    return value


def bfloat16(value: Array) -> Array:
    """Rounded to bfloat16."""
    return value.astype(ml_dtypes.bfloat16).astype(value.dtype)


def random(value: Array) -> Array:
    """Fresh random values of the same spread: a tensor that was never loaded."""
    return (np.random.default_rng(0).standard_normal(value.shape) * value.std()).astype(value.dtype)


def order_as_text(weights: Weights, _: int) -> None:
    """An edit: layers in the order 0, 1, 10, 11, 2, ..."""
    layers = sorted({int(made.layer or 0) for made in weights.bound.entries if made.name == "mlp.up"})
    before = {layer: weights.at("mlp.up", layer).copy() for layer in layers}
    for layer, taken in zip(layers, sorted(layers, key=str), strict=True):
        weights.at("mlp.up", layer)[...] = before[taken]


def swap_experts(value: Array) -> Array:
    """Experts 0 and 1 change places."""
    return np.concatenate([value[1:2], value[0:1], value[2:]])


def roll_rows(weights: Weights, _: int) -> None:
    """An edit: every row of the embedding one further."""
    view = weights.at("embedding")
    view[...] = np.roll(view, 1, axis=0)


def value_gauge(weights: Weights, layer: int) -> None:
    """An edit that changes nothing in the end: the value doubled, the attention output halved."""
    weights.at("attention.value", layer)[...] *= 2
    weights.at("attention.out", layer)[...] /= 2


def permute_hidden(weights: Weights, layer: int) -> None:
    """An edit that changes nothing in the end: hidden units of the MLP in another order, consistently."""
    gate, up, down = (weights.at(f"mlp.{name}", layer) for name in ("gate", "up", "down"))
    order = np.random.default_rng(0).permutation(gate.shape[-1])
    gate[...], up[...], down[...] = gate[:, order], up[:, order], down[order]


_DENSE = (*LLAMA, "qwen3_to_nnx", "gemma2_to_jax", "gpt2_to_jax", "bert_to_jax")
_SPLIT = (*NNX, *MOE)
_DOWN = ("mlp.down",)

WEIGHT_FAULTS = fault_table(
    weight_fault(
        "value-element",
        "one element of the value, the largest, is 1.5 times too large",
        (*NNX, *MOE, "bert_to_jax"),
        ("attention.value",),
        change("attention.value", one_element),
        Difference("elements", count=1),
    ),
    weight_fault(
        "down-element",
        "one element of the down projection, the largest, is 1.5 times too large",
        _DENSE,
        _DOWN,
        change("mlp.down", one_element),
        Difference("elements", count=1),
    ),
    weight_fault(
        "down-bfloat16",
        "the down projection was rounded to bfloat16",
        _DENSE,
        _DOWN,
        change("mlp.down", bfloat16),
        Difference("rounded", dtype="bfloat16"),
    ),
    weight_fault(
        "down-zeros",
        "the down projection was never loaded: zeros",
        _DENSE,
        _DOWN,
        change("mlp.down", np.zeros_like),
        Difference("zeros"),
    ),
    weight_fault(
        "out-random",
        "the attention output was never loaded: random values",
        ALL,
        ("attention.out",),
        change("attention.out", random),
        Difference("other values"),
    ),
    weight_fault(
        "norm-scaled",
        "the norm before the MLP is 1.1 times too large",
        ALL,
        ("mlp.norm",),
        change("mlp.norm", lambda value: value * value.dtype.type(1.1)),
        Difference("scaled", by=1.1),
    ),
    weight_fault(
        "checkpoint-gate-up-swapped",
        "the checkpoint holds the gate projection of one layer under the name of up, and up under gate",
        NNX,
        ("mlp.gate", "mlp.up"),
        exchange("mlp.gate", "mlp.up"),
        Difference("exchanged"),
    ),
    weight_fault(
        "layers-swapped",
        "the down projections of two neighbouring layers changed places",
        _DENSE,
        _DOWN,
        exchange("mlp.down", "mlp.down", shift=1),
        Difference("exchanged", shift=1),
    ),
    weight_fault(
        "layers-sorted-as-text",
        "the up projections lie in the order 0, 1, 10, 11, 2, ...",
        ("gpt2_to_jax",),
        ("mlp.up",),
        order_as_text,
        Difference("exchanged"),
        None,
    ),
    weight_fault(
        "down-transposed",
        "a square matrix was transposed once too often",
        ("llama_square_to_nnx",),
        _DOWN,
        change("mlp.down", np.transpose),
        Difference("transposed"),
    ),
    weight_fault(
        "experts-swapped",
        "two experts' down projections changed places",
        MOE,
        ("moe.down",),
        change("moe.down", swap_experts),
        Difference("permuted"),
    ),
    weight_fault(
        "embedding-rows-shifted",
        "every row of the embedding is one further than it should be",
        tuple(pair for pair in ALL if pair != "bert_to_jax"),
        ("embedding",),
        roll_rows,
        Difference("permuted"),
        None,
    ),
    weight_fault(
        "value-gauge",
        "value doubled and attention output halved: a symmetry, no fault",
        _SPLIT,
        ("attention.value", "attention.out"),
        value_gauge,
        Difference("scaled", by=2.0),
        effect="none",
    ),
    weight_fault(
        "hidden-permuted",
        "hidden units of the MLP in another order, consistently: a symmetry, no fault",
        NNX,
        ("mlp.gate", "mlp.up", "mlp.down"),
        permute_hidden,
        Difference("permuted"),
        effect="none",
    ),
)
