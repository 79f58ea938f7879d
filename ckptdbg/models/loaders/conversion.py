"""A user's conversion function as one from named NumPy arrays to named NumPy arrays.

A function is given the kind of array it is written for. Methods of torch and NumPy share names and differ in meaning
(``transpose``, ``repeat``), so it is tried on every kind there is: where more than one works and the results differ,
the user has to say which.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.errors import CkptdbgError, LoaderError
from ckptdbg.mapping.tracing.recorded import Program
from ckptdbg.models.loaders.function import find_function, line_in
from ckptdbg.models.records import Array

KINDS = ("torch", "numpy", "jax")
Convert = Callable[[dict[str, Array]], dict[str, Array]]


@dataclass(frozen=True)
class Conversion:
    """A user's function, with everything it is given besides tensors. Made by ``load_conversion``."""

    function: Callable[..., Any]
    name: str
    """As the user writes it, for errors."""
    options: dict[str, Any]
    arrays: str | None
    """The kind it is written for, where the user says it."""

    def __call__(self, example: Mapping[str, Array]) -> Convert:
        """What it does to NumPy arrays; ``example`` tells which kind of array it takes. Raises LoaderError."""
        if self.arrays is not None:
            return self.convert
        runs = {kind: _convert(self, kind) for kind in KINDS if importlib.util.find_spec(kind)}
        return runs[_kind(runs, example)]

    @property
    def convert(self) -> Convert:
        """What it does to NumPy arrays, where the kind it is written for is said."""
        assert self.arrays is not None
        return _convert(self, self.arrays)

    def record(self, specs: Mapping[str, TensorSpec]) -> Mapping[str, Program]:
        """What makes each target, of torch tensors without values: no memory is taken. Raises Unrecordable where the
        function needs values, LoaderError where it fails, MappingError where it draws random numbers."""
        from ckptdbg.models.torch_side.border import to_torch
        from ckptdbg.models.torch_side.programs import recorded

        def named(tensors: dict[str, Any]) -> Iterator[tuple[str, Any]]:
            with self.errors_named("torch"):
                for name, leaf in _leaves(self.function(tensors, **self.options), self.name):
                    yield name, leaf if _is_torch(leaf) else to_torch(_array(leaf, name, self.name))

        return recorded(named, specs)

    @contextlib.contextmanager
    def errors_named(self, kind: str) -> Iterator[None]:
        """What the function raises on arrays of this kind, as a LoaderError with its line."""
        try:
            yield
        except CkptdbgError:
            raise
        except Exception as error:
            raise LoaderError(
                f"the conversion raised {type(error).__name__} on {kind} arrays: {error}",
                where=line_in(error, _file(self.function)) or self.name,
                hint="it is called as function(state_dict, **options) with the source's names and shapes",
            ) from error


def load_conversion(
    function: str, base: Path, *, arrays: str | None = None, options: Mapping[str, Any], config: Mapping[str, Any]
) -> Conversion:
    """What ``function`` (``module:function`` or ``file.py:function``, relative to ``base``) names.

    It is called as ``function(state_dict, **options)``; where it has a parameter ``config`` it is given the source's.
    Its result is a dict, an iterable of pairs, or a pytree. ``arrays`` says the kind it takes: torch, numpy or jax.
    Raises LoaderError.
    """
    if arrays is not None and arrays not in KINDS:
        raise LoaderError("unknown kind of arrays", found=arrays, expected=", ".join(KINDS))
    found = find_function(function, base)
    options = dict(options)
    if "config" in _parameters(found):
        options.setdefault("config", dict(config))
    return Conversion(found, function, options, arrays)


def _parameters(function: Callable[..., Any]) -> Mapping[str, Any]:
    try:
        return inspect.signature(function).parameters
    except ValueError:  # some of those written in C tell none
        return {}


def _file(function: Callable[..., Any]) -> str | None:
    try:
        return inspect.getsourcefile(inspect.unwrap(function))
    except TypeError:  # a partial, or written in C
        return None


def _kind(runs: Mapping[str, Convert], example: Mapping[str, Array]) -> str:
    results: dict[str, dict[str, Array]] = {}
    errors: dict[str, LoaderError] = {}
    for kind, run in runs.items():
        try:
            results[kind] = run({name: array.copy() for name, array in example.items()})
        except LoaderError as error:
            errors[kind] = error
    if not results:
        raise next(iter(errors.values()))
    first, *others = results
    for kind in others:
        if not _same(results[first], results[kind]):
            again = runs[first]({name: array.copy() for name, array in example.items()})
            if {n: a.tobytes() for n, a in again.items()} != {n: a.tobytes() for n, a in results[first].items()}:
                return first  # not deterministic: whoever traces it says so
            raise LoaderError(
                f"the conversion runs on {first} and on {kind} arrays and does not do the same with them",
                hint=f"say which it is written for: mapping: {{trace: ..., arrays: {first}}}",
            )
    return first


def _same(a: Mapping[str, Array], b: Mapping[str, Array]) -> bool:
    """Whether two results have the same names, shapes and, up to a rounding of their own, values."""
    return a.keys() == b.keys() and all(
        a[n].shape == b[n].shape
        and np.allclose(a[n].astype(np.float64), b[n].astype(np.float64), rtol=0.02, atol=1e-6, equal_nan=True)
        for n in a
    )


def _convert(conversion: Conversion, kind: str) -> Convert:
    def convert(tensors: dict[str, Array]) -> dict[str, Array]:
        given = {key: _as(kind, value) for key, value in tensors.items()}
        with conversion.errors_named(kind):
            leaves = _leaves(conversion.function(given, **conversion.options), conversion.name)
            return {name: _array(leaf, name, conversion.name) for name, leaf in leaves}

    return convert


def _as(kind: str, array: Array) -> Any:
    if kind == "torch":
        from ckptdbg.models.torch_side.border import to_torch

        return to_torch(array)
    if kind == "jax":
        import jax.numpy as jnp

        return jnp.asarray(array)
    return array


def _leaves(result: Any, function: str) -> Iterator[tuple[str, Any]]:
    """Names and leaves of whatever a conversion returned."""
    if not isinstance(result, Mapping) and _is_pairs(result):
        result = dict(result)
    if isinstance(result, Mapping) and all(_is_array(value) for value in result.values()):
        yield from ((str(name), value) for name, value in result.items())
        return
    if not isinstance(result, Mapping | list | tuple) and not hasattr(result, "__dict__"):
        raise LoaderError("the conversion returned no tensors", where=function, found=type(result).__name__)
    from ckptdbg.models.jax_side.wrap import named_leaves

    yield from named_leaves(result)


def _is_pairs(result: Any) -> bool:
    return isinstance(result, Iterator) or (
        isinstance(result, list | tuple) and bool(result) and all(isinstance(i, tuple) and len(i) == 2 for i in result)
    )


def _is_torch(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == "torch"


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _array(value: Any, name: str, function: str) -> Array:
    if _is_torch(value):
        from ckptdbg.models.torch_side.border import to_numpy

        return to_numpy(value)
    array = np.array(value)
    if array.dtype.kind in "OSUMm":
        found = type(value).__name__
        raise LoaderError(
            f"the conversion returned no tensor for {name or 'its only leaf'}", where=function, found=found
        )
    return array
