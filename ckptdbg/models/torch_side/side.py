"""The torch side: one ``torch.nn.Module`` behind the verbs of ``records.Side``."""

from __future__ import annotations

import hashlib
import inspect
import traceback
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.errors import HarnessError, LoaderError
from ckptdbg.models.records import Array, Graph, Operands, Plant, Statistics, Trace
from ckptdbg.models.torch_side.border import to_numpy, to_torch
from ckptdbg.models.torch_side.execute import Enough, Execution
from ckptdbg.models.torch_side.knobs import Knobs
from ckptdbg.models.torch_side.params import Parameters, left_as_found
from ckptdbg.models.torch_side.promote import default_float64, promoted_tensor
from ckptdbg.models.torch_side.scopes import Scopes
from ckptdbg.models.torch_side.summing import SummingExecution, SummingSurvey
from ckptdbg.models.torch_side.survey import Survey, Surveyed
from ckptdbg.models.torch_side.tensors import tensors_in

_DEFAULT_OUTPUTS = ("logits", "last_hidden_state")
_FORWARD_ERRORS = (
    RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError, ArithmeticError,
)  # fmt: skip


class TorchSide:
    """A torch model as one side of a comparison.

    Args:
        module: any module; it is run in eval mode without gradients and left exactly as found.
        output: key, attribute or index of the output to compare; by default ``logits``, else ``last_hidden_state``,
            else the first tensor.
        rename_inputs: the module's own name of an input -> its Hugging Face name.

    Raises:
        LoaderError: a parameter has no values (meta device).
    """

    framework: Literal["torch", "jax"] = "torch"

    def __init__(
        self, module: nn.Module, *, output: str | int | None = None, rename_inputs: dict[str, str] | None = None
    ) -> None:
        self._module, self._output, self._renames = module, output, dict(rename_inputs or {})
        self._parameters = Parameters(module)
        self._surveys: dict[Any, dict[Any, Surveyed]] = {}
        self._current: Surveyed | None = None
        self.knobs = Knobs(module)
        """Settings outside its parameters, which can be given another value while a run lasts."""
        self.omitted_inputs: tuple[str, ...] = ()
        """Inputs of the last pass that the module's ``forward`` does not name."""

    def parameters(self) -> dict[str, TensorSpec]:
        """See ``records.Side``."""
        return {name: self._parameters.spec(name) for name in self._parameters}

    def read(self, name: str) -> Array:
        """See ``records.Side``. Raises LoaderError for a name that is not there."""
        return self._parameters.read(name)

    def graph(self, inputs: Mapping[str, Array]) -> Graph:
        """See ``records.Side``."""
        if _values(inputs) not in self._surveys.get(_shapes(inputs), {}):
            self._survey(inputs, Survey(self._module))
        self._current = self._surveys[_shapes(inputs)][_values(inputs)]
        return self._current.graph

    def operands(self, values: Mapping[str, Array]) -> Operands:
        """See ``records.Side``. Raises HarnessError before ``graph``, LoaderError for a wrong name or shape."""
        if self._current is None:
            raise HarnessError("operands are asked for before the graph is known", hint="call graph(inputs) first")
        self._parameters.check(values)
        found = self._current
        wanted = [ref for ref, _, _ in found.anchor_operands]
        replayed = found.tape.replay(
            [*wanted, *found.meeting_operands], lambda name: self._parameters.fresh(name, values)
        )
        anchors = [
            layout.split(tensor)[group]
            for (_, layout, group), tensor in zip(found.anchor_operands, replayed[: len(wanted)], strict=True)
        ]
        return Operands(tuple(map(to_numpy, anchors)), tuple(map(to_numpy, replayed[len(wanted) :])))

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
        """See ``records.Side``. Raises HarnessError if plants or choices do not fit, LoaderError if the call fails."""
        found = self._surveyed(inputs)
        walk = Execution(
            found,
            Scopes(self._module),
            promoted=promoted,
            jitter=jitter,
            plants=plants or {},
            choices=choices,
            until=until,
        )
        with ExitStack() as stack:
            stack.enter_context(left_as_found(self._module))
            if promoted:
                stack.enter_context(default_float64())
            stack.enter_context(self._parameters.swapped(self._parameters.replacement(values or {}, promoted)))
            attributes = [(child, dict(vars(child))) for child in self._module.modules()] if until is not None else []
            try:
                output = self._forward(inputs, walk, promoted)
            except Enough:
                for child, before in attributes:  # what the model would have cleared at its end
                    vars(child).clear()
                    vars(child).update(before)
                return walk.beginning()
        return walk.trace(output, tuple(output.shape))

    def statistics(self, inputs: Mapping[str, Array], *, values: Mapping[str, Array] | None = None) -> Statistics:
        """See ``records.Side``. The first call with inputs of a shape is the walk itself: one forward pass."""
        if not values and _shapes(inputs) not in self._surveys:
            survey = SummingSurvey(self._module)
            output = self._survey(inputs, survey)
            return survey.sums.statistics(self._surveyed(inputs), output)
        found = self._surveyed(inputs)
        walk = SummingExecution(found, Scopes(self._module))
        replacement = self._parameters.replacement(values or {}, False)
        with left_as_found(self._module), self._parameters.swapped(replacement):
            output = self._forward(inputs, walk, False)
        return walk.sums.statistics(found, output)

    def _surveyed(self, inputs: Mapping[str, Array]) -> Surveyed:
        """Of these inputs where their graph was asked for, else of some of these shapes."""
        if _shapes(inputs) not in self._surveys:
            self._survey(inputs, Survey(self._module))
        known = self._surveys[_shapes(inputs)]
        return known.get(_values(inputs)) or next(iter(known.values()))

    def _survey(self, inputs: Mapping[str, Array], survey: Survey) -> Tensor:
        """Walk one forward pass for the first time; its output."""
        with left_as_found(self._module), self._parameters.swapped(self._parameters.untied()):
            output = self._forward(inputs, survey, False)
        found = survey.surveyed(list(self._parameters), output)
        self._surveys.setdefault(_shapes(inputs), {})[_values(inputs)] = found
        return output

    def _forward(self, inputs: Mapping[str, Array], walk: Survey | Execution, promoted: bool) -> Tensor:
        """The selected output of one forward pass under ``walk``."""
        for name in self._parameters:
            key, names = self._parameters.group(name), self._parameters.tied(name)
            walk.start_parameter(self._parameters.tensor(name), name, key=key, names=names)
        call = self._call(inputs)
        for name, value in call.items():
            if isinstance(value, Tensor):
                call[name] = promoted_tensor(value) if promoted else value
                walk.start_input(call[name])
        try:
            with walk.scopes.followed(walk.enter, walk.leave), walk:
                result = self._module(**call)
        except _FORWARD_ERRORS as error:
            given = {name: tuple(value.shape) for name, value in call.items() if isinstance(value, Tensor)}
            problem = f"the model's forward failed: {type(error).__name__}: {error}"
            raise LoaderError(
                f"{problem} ({_line_of(error)})", where=type(self._module).__name__, found=f"inputs {given}"
            ) from error
        return self._select(result)

    def _call(self, inputs: Mapping[str, Array]) -> dict[str, Any]:
        """Keyword arguments of ``forward``: the inputs it names, under its own names."""
        signature = inspect.signature(self._module.forward).parameters.values()
        named = {
            parameter.name
            for parameter in signature
            if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        }
        takes_all = not named and any(parameter.kind == parameter.VAR_KEYWORD for parameter in signature)
        unknown = [own for own in self._renames if own not in named]
        if unknown and not any(parameter.kind == parameter.VAR_KEYWORD for parameter in signature):
            raise LoaderError(
                f"the model's forward has no input named {unknown[0]!r}",
                where=type(self._module).__name__,
                expected=", ".join(sorted(named)),
                hint="correct `inputs:` in the config; on its left stand the model's own names",
            )
        own_name = {theirs: own for own, theirs in self._renames.items()}
        call: dict[str, Any] = {}
        omitted: list[str] = []
        for name, array in inputs.items():
            own = own_name.get(name, name)
            if takes_all or own in named:
                call[own] = to_torch(array)
            else:
                omitted.append(name)
        if not call:
            raise LoaderError(
                "the model's forward accepts none of the inputs",
                where=type(self._module).__name__,
                found=sorted(inputs),
                expected=sorted(named),
                hint="rename them under `inputs` in the config",
            )
        if "use_cache" in named:
            call["use_cache"] = False
        self.omitted_inputs = tuple(omitted)
        return call

    def _select(self, result: Any) -> Tensor:
        if self._output is not None:
            chosen = _item(result, self._output)
        else:
            chosen = next((value for key in _DEFAULT_OUTPUTS if (value := _item(result, key)) is not None), None)
            if chosen is None:
                chosen = next(tensors_in(result if isinstance(result, Tensor | list | tuple | dict) else []), None)
        if not isinstance(chosen, Tensor):
            raise LoaderError(
                "the model's output has no such tensor",
                where=type(self._module).__name__,
                found=type(result).__name__,
                expected=self._output or "a tensor",
                hint="set `output` in the config",
            )
        return chosen


def _shapes(inputs: Mapping[str, Array]) -> Any:
    """What a survey depends on, but for experts."""
    return tuple((name, tuple(array.shape), str(array.dtype)) for name, array in sorted(inputs.items()))


def _values(inputs: Mapping[str, Array]) -> Any:
    """What a survey depends on besides: experts are anchors where a token chooses them."""
    return tuple(hashlib.sha256(np.asarray(array).tobytes()).digest() for _, array in sorted(inputs.items()))


def _line_of(error: BaseException) -> str:
    """``file:line`` of the deepest frame that is the model's: neither torch's nor ours."""
    own = tuple(str(Path(place).parent) for place in (torch.__file__, __file__))
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(own)]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "in its call"


def _item(result: Any, key: str | int) -> Any:
    """An element of a model's output by index, key or attribute; None if there is none."""
    if isinstance(key, str) and not isinstance(result, Mapping):
        return getattr(result, key, None) if not isinstance(result, Tensor) else None
    try:
        return result[key]
    except (KeyError, IndexError, TypeError):
        return None
