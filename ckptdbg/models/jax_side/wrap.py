"""A flax NNX module, a pair (linen module, variables) or a ``JaxModel`` as one pure function of named arrays."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.tree_util import DictKey, FlattenedIndexKey, GetAttrKey, SequenceKey, tree_flatten_with_path

from ckptdbg.errors import LoaderError
from ckptdbg.models.jax_model import JaxModel


@dataclass(frozen=True)
class Wrapped:
    """``call(leaves, constants, inputs)`` with ``leaves`` in the order of ``names``."""

    names: tuple[str, ...]
    leaves: tuple[Any, ...]
    call: Callable[[Sequence[Any], Sequence[Any], dict[str, Any]], Any]
    accepts: Callable[[Mapping[str, Any]], dict[str, str]]
    """Which inputs the call takes: its own name for each -> the name of the input."""
    constants: tuple[Any, ...] = ()
    """What is neither parameter nor input, yet has to enter the trace as an argument."""


def wrap(model: Any, renamed: Mapping[str, str]) -> Wrapped:
    """``renamed``: the model's name of an input -> the name it is given under.

    Raises LoaderError for what is none of the three, and where two parameters would have the same name.
    """
    if isinstance(model, JaxModel):
        return _plain(model, renamed)
    try:
        import flax.linen
        from flax import nnx
    except ImportError as error:
        raise _unknown(model) from error
    if isinstance(model, nnx.Module):
        return _nnx(model, renamed)
    if isinstance(model, tuple) and len(model) == 2 and isinstance(model[0], flax.linen.Module):
        return _linen(model[0], model[1], renamed)
    raise _unknown(model)


def _unknown(model: Any) -> LoaderError:
    return LoaderError(
        "not a JAX model",
        found=type(model).__name__,
        expected="a flax NNX module, a pair (linen module, variables) or ckptdbg.JaxModel(apply, params)",
        hint="return one of these from the loader",
    )


def _plain(model: JaxModel, renamed: Mapping[str, str]) -> Wrapped:
    paths, tree = tree_flatten_with_path(model.params)
    names = [_name(path) for path, _ in paths]

    def accepts(inputs: Mapping[str, Any]) -> dict[str, str]:
        taken = {own: given for own, given in renamed.items() if given in inputs}
        return taken | {name: name for name in inputs if name not in taken.values()}

    return Wrapped(
        _unique(names),
        tuple(leaf for _, leaf in paths),
        lambda leaves, _, inputs: model.apply(jax.tree.unflatten(tree, leaves), inputs),
        accepts,
    )


def _linen(module: Any, variables: Any, renamed: Mapping[str, str]) -> Wrapped:
    paths, tree = tree_flatten_with_path(variables)
    names = [_name(path[1:] if path[0] == DictKey("params") else path) for path, _ in paths]
    return Wrapped(
        _unique(names),
        tuple(leaf for _, leaf in paths),
        lambda leaves, _, inputs: module.apply(jax.tree.unflatten(tree, leaves), **inputs),
        _by_signature(module, renamed),
    )


def _nnx(module: Any, renamed: Mapping[str, str]) -> Wrapped:
    from flax import nnx

    # What a call counts or caches is no parameter. It must be traced all the same: transforms refuse to mix levels.
    graph, passing, state = nnx.split(module, (nnx.RngState, nnx.Cache, nnx.Intermediate), ...)
    paths, tree = tree_flatten_with_path(state)
    constants, rest = jax.tree.flatten(passing)

    def call(leaves: Sequence[Any], constants: Sequence[Any], inputs: dict[str, Any]) -> Any:
        copy = nnx.merge(graph, jax.tree.unflatten(rest, constants), jax.tree.unflatten(tree, leaves))
        copy.eval()
        return copy(**inputs)

    names = [_name(path) for path, _ in paths]
    leaves = tuple(leaf for _, leaf in paths)
    return Wrapped(_unique(names), leaves, call, _by_signature(module, renamed), tuple(constants))


def _by_signature(module: Any, renamed: Mapping[str, str]) -> Callable[[Mapping[str, Any]], dict[str, str]]:
    signature = inspect.signature(type(module).__call__)
    own = [p for p in list(signature.parameters.values())[1:] if p.kind is not p.VAR_POSITIONAL]
    named = [p.name for p in own if p.kind is not p.VAR_KEYWORD]
    anything = any(p.kind is p.VAR_KEYWORD for p in own)
    required = [p.name for p in own if p.default is p.empty and p.kind is not p.VAR_KEYWORD]

    def accepts(inputs: Mapping[str, Any]) -> dict[str, str]:
        taken = {name: given for name, given in renamed.items() if given in inputs and (anything or name in named)}
        free = [name for name in inputs if name not in taken.values()]
        taken |= {name: name for name in free if anything or name in named}
        missing = [name for name in required if name not in taken]
        if len(missing) == 1 and "input_ids" in inputs and "input_ids" not in taken.values():
            return taken | {missing[0]: "input_ids"}
        if missing:
            raise LoaderError(
                f"{type(module).__name__}.__call__ needs inputs that are not given: {', '.join(missing)}",
                found=", ".join(inputs),
                hint="say under `inputs` which of those found each one is, as `its_name: input_ids`",
            )
        return taken

    return accepts


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
    """Every leaf of a pytree under the name that a parameter there would have."""
    paths, _ = tree_flatten_with_path(tree)
    drop = len(paths) > 0 and all(path[:1] == (DictKey("params"),) for path, _ in paths)
    return list(
        zip(_unique([_name(path[1:] if drop else path) for path, _ in paths]), [v for _, v in paths], strict=True)
    )


def _name(path: tuple[Any, ...]) -> str:
    # Boxes of flax (variables, partitioned arrays) end in an attribute `value`; a key `value` of a dict is the user's.
    if len(path) > 1 and path[-1] == GetAttrKey("value"):
        path = path[:-1]
    return "/".join(_part(key) for key in path)


def _part(key: Any) -> str:
    match key:
        case DictKey(key=part) | FlattenedIndexKey(key=part):
            return str(part)
        case SequenceKey(idx=index):
            return str(index)
        case GetAttrKey(name=name):
            return name
    return str(key).strip(".[]'\"")


def _unique(names: list[str]) -> tuple[str, ...]:
    for name in names:
        if names.count(name) > 1:
            raise LoaderError("two parameters have the same name", found=name, hint="rename one of them in the model")
    return tuple(names)


def select(output: Any, wanted: str | int | None) -> Any:
    """The one array of the model's output to compare: by key or index; else ``logits``; else the first array."""
    if wanted is not None:
        try:
            if isinstance(wanted, str) and not isinstance(output, Mapping):
                return getattr(output, wanted)
            return output[wanted]
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise LoaderError("the model's output has no such part", found=wanted, expected=_parts(output)) from error
    if isinstance(output, Mapping) and "logits" in output:
        return output["logits"]
    logits = getattr(output, "logits", None)
    if logits is not None:
        return logits
    arrays = [leaf for leaf in jax.tree.leaves(output) if isinstance(leaf, jax.Array | np.ndarray)]
    if not arrays:
        raise LoaderError("the model returned no array", found=type(output).__name__)
    return arrays[0]


def _parts(output: Any) -> str:
    if isinstance(output, Mapping):
        return "one of " + ", ".join(map(str, output))
    if isinstance(output, tuple | list):
        return f"an index below {len(output)}"
    return f"an attribute of {type(output).__name__}"
