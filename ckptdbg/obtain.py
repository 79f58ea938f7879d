"""Where a session's mapping comes from: a file, a conversion function or another library's, traced, or the two
checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping as Dict
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ckptdbg.checkpoint.dtypes import as_dtype
from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.config import Config, ModelConfig
from ckptdbg.errors import CkptdbgError, ConfigError, LoaderError
from ckptdbg.mapping import Mapping
from ckptdbg.mapping.agent_plan import Rules, plan_direction, read_plan, read_shapes
from ckptdbg.mapping.naming import Which, names_in_memory, speaks_of_others
from ckptdbg.mapping.ops import Make
from ckptdbg.mapping.recovery import recover
from ckptdbg.mapping.tracing import Traced, trace, trace_programs
from ckptdbg.mapping.tracing.checking import run_for_one, run_recorded
from ckptdbg.mapping.tracing.memory import FEW_ELEMENTS, afford, elements
from ckptdbg.mapping.tracing.origins import Convert
from ckptdbg.mapping.tracing.recorded import Program
from ckptdbg.weights.checkpoints import Tensors, open_side

if TYPE_CHECKING:
    from ckptdbg.models.loaders.conversion import Conversion

# Elements of a source that is still made up on probes: about ten copies of it are in memory then.
_MOST_PROBED = 2**24


class Named(Protocol):
    """Tensors by name, and the ``config.json`` beside them."""

    @property
    def specs(self) -> Dict[str, TensorSpec]: ...
    @property
    def config(self) -> dict[str, Any] | None: ...
    def read(self, name: str) -> Any: ...


def obtain_mapping(
    config: Config,
    source: Dict[str, TensorSpec],
    read: Callable[[str], Any],
    model_config: Dict[str, Any],
    target: Callable[[], Named],
) -> Mapping:
    """The mapping that a config names. ``source`` are the source's tensors, which a conversion function is traced on,
    and ``read`` gives one by name; ``target`` gives the target's, for a mapping that is recovered from both. Raises
    ConfigError, MappingError, LoaderError."""
    asked = config.mapping
    if isinstance(asked, Path):
        return Mapping.load(asked)
    if "maxtext_plan" in asked:
        return _plan(config, source, target)
    if "trace" in asked and "file" in asked:
        function = function_at_hand(config, source, model_config)
        return Mapping.load(asked["file"]).with_functions({str(asked["trace"]): function})
    if "propose" in asked:
        hint = "a proposal is read before it is used: `ckptdbg mapping propose CONFIG --run -o FILE` writes one"
        raise ConfigError("this config names no mapping", where=str(config.file), hint=hint)
    if "recover" not in asked:
        return trace_asked(config, source, read, model_config, target).mapping
    if config.target.path is None:
        hint = "set target: {path: ...}, the checkpoint that was converted"
        raise ConfigError("nothing to recover a mapping from", where=str(config.file), hint=hint)
    converted = target()
    return recover(source, read, converted.specs, converted.read, model_config).mapping


def _plan(config: Config, source: Dict[str, TensorSpec], target: Callable[[], Named]) -> Mapping:
    asked: Dict[str, Any] = config.mapping  # type: ignore[assignment]
    base = config.file.resolve().parent
    plan, rules = base / asked["maxtext_plan"], Rules.load(base / asked.get("dsl", "dsl.txt"))
    made = read_shapes(base / asked["shapes"]) if "shapes" in asked else target().specs
    return read_plan(plan, rules, asked.get("direction") or plan_direction(plan, source), source, made)


def trace_asked(
    config: Config,
    source: Dict[str, TensorSpec],
    read: Callable[[str], Any],
    model_config: Dict[str, Any],
    target: Callable[[], Named],
) -> Traced:
    """Trace the conversion that ``mapping`` names, the user's function (``{trace: ..., arrays: ..., options: {...}}``)
    or one that another library has, and try it on the tensors themselves: on all at once or, where that is too much,
    on one target at a time. Raises LoaderError, MappingError."""
    asked: Dict[str, Any] = config.mapping  # type: ignore[assignment]
    if "trace" in asked:
        return _traced(_own_conversion(config, model_config), source, read, model_config)
    from ckptdbg.models.importers import Given, find_conversion

    model_config = model_config or _config_of(target)
    sides = Given(source, model_config, lambda: target().specs, config.file.resolve().parent, str(config.file))
    return _traced(find_conversion(asked, sides), source, read, model_config)


def _config_of(target: Callable[[], Named]) -> Dict[str, Any]:
    """The target's config: where a library converts to Hugging Face, only that side has one."""
    with suppress(CkptdbgError):  # it may be yet to come
        return target().config or {}
    return {}


def _traced(
    conversion: Conversion, source: Dict[str, TensorSpec], read: Callable[[str], Any], model_config: Dict[str, Any]
) -> Traced:
    recorded = _recorded(conversion, source)
    if recorded is not None:
        return trace_programs(recorded, source, model_config, conversion.name, read)
    real = {name: read(name) for name in source}
    return trace(runnable(conversion, source), source, model_config, conversion.name, real)


def function_at_hand(config: Config, source: Dict[str, TensorSpec], model_config: Dict[str, Any]) -> Make:
    """The function under ``mapping: {trace: ...}``, for the opaque entries of the file beside it. It is imported when
    it is first called. Raises LoaderError, MappingError then."""

    @cache
    def ready() -> Make:
        conversion = _own_conversion(config, model_config)
        recorded = _recorded(conversion, source)
        return run_for_one(runnable(conversion, source), source) if recorded is None else run_recorded(recorded)

    return lambda target, sources: ready()(target, sources)


def _own_conversion(config: Config, model_config: Dict[str, Any]) -> Conversion:
    from ckptdbg.models.loaders.conversion import load_conversion

    asked: Dict[str, Any] = config.mapping  # type: ignore[assignment]
    return load_conversion(
        str(asked["trace"]),
        config.file.resolve().parent,
        arrays=asked.get("arrays"),
        options=asked.get("options") or {},
        config=model_config,
    )


def runnable(conversion: Conversion, source: Dict[str, TensorSpec]) -> Convert:
    """What a conversion does to NumPy arrays, tried on tensors of the source's shapes. Raises LoaderError."""
    return conversion({name: _example(spec, i) for i, (name, spec) in enumerate(source.items())})


def _recorded(conversion: Conversion, source: Dict[str, TensorSpec]) -> Dict[str, Program] | None:
    """What makes each target of a large checkpoint; None where the function is to be run on probes, and there is memory
    for it."""
    count = elements(source.values())
    if count <= FEW_ELEMENTS:
        return None
    if conversion.arrays is None:
        raise LoaderError(
            "a conversion of so many elements is not tried on every kind of array",
            where=conversion.name,
            found=count,
            expected=f"at most {FEW_ELEMENTS}",
            hint="say which kind it is written for: mapping: {trace: ..., arrays: torch}",
        )
    why = f"it is written for {conversion.arrays} arrays"
    if conversion.arrays == "torch":
        from ckptdbg.models.torch_side.recording import Unrecordable

        try:
            return conversion.record(source)
        except Unrecordable as cause:
            why = str(cause)
    afford(count, why, conversion.name)
    return None


def open_named(config: Config, which: Which, mapping: Mapping) -> Tensors:
    """The checkpoint of one side, under the names that ``mapping`` speaks of: those on disk, or those that transformers
    gives its tensors in memory. Raises ConfigError, CheckpointError, MappingError."""
    side: ModelConfig = getattr(config, which)
    tensors = open_side(side, which, config.file)
    if side.loader != "huggingface" or not speaks_of_others(mapping, which, tensors.specs):
        return tensors
    from ckptdbg.models.importers import Given, find_conversion
    from ckptdbg.models.importers.transformers import names_of

    folder = config.file.resolve().parent
    sides = Given(tensors.specs, tensors.config or {}, dict, folder, str(config.file))
    try:
        memory, tied = names_of(sides)
    except CkptdbgError:
        return tensors  # whoever binds the mapping says which name is missing
    names = names_in_memory(mapping, which, tensors.specs, memory, tied)
    if names is None:
        return tensors
    found = find_conversion({"transformers": True, "direction": "to_memory"}, sides)
    traced = trace(runnable(found, tensors.specs), tensors.specs, tensors.config, found.name)
    bound = traced.mapping.bind(tensors.config, tensors.specs, traced.specs)

    def read(name: str) -> Any:
        entry = bound.entry_of_target[name]
        return entry.apply([tensors.read(source) for source in entry.sources])[entry.targets.index(name)]

    return replace(tensors, specs={name: traced.specs[name] for name in names}, reader=read)


def _example(spec: TensorSpec, ordinal: int) -> Any:
    values = np.random.default_rng([29, ordinal]).standard_normal(spec.shape)
    return values.astype(as_dtype(spec.dtype))
