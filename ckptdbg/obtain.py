"""Where a session's mapping comes from: a file, a conversion function or another library's, traced, or the two
checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping as Dict
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ckptdbg.checkpoint.dtypes import as_dtype
from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.config import Config, ModelConfig
from ckptdbg.errors import CkptdbgError, ConfigError
from ckptdbg.mapping import Mapping
from ckptdbg.mapping.agent_plan import Rules, plan_direction, read_plan, read_shapes
from ckptdbg.mapping.naming import Which, names_in_memory, speaks_of_others
from ckptdbg.mapping.recovery import recover
from ckptdbg.mapping.tracing import Traced, trace
from ckptdbg.mapping.tracing.origins import Convert
from ckptdbg.weights.checkpoints import Tensors, open_side


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
    if isinstance(config.mapping, Path):
        return Mapping.load(config.mapping)
    if "maxtext_plan" in config.mapping:
        return _plan(config, source, target)
    if "recover" not in config.mapping:
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
    """Trace the conversion that ``mapping`` names: the user's function, or one that another library has."""
    asked: Dict[str, Any] = config.mapping  # type: ignore[assignment]
    if "trace" in asked:
        return trace_config(config, source, read, model_config)
    from ckptdbg.models.importers import Sides, find_conversion

    model_config = model_config or _config_of(target)
    sides = Sides(source, model_config, lambda: target().specs, config.file.resolve().parent, str(config.file))
    found = find_conversion(asked, sides)
    return trace(found.convert, source, model_config, found.name, {name: read(name) for name in source})


def _config_of(target: Callable[[], Named]) -> Dict[str, Any]:
    """The target's config: where a library converts to Hugging Face, only that side has one."""
    with suppress(CkptdbgError):  # it may be yet to come
        return target().config or {}
    return {}


def trace_config(
    config: Config, source: Dict[str, TensorSpec], read: Callable[[str], Any], model_config: Dict[str, Any]
) -> Traced:
    """Trace the function under ``mapping: {trace: ..., arrays: ..., options: {...}}`` and try it on the tensors
    themselves, all in memory at once."""
    from ckptdbg.models.loaders.conversion import load_conversion

    asked: Dict[str, Any] = config.mapping  # type: ignore[assignment]
    chosen = load_conversion(
        asked["trace"],
        config.file.resolve().parent,
        arrays=asked.get("arrays"),
        options=asked.get("options") or {},
        config=model_config,
    )
    convert = chosen({name: _example(spec, i) for i, (name, spec) in enumerate(source.items())})
    real = {name: read(name) for name in source}
    return trace(convert, source, model_config, str(asked["trace"]), real)


def open_named(config: Config, which: Which, mapping: Mapping) -> Tensors:
    """The checkpoint of one side, under the names that ``mapping`` speaks of: those on disk, or those that transformers
    gives its tensors in memory. Raises ConfigError, CheckpointError, MappingError."""
    side: ModelConfig = getattr(config, which)
    tensors = open_side(side, which, config.file)
    if side.loader != "huggingface" or not speaks_of_others(mapping, which, tensors.specs):
        return tensors
    from ckptdbg.models.importers import Sides, find_conversion
    from ckptdbg.models.importers.transformers import names_of

    folder = config.file.resolve().parent
    sides = Sides(tensors.specs, tensors.config or {}, dict, folder, str(config.file))
    try:
        memory, tied = names_of(sides)
    except CkptdbgError:
        return tensors  # whoever binds the mapping says which name is missing
    names = names_in_memory(mapping, which, tensors.specs, memory, tied)
    if names is None:
        return tensors
    found = find_conversion({"transformers": True, "direction": "to_memory"}, sides)
    traced = trace(found.convert, tensors.specs, tensors.config, found.name)
    bound = traced.mapping.bind(tensors.config, tensors.specs, traced.specs)

    def read(name: str) -> Any:
        entry = bound.entry_of_target[name]
        return entry.apply([tensors.read(source) for source in entry.sources])[entry.targets.index(name)]

    return replace(tensors, specs={name: traced.specs[name] for name in names}, reader=read)


def conversion_of(
    text: str, source: Dict[str, TensorSpec], model_config: Dict[str, Any], target: Dict[str, TensorSpec] | None
) -> Convert:
    """What a mapping file or a conversion function (``file.py:function``, ``module:function``) does to source tensors;
    ``target`` gives the names and shapes that a mapping file is bound to. Raises ConfigError, MappingError,
    LoaderError."""
    from ckptdbg.models.loaders.conversion import load_conversion

    if not Path(text).exists() and ":" in text:
        chosen = load_conversion(text, Path.cwd(), options={}, config=model_config)
        return chosen({name: _example(spec, i) for i, (name, spec) in enumerate(source.items())})
    if target is None:
        raise ConfigError("a mapping file needs the names of the target", where=text, hint="add --target CHECKPOINT")
    bound = Mapping.load(text).bind(model_config, source, target)
    return lambda tensors: {name: value for name, value, _ in bound.values(lambda n: tensors[n])}


def _example(spec: TensorSpec, ordinal: int) -> Any:
    values = np.random.default_rng([29, ordinal]).standard_normal(spec.shape)
    return values.astype(as_dtype(spec.dtype))
