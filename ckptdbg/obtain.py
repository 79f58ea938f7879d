"""Where a session's mapping comes from: a file, a conversion function that is traced, or the two checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping as Dict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ckptdbg.checkpoint.dtypes import as_dtype
from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.config import Config
from ckptdbg.errors import ConfigError, LoaderError
from ckptdbg.mapping import Mapping
from ckptdbg.mapping.recovery import recover
from ckptdbg.mapping.tracing import Traced, trace, trace_programs
from ckptdbg.mapping.tracing.memory import FEW_ELEMENTS, afford, elements
from ckptdbg.mapping.tracing.origins import Convert
from ckptdbg.mapping.tracing.recorded import Program

if TYPE_CHECKING:
    from ckptdbg.models.loaders.conversion import Conversion


class Named(Protocol):
    """Tensors by name."""

    @property
    def specs(self) -> Dict[str, TensorSpec]: ...
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
    if "trace" in config.mapping:
        return trace_config(config, source, read, model_config).mapping
    if config.mapping.get("recover") is True:
        if config.target.path is None:
            hint = "set target: {path: ...}, the checkpoint that was converted"
            raise ConfigError("nothing to recover a mapping from", where=str(config.file), hint=hint)
        converted = target()
        return recover(source, read, converted.specs, converted.read, model_config).mapping
    raise ConfigError(
        "this kind of mapping cannot be read yet",
        where=str(config.file),
        found=config.mapping,
        expected="the path of a mapping file, {trace: convert.py:function} or {recover: true}",
    )


def trace_config(
    config: Config, source: Dict[str, TensorSpec], read: Callable[[str], Any], model_config: Dict[str, Any]
) -> Traced:
    """Trace the function under ``mapping: {trace: ..., arrays: ..., options: {...}}`` and try it on the tensors
    themselves: on all at once, or, where that is too much, on one target at a time. Raises LoaderError, MappingError."""
    from ckptdbg.models.loaders.conversion import load_conversion

    asked: Dict[str, Any] = config.mapping  # type: ignore[assignment]
    name = str(asked["trace"])
    conversion = load_conversion(
        name,
        config.file.resolve().parent,
        arrays=asked.get("arrays"),
        options=asked.get("options") or {},
        config=model_config,
    )
    count = elements(source.values())
    if count > FEW_ELEMENTS:
        recorded = _recorded(conversion, source, count)
        if recorded is not None:
            return trace_programs(recorded, source, model_config, name, read)
    convert = conversion({name: _example(spec, i) for i, (name, spec) in enumerate(source.items())})
    real = {name: read(name) for name in source}
    return trace(convert, source, model_config, name, real)


def _recorded(conversion: Conversion, source: Dict[str, TensorSpec], count: int) -> Dict[str, Program] | None:
    """What makes each target of a large checkpoint; None where the function has to be run on probes, and there is
    memory for it."""
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
