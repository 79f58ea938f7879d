"""MaxText's ``PARAM_MAPPING`` and ``HOOK_FNS``, or functions of the same form (its agent writes such), both ways."""

from __future__ import annotations

import functools
import importlib.util
import inspect
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ckptdbg.documents import parse_yaml, plain, read_text
from ckptdbg.errors import CkptdbgError, ConfigError, LoaderError
from ckptdbg.mapping.agent_plan import read_shapes
from ckptdbg.models.importers.base import Given, called, need
from ckptdbg.models.importers.maxtext_tables import Shape, Tables, names_in
from ckptdbg.models.loaders.conversion import Conversion
from ckptdbg.models.loaders.function import find_function

# Where its versions keep the tables, newest first.
PLACES = (
    "maxtext.checkpoint_conversion.utils",
    "MaxText.checkpoint_conversion.utils",
    "MaxText.utils.ckpt_conversion.utils",
)
INSTALL = "--no-deps maxtext, for Python 3.12: of its tables' imports, jax and numpy are all that is needed"


@dataclass(frozen=True)
class Model:
    """What is known of one model before the direction is."""

    names: Callable[..., Any]
    hooks: Callable[..., Any]
    config: Mapping[str, Any]
    """Hugging Face's, complete with defaults."""
    settings: Mapping[str, Any]
    """MaxText's own, from its YAML files."""
    hf_shapes: Mapping[Any, Any]
    """As MaxText counts them; empty where it has no table of them."""


def find(asked: Mapping[str, Any], sides: Given) -> Conversion:
    """The conversion of the model ``asked["maxtext"]``: a name that MaxText knows, or ``file.py:function`` for the
    table of names and the same under ``hooks``. Raises LoaderError, ConfigError."""
    model = _from_file(asked, sides) if ":" in asked["maxtext"] else _from_library(asked["maxtext"], sides)
    scan = bool(asked.get("scan"))
    settings = SimpleNamespace(**{**model.settings, "scan_layers": scan, **(asked.get("options") or {})})
    given = {"config": dict(model.config), "maxtext_config": settings, "scan_layers": scan}
    names = _call(model.names, given)
    direction = asked.get("direction") or _direction(names, sides)
    hooks = _call(model.hooks, {**given, "saving_to_hf": direction == "to_hf"})
    label = f"{model.names.__module__}:{model.names.__name__} ({direction})"
    tables = Tables(names, hooks, scan, getattr(settings, "param_scan_axis", 1), label)
    run = _to_hf(tables, model, sides) if direction == "to_hf" else _from_hf(tables, asked, sides)
    arrays = "jax" if direction == "to_hf" else "numpy"
    return Conversion(functools.wraps(model.names)(run), label, {}, arrays)


def key_of(name: str) -> str:
    """MaxText's key for a tensor named by its path: numbers belong to the part before, and there is one root."""
    parts: list[str] = []
    for part in name.removesuffix("/value").split("/"):
        if part.isdigit() and parts:
            parts[-1] += f"_{part}"
        elif part != "params":
            parts.append(part)
    return "-".join(["params", *parts])


def _from_library(name: str, sides: Given) -> Model:
    place = next(filter(_there, PLACES), PLACES[0])
    tables = need(f"{place}.param_mapping", "maxtext", INSTALL)
    if name not in tables.PARAM_MAPPING or name not in tables.HOOK_FNS:
        known = ", ".join(n for n in tables.PARAM_MAPPING if n in tables.HOOK_FNS)
        raise LoaderError(f"MaxText converts no model {name!r}", where=sides.where, expected=known)
    if sides.config:
        config = _complete(sides.config)
    else:
        config = need(f"{place}.hf_model_configs", "maxtext", INSTALL).HF_MODEL_CONFIGS[name].to_dict()
    hf_shape = need(f"{place}.hf_shape", "maxtext", INSTALL)
    in_table = name in getattr(hf_shape, "HF_SHAPE", {})
    shapes = called(hf_shape.HF_SHAPE[name], f"{place}.hf_shape", config) if in_table else {}
    return Model(tables.PARAM_MAPPING[name], tables.HOOK_FNS[name], config, _settings(place, name), shapes)


def _from_file(asked: Mapping[str, Any], sides: Given) -> Model:
    if "hooks" not in asked:
        raise ConfigError("a table of names without hooks", where=sides.where, hint="add hooks: file.py:function")
    names, hooks = (find_function(asked[key], sides.base) for key in ("maxtext", "hooks"))
    return Model(names, hooks, _complete(sides.config), {}, {})


def _there(place: str) -> bool:
    try:
        return importlib.util.find_spec(f"{place}.param_mapping") is not None
    except ModuleNotFoundError:
        return False


def _settings(place: str, name: str) -> dict[str, Any]:
    """MaxText's settings for a model, read from its YAML files; sizes without ``base_`` as well, as it names them."""
    folder = Path(need(place.partition(".")[0], "maxtext", INSTALL).__file__).parent / "configs"
    found: dict[str, Any] = {}
    for file in (folder / "base.yml", folder / "models" / f"{name}.yml"):
        if file.is_file():
            found.update(plain(parse_yaml(read_text(file, LoaderError), str(file), LoaderError)))
    return found | {key.removeprefix("base_"): value for key, value in found.items() if key.startswith("base_")}


def _complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """With the defaults that transformers gives what ``config.json`` leaves out."""
    with suppress(Exception):  # a model type of the user's own, or no transformers
        from transformers import AutoConfig

        rest = {key: value for key, value in config.items() if key != "model_type"}
        return AutoConfig.for_model(config["model_type"], **rest).to_dict()
    return dict(config)


def _call(function: Callable[..., Any], given: Mapping[str, Any]) -> Any:
    """Older functions take fewer arguments."""
    taken = {key: value for key, value in given.items() if key in inspect.signature(function).parameters}
    return called(function, f"{function.__module__}:{function.__name__}", **taken)


def _direction(names: Mapping[Any, Any], sides: Given) -> str:
    """Told from the source's names: whose they are."""
    own = {n: None for key in names for n in names_in(key)}
    theirs = {n: None for value in names.values() for n in names_in(value)}
    ours = {key_of(name) for name in sides.source} & own.keys()
    if ours or theirs.keys() & sides.source.keys():
        return "to_hf" if ours else "from_hf"
    raise ConfigError(
        "no tensor of the source is in MaxText's table",
        where=sides.where,
        found=", ".join(list(sides.source)[:3]),
        expected=f"{', '.join(list(theirs)[:2])} or {', '.join(list(own)[:2])}",
        hint="scan: true is for layers that are stacked",
    )


def _from_hf(tables: Tables, asked: Mapping[str, Any], sides: Given) -> Callable[[dict[str, Any]], dict[str, Any]]:
    shapes = _target_shapes(asked, sides)
    names = {key_of(name): name for name in shapes}
    by_key = {key: shapes[name] for key, name in names.items()}
    own = [key for keys in tables.names for key in names_in(keys)]
    if not by_key.keys() & set(own):
        raise ConfigError(
            "no tensor of the target is in MaxText's table",
            where=sides.where,
            found=", ".join(list(shapes)[:3]) or "no tensors",
            expected=", ".join(own[:3]),
            hint="scan: true is for layers that are stacked",
        )

    def run(tensors: dict[str, Any]) -> dict[str, Any]:
        def get(name: str) -> Any:
            if name not in tensors:
                raise LoaderError(f"MaxText wants {name}, which the source has not", where=tables.where)
            return tensors[name]

        return {names[key]: value for key, value in tables.from_hf(get, by_key).items()}

    return run


def _target_shapes(asked: Mapping[str, Any], sides: Given) -> dict[str, Shape]:
    """Hooks reshape to what the target has, so its shapes have to be known: from itself, or from a file of them."""
    if "shapes" in asked:
        return {name: spec.shape for name, spec in read_shapes(sides.base / asked["shapes"]).items()}
    try:
        return {name: spec.shape for name, spec in sides.target().items()}
    except CkptdbgError as error:
        raise ConfigError(
            f"MaxText's hooks have to know the target's shapes, and there is no target yet ({error})",
            where=sides.where,
            hint="add shapes: FILE to the mapping, JSON of names and shapes (MaxText's save_param.py writes one)",
        ) from error


def _to_hf(tables: Tables, model: Model, sides: Given) -> Callable[[dict[str, Any]], dict[str, Any]]:
    shapes = {name: shape for key, value in model.hf_shapes.items() for name, shape in _one_by_one(key, value)}
    if not shapes:
        shapes = {name: spec.shape for name, spec in sides.target().items()}
    known = {name: tuple(shape) for name, shape in shapes.items()}

    def run(tensors: dict[str, Any]) -> dict[str, Any]:
        return tables.to_hf({key_of(name): value for name, value in tensors.items()}, known)

    return run


def _one_by_one(key: Any, shape: Any) -> Iterable[tuple[str, Any]]:
    return zip(key, shape, strict=True) if isinstance(key, tuple) else [(key, shape)]
