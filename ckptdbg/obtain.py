"""Where a session's mapping comes from: a file, or a conversion function that is traced."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping as Dict
from pathlib import Path
from typing import Any

import numpy as np

from ckptdbg.checkpoint.dtypes import as_dtype
from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.config import Config
from ckptdbg.errors import ConfigError
from ckptdbg.mapping import Mapping
from ckptdbg.mapping.tracing import Traced, trace


def obtain_mapping(
    config: Config, source: Dict[str, TensorSpec], read: Callable[[str], Any], model_config: Dict[str, Any]
) -> Mapping:
    """The mapping that a config names; ``source`` are the source's tensors, which a conversion function is traced on,
    and ``read`` gives one by name. Raises ConfigError, MappingError, LoaderError."""
    if isinstance(config.mapping, Path):
        return Mapping.load(config.mapping)
    if "trace" in config.mapping:
        return trace_config(config, source, read, model_config).mapping
    raise ConfigError(
        "this kind of mapping cannot be read yet",
        where=str(config.file),
        found=config.mapping,
        expected="the path of a mapping file, or {trace: convert.py:function}",
    )


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


def _example(spec: TensorSpec, ordinal: int) -> Any:
    values = np.random.default_rng([29, ordinal]).standard_normal(spec.shape)
    return values.astype(as_dtype(spec.dtype))
