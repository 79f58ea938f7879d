"""What transformers does to tensors between disk and memory (fused experts, renamed keys, tied heads), both ways."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from ckptdbg.errors import ConfigError
from ckptdbg.models.importers.base import Given, need
from ckptdbg.models.loaders.conversion import Conversion
from ckptdbg.models.loaders.huggingface import complete, model_class_of, quiet

INSTALL = "'ckptdbg[transformers]'"


def find(asked: Mapping[str, Any], sides: Given) -> Conversion:
    """``to_memory``, as ``from_pretrained`` makes a model's state dict of a checkpoint, or ``to_disk``, as
    ``save_pretrained`` makes a checkpoint of a state dict. Raises LoaderError, ConfigError."""
    loading = need("transformers.core_model_loading", "transformers 5", INSTALL)
    model_class, config = _model(sides)
    direction = asked.get("direction") or _direction(model_class, config, sides)
    name, own = {
        "to_memory": ("convert_and_load_state_dict_in_model", _to_memory),
        "to_disk": ("revert_weight_conversion", _to_disk),
    }[direction]
    run = functools.wraps(getattr(loading, name))(functools.partial(own, model_class, config))
    return Conversion(run, f"transformers.core_model_loading:{name}", {}, "torch")


def names_of(sides: Given) -> tuple[list[str], set[str]]:
    """Every name of a tensor in memory, and which of them are second names (tied heads). Raises LoaderError."""
    model = _empty(*_model(sides))
    return list(model.state_dict()), set(model.all_tied_weights_keys)


def _model(sides: Given) -> tuple[Any, Any]:
    """The class and the config of a model."""
    transformers = need("transformers", "transformers", INSTALL)
    if not sides.config:
        hint = "put config.json beside the source's or the target's tensors"
        raise ConfigError("transformers converts by a model's config", where=sides.where, found="none", hint=hint)
    model_class = model_class_of(transformers, None, dict(sides.config), sides.base)
    return model_class, model_class.config_class.from_dict(dict(sides.config))


def _to_memory(model_class: Any, config: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    with quiet():
        model, info = model_class.from_pretrained(
            None, config=config, state_dict=tensors, dtype=_dtype(tensors), output_loading_info=True
        )
    complete(info, "the source", model_class.__name__)
    return dict(model.state_dict())


def _to_disk(model_class: Any, config: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    from transformers.core_model_loading import revert_weight_conversion

    model = _empty(model_class, config)
    tied = set(model.all_tied_weights_keys)
    model.load_state_dict({name: tensors[name] for name in model.state_dict() if name in tensors}, assign=True)
    left = {name: value for name, value in model.state_dict().items() if name not in tied}
    return revert_weight_conversion(model, left)


def _empty(model_class: Any, config: Any) -> Any:
    import torch

    with torch.device("meta"):
        return model_class(config)


def _direction(model_class: Any, config: Any, sides: Given) -> str:
    """``to_disk`` where the source has names that transformers uses in memory alone."""
    from transformers.core_model_loading import revert_weight_conversion

    model = _empty(model_class, config)
    memory = {n: v for n, v in model.state_dict().items() if n not in set(model.all_tied_weights_keys)}
    only_memory = memory.keys() - revert_weight_conversion(model, dict(memory)).keys()
    return "to_disk" if only_memory & sides.source.keys() else "to_memory"


def _dtype(tensors: Mapping[str, Any]) -> Any:
    """Of the first floating-point tensor, as transformers chooses it."""
    return next(value.dtype for value in tensors.values() if value.is_floating_point())
