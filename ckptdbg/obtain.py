"""Where a session's mapping comes from: a file, a conversion function that is traced, or the two checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable
from collections.abc import Mapping as Dict
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ckptdbg.checkpoint.dtypes import as_dtype
from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.config import Config
from ckptdbg.errors import ConfigError
from ckptdbg.mapping import Mapping
from ckptdbg.mapping.grids import judge_bound
from ckptdbg.mapping.judge import Judgement, judge
from ckptdbg.mapping.recovery import recover
from ckptdbg.mapping.tracing import Traced, trace
from ckptdbg.mapping.tracing.origins import Convert

# Elements of a source that is still made up on probes: about ten copies of it are in memory then.
_MOST_PROBED = 2**24


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
    if "propose" in config.mapping:
        hint = "a proposal is read before it is used: `ckptdbg mapping propose CONFIG --run -o FILE` writes one"
        raise ConfigError("this config names no mapping", where=str(config.file), hint=hint)
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


def judged(
    texts: tuple[str, str],
    source: Dict[str, TensorSpec],
    model_config: Dict[str, Any],
    target: Dict[str, TensorSpec] | None,
) -> Judgement:
    """Compare two mapping files or conversion functions by what they do to source tensors of these shapes: on probes,
    or, for two files and more tensors than probes should be made of, as patterns of indices. Raises as
    ``conversion_of`` does."""
    large = sum(math.prod(spec.shape) for spec in source.values()) > _MOST_PROBED
    if large and target is not None and all(map(is_file, texts)):
        first, second = (Mapping.load(text).bind(model_config, source, target) for text in texts)
        return judge_bound(first, second)
    one, other = (conversion_of(text, source, model_config, target) for text in texts)
    return judge(one, other, source)


def is_file(text: str) -> bool:
    """Whether a mapping is named by its file, not as a function."""
    return Path(text).exists() or ":" not in text


def conversion_of(
    text: str, source: Dict[str, TensorSpec], model_config: Dict[str, Any], target: Dict[str, TensorSpec] | None
) -> Convert:
    """What a mapping file or a conversion function (``file.py:function``, ``module:function``) does to source tensors;
    ``target`` gives the names and shapes that a mapping file is bound to. Raises ConfigError, MappingError,
    LoaderError."""
    from ckptdbg.models.loaders.conversion import load_conversion

    if not is_file(text):
        chosen = load_conversion(text, Path.cwd(), options={}, config=model_config)
        return chosen({name: _example(spec, i) for i, (name, spec) in enumerate(source.items())})
    if target is None:
        raise ConfigError("a mapping file needs the names of the target", where=text, hint="add --target CHECKPOINT")
    bound = Mapping.load(text).bind(model_config, source, target)
    return lambda tensors: {name: value for name, value, _ in bound.values(lambda n: tensors[n])}


def _example(spec: TensorSpec, ordinal: int) -> Any:
    values = np.random.default_rng([29, ordinal]).standard_normal(spec.shape)
    return values.astype(as_dtype(spec.dtype))
