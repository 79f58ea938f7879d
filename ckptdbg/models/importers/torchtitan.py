"""torchtitan's state dict adapters, ``from_hf`` and ``to_hf``. Written for torchtitan 0.3."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ckptdbg.errors import ConfigError, LoaderError
from ckptdbg.models.importers.base import Given, called, need
from ckptdbg.models.loaders.conversion import Conversion
from ckptdbg.models.loaders.function import find_function

# torchtitan's name of a size in a model's configuration, and Hugging Face's.
_SIZES = {"dim": "hidden_size", "vocab_size": "vocab_size", "layers": "num_hidden_layers"}


def find(asked: Mapping[str, Any], sides: Given) -> Conversion:
    """The adapter of the model ``asked["torchtitan"]``, for the sizes of a ``flavor`` of torchtitan's or of the
    configuration that a function (``model``, called with ``options``) returns."""
    name = asked["torchtitan"]
    package = f"torchtitan.models.{name}"
    known = sorted(need("torchtitan.models", "torchtitan", "torchtitan triton")._supported_models)
    if name not in known:
        raise LoaderError(f"torchtitan has no model {name!r}", where=sides.where, expected=", ".join(known))
    adapter_class = _adapter_class(need(f"{package}.state_dict_adapter", name, "torchtitan triton"))
    config = _config(package, asked, sides)
    direction = asked.get("direction") or _direction(adapter_class(config, None), sides)
    label = f"{adapter_class.__module__}:{adapter_class.__name__}.{direction}"

    @functools.wraps(getattr(adapter_class, direction))
    def convert(tensors: dict[str, Any]) -> Any:
        # A new adapter each time: it keeps what it has seen.
        return getattr(adapter_class(config, None), direction)(tensors)

    return Conversion(convert, label, {}, "torch")


def _adapter_class(module: Any) -> Any:
    own = [v for v in vars(module).values() if isinstance(v, type) and v.__module__ == module.__name__]
    (found,) = [kind for kind in own if hasattr(kind, "from_hf") and hasattr(kind, "to_hf")]
    return found


def _config(package: str, asked: Mapping[str, Any], sides: Given) -> Any:
    if "model" in asked:
        options = asked.get("options") or {}
        return called(find_function(asked["model"], sides.base), asked["model"], **options)
    registry = need(package, package, "torchtitan triton")
    flavors = next(value for name, value in vars(registry).items() if name.endswith("_configs"))
    if "flavor" in asked and asked["flavor"] not in flavors:
        raise LoaderError(
            f"{package} has no flavor {asked['flavor']!r}", where=sides.where, expected=", ".join(flavors)
        )
    made = {f: called(registry.model_registry, package, f).model for f in _asked_flavors(asked, flavors)}
    return made[asked["flavor"]] if "flavor" in asked else _fitting(package, made, sides)


def _asked_flavors(asked: Mapping[str, Any], flavors: Iterable[str]) -> Iterable[str]:
    return [asked["flavor"]] if "flavor" in asked else flavors


def _fitting(package: str, made: Mapping[str, Any], sides: Given) -> Any:
    """The one flavor that has the sizes in the checkpoint's config."""
    wanted = {theirs: sides.config.get(theirs) for theirs in _SIZES.values()}
    fitting = [flavor for flavor, config in made.items() if _sizes(config) == wanted]
    if len(fitting) == 1:
        return made[fitting[0]]
    found = ", ".join(f"{name} {size}" for name, size in wanted.items() if size is not None)
    raise ConfigError(
        f"{len(fitting) or 'no'} flavors of {package} have the checkpoint's sizes",
        where=sides.where,
        found=found or "no config.json",
        hint=f"name one (flavor: {', '.join(made)}) or a function that gives a configuration (model: file.py:function)",
    )


def _sizes(config: Any) -> dict[str, int]:
    values = {theirs: getattr(config, own) for own, theirs in _SIZES.items()}
    return {name: len(value) if isinstance(value, list) else value for name, value in values.items()}


def _direction(adapter: Any, sides: Given) -> str:
    """Told from the source's names: which side of the adapter's table holds more of them."""
    names = {re.sub(r"\d+", "{}", name) for name in sides.source}
    table = getattr(adapter, "from_hf_map", {})
    theirs, own = len(names & set(table)), len(names & set(table.values()))
    if theirs != own:
        return "from_hf" if theirs > own else "to_hf"
    raise ConfigError(
        "the names of the source's tensors do not tell the direction",
        where=sides.where,
        found=", ".join(list(sides.source)[:3]),
        hint="add direction: from_hf or direction: to_hf to the mapping",
    )
