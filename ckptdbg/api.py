"""For code that already holds its models: a comparison, a check for a test suite, a capture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from ckptdbg.config import Config, ModelConfig, ProbeConfig
from ckptdbg.errors import CkptdbgError
from ckptdbg.mapping import Mapping as TensorMapping
from ckptdbg.models.records import Graph, Statistics, Trace
from ckptdbg.result import Result
from ckptdbg.session import Session

Array = NDArray[Any]


def compare_models(
    source: Any,
    target: Any,
    mapping: TensorMapping | str | Path,
    inputs: Mapping[str, Array],
    *,
    variables: Mapping[str, Any] | None = None,
) -> Result:
    """Compare two models in memory.

    ``source`` and ``target`` are a ``torch.nn.Module``, a flax NNX module, a pair (linen module, variables) or a
    ``JaxModel``; their tensors are named as DESIGN says of parameters in memory. ``mapping`` is a mapping or the
    path of one, ``inputs`` arrays under Hugging Face names (``input_ids`` ``[batch, length]`` at least; batch and
    length of different size), ``variables`` what a ``config.json`` would say; a source with a ``config`` of its own
    needs none. Raises CkptdbgError on bad input.
    """
    from ckptdbg.models.loaders import wrap_model

    sides = {"source": wrap_model(source), "target": wrap_model(target)}
    sides["source"].config = dict(variables) if variables is not None else _config_of(source)
    in_memory = ModelConfig(loader="in:memory", path=Path("in memory"))
    path = mapping if isinstance(mapping, str | Path) else "in memory"
    session = Session(
        Config(source=in_memory, target=in_memory, mapping=Path(path), probe=ProbeConfig(inputs=Path("in memory")))
    )
    given = {name: np.asarray(value) for name, value in inputs.items()}
    unbound = mapping if isinstance(mapping, TensorMapping) else TensorMapping.load(mapping)
    vars(session).update(sides, inputs=given, unbound_mapping=unbound)  # in place of what a config would have loaded
    return session.compare()


def assert_equivalent(
    source: Any,
    target: Any,
    mapping: TensorMapping | str | Path,
    inputs: Mapping[str, Array],
    *,
    variables: Mapping[str, Any] | None = None,
) -> Result:
    """``compare_models`` for a test suite. Raises AssertionError, with the findings, unless equivalent or at a
    precision floor."""
    result = compare_models(source, target, mapping, inputs, variables=variables)
    if result.verdict not in ("equivalent", "precision-floor"):
        lines = [f"{f.site}: {f.explanation}" for f in result.findings] or ["nothing else was found"]
        raise AssertionError("\n".join([f"the two models are not equivalent: {result.verdict}", *lines]))
    return result


@overload
def capture(model: Any, inputs: Mapping[str, Array], *, statistics: Literal[False] = False) -> tuple[Graph, Trace]: ...
@overload
def capture(model: Any, inputs: Mapping[str, Array], *, statistics: Literal[True]) -> Statistics: ...
def capture(model: Any, inputs: Mapping[str, Array], *, statistics: bool = False) -> tuple[Graph, Trace] | Statistics:
    """What one forward pass of ``model`` consists of, and the values at every anchor of it.

    ``Graph.anchors[i]`` and ``Trace.records[i]`` belong together; see ``ckptdbg.models.records`` for shapes. With
    ``statistics`` mean, std, min, max and the number of NaN and infinite values are kept instead of the values:
    ``to_frame()`` is a table of them. Raises LoaderError.
    """
    from ckptdbg.models.loaders import wrap_model

    side = wrap_model(model).side
    given = {name: np.asarray(value) for name, value in inputs.items()}
    if not given:
        raise CkptdbgError("nothing to run the model on", expected="inputs such as {'input_ids': array}")
    return side.statistics(given) if statistics else (side.graph(given), side.run(given))


def _config_of(model: Any) -> dict[str, Any] | None:
    to_dict = getattr(getattr(model, "config", None), "to_dict", None)
    return to_dict() if to_dict is not None else None
