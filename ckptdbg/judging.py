"""Two mappings, files or conversion functions, compared by what they do to source tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping as Dict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.errors import ConfigError
from ckptdbg.mapping import BoundMapping, Mapping
from ckptdbg.mapping.grids import judge_bound
from ckptdbg.mapping.judge import Judgement, judge
from ckptdbg.mapping.tracing.checking import run_for_one
from ckptdbg.mapping.tracing.memory import afford, elements
from ckptdbg.mapping.tracing.origins import Convert
from ckptdbg.obtain import runnable

# Elements of a source that is still made up on probes: about ten copies of it are in memory then.
_MOST_PROBED = 2**24


@dataclass(frozen=True)
class Judgeable:
    """What a mapping does, to be compared with another."""

    convert: Convert
    unrun: dict[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    """Targets that it leaves to functions which are not at hand: the function and the sources of each."""


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
        if all(entry.opaque is None for entry in (*first.entries, *second.entries)):
            return judge_bound(first, second)
    afford(elements(source.values()), "it takes both mappings", "mapping diff")
    pairs = zip(texts, reversed(texts), strict=True)
    one, other = (conversion_of(a, source, model_config, target, b) for a, b in pairs)
    return judge(one.convert, other.convert, source, one.unrun, other.unrun)


def is_file(text: str) -> bool:
    """Whether a mapping is named by its file, not as a function."""
    return Path(text).exists() or ":" not in text


def conversion_of(
    text: str,
    source: Dict[str, TensorSpec],
    model_config: Dict[str, Any],
    target: Dict[str, TensorSpec] | None,
    other: str = "",
) -> Judgeable:
    """What a mapping file or a conversion function (``file.py:function``, ``module:function``) does to source tensors;
    ``target`` gives the names and shapes that a mapping file is bound to. Where ``other`` is a function, the opaque
    entries of a file may run it. Raises ConfigError, MappingError, LoaderError."""
    if not is_file(text):
        return Judgeable(_function_of(text, source, model_config))
    if target is None:
        raise ConfigError("a mapping file needs the names of the target", where=text, hint="add --target CHECKPOINT")
    mapping = Mapping.load(text)
    if (
        other
        and not is_file(other)
        and any(op.fields.get("function") == other for e in mapping.entries for op in e.ops)
    ):
        mapping = mapping.with_functions({other: run_for_one(_function_of(other, source, model_config), source)})
    bound = mapping.bind(model_config, source, target)
    left = [e for e in bound.entries if e.opaque is not None and e.opaque.make is None]
    run = BoundMapping(tuple(e for e in bound.entries if e not in left), bound.file)
    return Judgeable(
        lambda tensors: {name: value for name, value, _ in run.values(lambda n: tensors[n])},
        {e.targets[0]: (e.opaque.function, e.sources) for e in left if e.opaque is not None},
    )


def _function_of(text: str, source: Dict[str, TensorSpec], model_config: Dict[str, Any]) -> Convert:
    from ckptdbg.models.loaders.conversion import load_conversion

    return runnable(load_conversion(text, Path.cwd(), options={}, config=model_config), source)
