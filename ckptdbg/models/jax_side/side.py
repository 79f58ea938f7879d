"""One JAX model behind the verbs of ``Side``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.errors import CkptdbgError, LoaderError
from ckptdbg.models.jax_side import border, compat, forward, numerics, planting, program, summing
from ckptdbg.models.jax_side.blocks import find_blocks
from ckptdbg.models.jax_side.forward import Traced
from ckptdbg.models.jax_side.taint import Taint
from ckptdbg.models.jax_side.walk import Walk
from ckptdbg.models.jax_side.wrap import select, wrap
from ckptdbg.models.records import Array, Graph, Operands, Plant, Statistics, Trace

_STEPS = 12
"""Runs in float64 that go step by step before the program is compiled: that takes as long as 3 to 30 of them."""


class JaxSide:
    """A flax NNX module, a pair (linen module, variables), or a ``JaxModel``.

    ``output`` selects a key or an index of what the model returns. ``rename_inputs`` maps the model's name of an input
    to the name under which it is given. Raises LoaderError for anything that cannot be called.
    """

    framework: Literal["torch", "jax"] = "jax"

    def __init__(
        self, model: Any, *, output: str | int | None = None, rename_inputs: Mapping[str, str] | None = None
    ) -> None:
        self._model = wrap(model, rename_inputs or {})
        self._output = output
        self._place = {name: i for i, name in enumerate(self._model.names)}
        self._programs: dict[Any, Traced] = {}
        self._latest: Traced | None = None
        self.omitted_inputs: tuple[str, ...] = ()
        """Inputs of the latest ``graph`` or ``run`` that the model does not accept or does not use."""

    def parameters(self) -> dict[str, TensorSpec]:
        """Names, shapes and dtypes."""
        return {
            name: TensorSpec(tuple(leaf.shape), str(np.dtype(leaf.dtype)))
            for name, leaf in zip(self._model.names, self._model.leaves, strict=True)
        }

    def read(self, name: str) -> Array:
        """One parameter in its own dtype. Raises LoaderError if there is none of that name, or it has no value yet."""
        return np.asarray(self._leaf(name))

    def graph(self, inputs: Mapping[str, Array]) -> Graph:
        """Walk one forward pass (see ``Side``). Cached for one set of input shapes."""
        return self._traced(inputs).graph

    def operands(self, values: Mapping[str, Array]) -> Operands:
        """Effective operands in float64 (see ``Side``)."""
        traced = self._latest
        if traced is None:
            raise CkptdbgError("operands are known only after the model was walked", hint="call graph(inputs) first")
        with compat.enable_x64():
            captured = traced.compiled(forward.operands)(self._leaves(values, True))
            captured = jax.tree.map(lambda x: np.asarray(x, np.float64), captured)
        return border.operands(traced.walk, captured)

    def run(
        self,
        inputs: Mapping[str, Array],
        *,
        values: Mapping[str, Array] | None = None,
        promoted: bool = False,
        jitter: int | None = None,
        plants: Mapping[int, Plant] | None = None,
        choices: Sequence[Array] | None = None,
        until: int | None = None,
    ) -> Trace:
        """One forward pass (see ``Side``), always to its end. Compiled whole as the model is; with plants or promoted
        step by step, until there were so many runs in float64 that compiling costs less."""
        traced = self._traced(inputs)
        if choices is not None and not promoted and not plants:
            free = self.run(inputs, values=values, jitter=jitter)
            if _chosen(free, choices):  # pinned to what it chooses by itself: nothing to compile
                return free
        planted = planting.replacements(traced.walk, plants or {}, choices, promoted)
        seed = None if jitter is None else np.uint32(jitter)
        given = {name: np.asarray(inputs[name], _as(spec.dtype, promoted)) for name, spec in traced.inputs.items()}
        repeated = promoted and jitter is None and traced.steps >= _STEPS
        if repeated:
            planted = planted | {key: ports | planted.get(key, {}) for key, ports in traced.blank.items()}

        with compat.enable_x64() if promoted else nullcontext():
            if repeated:
                run = traced.compiled(forward.promoted)
            elif promoted or plants:
                run = forward.stepwise(traced, promoted)
                traced.steps += promoted and jitter is None
            else:
                run = traced.compiled(forward.whole)
            leaves, given = jax.device_put((self._leaves(values or {}, promoted), given))
            output, captured = jax.device_get(run(leaves, given, seed, planted))
        return border.trace(traced.walk, traced.blocks, np.asarray(output), captured, traced.tokens)

    def statistics(self, inputs: Mapping[str, Array], *, values: Mapping[str, Array] | None = None) -> Statistics:
        """One forward pass of which only statistics are kept (see ``Side``), compiled whole."""
        traced = self._traced(inputs)
        given = {name: np.asarray(inputs[name], spec.dtype) for name, spec in traced.inputs.items()}
        leaves, given = jax.device_put((self._leaves(values or {}, False), given))
        output, captured = traced.compiled(forward.without_tokens)(leaves, given)
        return summing.statistics(traced.walk, traced.graph, traced.blocks, output, captured)

    def _leaf(self, name: str) -> Any:
        if name not in self._place:
            raise LoaderError("the model has no such parameter", found=name, hint="see parameters() for the names")
        leaf = self._model.leaves[self._place[name]]
        if isinstance(leaf, jax.ShapeDtypeStruct):
            raise LoaderError("the parameter has no value", found=name, hint="give it in `values`, or load the model")
        return leaf

    def _leaves(self, values: Mapping[str, Array], promoted: bool) -> list[Any]:
        for name in values:
            if name not in self._place:
                self._leaf(name)
        return [
            self._value(name, spec, values.get(name), promoted)
            for name, spec in zip(self._model.names, self._model.leaves, strict=True)
        ]

    def _value(self, name: str, spec: Any, value: Array | None, promoted: bool) -> Any:
        if value is not None and tuple(value.shape) != tuple(spec.shape):
            raise LoaderError(
                "a value of the wrong shape", where=name, found=tuple(value.shape), expected=tuple(spec.shape)
            )
        dtype = _as(np.dtype(spec.dtype), promoted)
        given = self._leaf(name) if value is None else value
        return given if given.dtype == dtype else np.asarray(given).astype(dtype)

    def _traced(self, inputs: Mapping[str, Array]) -> Traced:
        key = tuple((name, tuple(array.shape), str(array.dtype)) for name, array in sorted(inputs.items()))
        if key not in self._programs:
            self._programs[key] = self._trace(inputs)
        self._latest = self._programs[key]
        used = self._latest.inputs
        self.omitted_inputs = tuple(name for name in inputs if name not in used)
        return self._latest

    def _trace(self, inputs: Mapping[str, Array]) -> Traced:
        taken = self._model.accepts(inputs)
        given = {name: jnp.asarray(inputs[name]) for name in sorted(set(taken.values()))}

        def forward(leaves: Sequence[Any], constants: Sequence[Any], arrays: dict[str, Any]) -> Any:
            output = self._model.call(leaves, constants, {own: arrays[name] for own, name in taken.items()})
            return select(output, self._output)

        try:
            with jax.default_matmul_precision("highest"):
                closed = jax.make_jaxpr(forward)(self._model.leaves, self._model.constants, given)
        except CkptdbgError:
            raise
        except Exception as error:
            raise LoaderError(
                f"the model cannot be called: {type(error).__name__}: {str(error).partition(chr(10))[0]}",
                found=", ".join(f"{name} {array.shape}" for name, array in given.items()),
                hint="see `inputs` in the config for renaming them",
            ) from error
        root = program.build(closed, self._model.leaves, self._model.constants)
        root, used = border.without_unused_inputs(root, len(self._place), list(given))
        taint = Taint(root, len(self._place))
        walk = Walk(root, self._model.names, taint)
        tokens = tuple(next(iter(inputs.values())).shape[:2])
        if "input_ids" in inputs:
            tokens = tuple(inputs["input_ids"].shape[:2])
        shapes = {name: jax.ShapeDtypeStruct(given[name].shape, given[name].dtype) for name in used}
        blocks = find_blocks(walk, tokens)
        named, inside = tuple(b.name for b in blocks), tuple(b.anchors for b in blocks)
        graph = replace(walk.graph, blocks=named, block_anchors=inside)
        return Traced(root, walk, graph, blocks, shapes, tokens)


def _as(dtype: Any, promoted: bool) -> Any:
    return numerics.double(dtype) if promoted else dtype


def _chosen(trace: Trace, choices: Sequence[Array]) -> bool:
    return len(trace.choices) == len(choices) and all(
        np.array_equal(own.indices, given) for own, given in zip(trace.choices, choices, strict=True)
    )
