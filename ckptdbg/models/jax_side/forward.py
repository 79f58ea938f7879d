"""One traced program, and the functions that run it: compiled as one, or step by step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax

from ckptdbg.models.jax_side import compat, planting, program, rows
from ckptdbg.models.jax_side.blocks import BlockSite
from ckptdbg.models.jax_side.evaluate import Evaluator, OperandEvaluator
from ckptdbg.models.jax_side.shadows import Value
from ckptdbg.models.jax_side.stepwise import StepwiseEvaluator
from ckptdbg.models.jax_side.walk import Walk
from ckptdbg.models.records import Graph


@dataclass
class Traced:
    """One program: the model at one set of input shapes."""

    root: program.Block
    walk: Walk
    graph: Graph
    blocks: tuple[BlockSite, ...]
    inputs: dict[str, jax.ShapeDtypeStruct]
    tokens: tuple[int, ...]
    """(batch, length)"""
    steps: int = 0
    """Runs in float64 so far that went step by step."""

    def __post_init__(self) -> None:
        self._compiled: dict[Any, Callable] = {}

    def compiled(self, build: Callable[[Traced], Callable]) -> Callable:
        """What ``build`` makes of this program, compiled once."""
        if build not in self._compiled:
            self._compiled[build] = jax.jit(build(self))
        return self._compiled[build]

    @cached_property
    def blank(self) -> planting.Ports:
        """Nothing planted, on the device, for runs in float64."""
        with compat.enable_x64():
            return jax.device_put(planting.blank(self.walk))


def whole(traced: Traced) -> Callable:
    """The model as it is, compiled as one: its rounding depends on that."""
    return _forward(traced, Evaluator, promoted=False)


def promoted(traced: Traced) -> Callable:
    """In float64, compiled as one."""
    return _forward(traced, Evaluator, promoted=True)


def stepwise(traced: Traced, promoted: bool) -> Callable:
    """Not to be compiled."""
    return _forward(traced, StepwiseEvaluator, promoted)


def _forward(traced: Traced, how: type[Evaluator], promoted: bool) -> Callable:
    def forward(leaves: list[Any], inputs: dict[str, Any], seed: Any, planted: Any) -> Any:
        pinned = frozenset(traced.walk.pinned)
        evaluator = how(
            traced.walk.taint, pinned, promoted=promoted, jitter=seed, replace=planted, blocks=traced.blocks
        )
        args = [Value(leaf) for leaf in leaves]
        for name, spec in traced.inputs.items():
            args.append(Value(inputs[name], rows.token_ids(spec.shape, traced.tokens)))
        output = evaluator.run(traced.root, args)
        assert output is not None
        return output.data, evaluator.captured

    return forward


def without_tokens(traced: Traced) -> Callable:
    """Nobody asks which token a row belongs to, nor what was chosen: less to trace."""

    def forward(leaves: list[Any], inputs: dict[str, Any]) -> Any:
        evaluator = Evaluator(traced.walk.taint, frozenset(), promoted=False, blocks=traced.blocks)
        output = evaluator.run(traced.root, [Value(x) for x in [*leaves, *(inputs[name] for name in traced.inputs)]])
        assert output is not None
        return output.data, evaluator.captured

    return forward


def operands(traced: Traced) -> Callable:
    def captured(leaves: list[Any]) -> Any:
        evaluator = OperandEvaluator(traced.walk.taint, frozenset(), promoted=True)
        evaluator.run(traced.root, [*(Value(leaf) for leaf in leaves), *([None] * len(traced.inputs))])
        return evaluator.captured

    return captured
