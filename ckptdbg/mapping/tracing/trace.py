"""A conversion function as a mapping file: run on probes, factored, grouped, written, and checked on random tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping as Dict
from collections.abc import Sequence
from dataclasses import dataclass
from glob import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.checkpoint.dtypes import as_dtype
from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.documents import dump_yaml, lists_in_line
from ckptdbg.errors import MappingError
from ckptdbg.mapping.file import Mapping
from ckptdbg.mapping.tracing.families import Made, entries_of
from ckptdbg.mapping.tracing.joining import Joiner, Places, Recipe, Unfactored
from ckptdbg.mapping.tracing.numerics import Values, nearly, value_ops
from ckptdbg.mapping.tracing.origins import Convert, Origin, Origins, gathered, read_origins
from ckptdbg.mapping.tracing.spread import Spread, together

Array = NDArray[Any]


@dataclass(frozen=True)
class Untraced:
    """A target tensor that no entry makes, and why."""

    target: str
    reason: str


@dataclass(frozen=True)
class Traced:
    """What a function turned out to do."""

    mapping: Mapping
    specs: dict[str, TensorSpec]
    """What the function returns."""
    untraced: tuple[Untraced, ...]
    """Target tensors that the mapping leaves out: constants, and what no op says."""
    inexact: tuple[str, ...]
    """Targets whose places are right and whose last bits may differ: their arithmetic is not one of ours."""
    unused: tuple[str, ...]
    """Source tensors that go nowhere."""


def trace(
    convert: Convert,
    specs: Dict[str, TensorSpec],
    config: Dict[str, Any] | None = None,
    name: str = "<traced>",
    real: Dict[str, Array] | None = None,
) -> Traced:
    """Run a conversion on probes and write what it does as a mapping.

    ``convert`` takes named NumPy arrays of the shapes and dtypes in ``specs`` and returns named arrays; it is run about
    ten times. ``config`` gives sizes and factors their names. ``name`` stands for the file in errors and reports. With
    ``real``, the checkpoint's own tensors, it is run on them too: what it does to them alone (a clamp, a branch on
    their values) shows only there. Raises MappingError for a function that is not deterministic.
    """
    origins = read_origins(convert, specs)
    numbers = numbers_of(config or {})
    recipes: dict[str, Recipe] = {}
    untraced: list[Untraced] = []
    for target, origin in origins.targets.items():
        try:
            recipes[target] = _recipe(origins, origin, numbers)
        except Unfactored as cause:
            untraced.append(Untraced(target, str(cause)))
    traced = _written(origins, recipes, untraced, name)
    if real is None:
        return traced
    otherwise = _otherwise(traced, convert, specs, config, real)
    if not otherwise:
        return traced
    kept = {target: recipe for target, recipe in recipes.items() if target not in otherwise}
    return _written(origins, kept, untraced + [Untraced(*item) for item in otherwise.items()], name)


def _written(origins: Origins, recipes: dict[str, Recipe], untraced: list[Untraced], name: str) -> Traced:
    names = list(origins.specs)
    if not recipes:
        raise MappingError(
            "nothing of the conversion could be traced",
            where=name,
            found="; ".join(f"{u.target}: {u.reason}" for u in untraced[:3]) or "no tensors",
        )
    made = [Made(t, tuple(names[i] for i in r.sources), r.ops, r.stacks) for t, r in recipes.items()]
    used = {s for m in made for s in m.sources}
    unused = tuple(n for n in names if n not in used)
    text = mapping_text(made, [*names, *origins.targets], unused, untraced, name)
    return Traced(
        Mapping.loads(text, file=name),
        {n: TensorSpec(o.sample.shape, o.dtype.name) for n, o in origins.targets.items()},
        tuple(untraced),
        tuple(t for t, r in recipes.items() if not r.exact),
        unused,
    )


def _otherwise(
    traced: Traced,
    convert: Convert,
    specs: Dict[str, TensorSpec],
    config: Dict[str, Any] | None,
    real: Dict[str, Array],
) -> dict[str, str]:
    """Targets that the function makes of the real tensors in another way than of probes, and how many elements."""
    wanted = convert({n: np.array(a) for n, a in real.items()})
    inexact = set(traced.inexact)
    found = {}
    for target, value, _ in traced.mapping.bind(config, specs, traced.specs).values(lambda n: np.asarray(real[n])):
        there = wanted.get(target)
        if there is None or np.shape(there) != value.shape:
            found[target] = "of the real tensors the function makes another shape, or nothing"
            continue
        a, b = value.astype(np.float64), np.asarray(there).astype(np.float64)
        wrong = int((~((np.isnan(a) & np.isnan(b)) | (a == b))).sum())
        if wrong and not (target in inexact and nearly(a, b)):
            found[target] = f"of the real tensors the function makes other values ({wrong} of {a.size} elements)"
    return found


def _recipe(origins: Origins, origin: Origin, numbers: dict[str, float]) -> Recipe:
    if origin.opaque:
        raise Unfactored(origin.opaque)
    if not (origin.ordinal >= 0).any():
        raise Unfactored("a constant: it comes from no source tensor")
    before = gathered(origins, origin)
    dense = (origin.ordinal, origin.index, origin.scale, origin.shift, before, origin.sample)
    ordinal, index, scale, shift, before, after = map(Spread.dense, dense)
    places = Places(ordinal, (index,), scale, shift, (before,), (after,))
    return recipe_of(places, list(origins.specs.values()), numbers)


def recipe_of(places: Places, specs: Sequence[TensorSpec], numbers: Dict[str, float]) -> Recipe:
    """How a tensor is made whose elements come from these places in ``specs``. Raises Unfactored."""

    def values(ordinal: int, places: Places) -> Values:
        scale, shift = places.scale.values(), places.shift.values()
        if len(scale) > 1 or len(shift) > 1:
            raise Unfactored("elements of one source that are scaled or shifted differently")
        pairs = [together(pair) for pair in zip(places.before, places.after, strict=True)]
        before, after = (np.concatenate([pair[side].reshape(-1) for pair in pairs]) for side in (0, 1))
        factor, added = float(scale[0]), float(shift[0])
        found = value_ops(before, after, factor, added, numbers, as_dtype(specs[ordinal].dtype))
        if not found.exact and not nearly(before * factor + added, after.astype(np.float64)):
            raise Unfactored("more goes into its elements than one source element each, scaled and shifted")
        return found

    return Joiner([s.shape for s in specs], sizes_of(numbers), values).recipe(places)


def numbers_of(config: Dict[str, Any]) -> dict[str, float]:
    """Sizes in a config, by dotted path: whole numbers above 1 that are no token ids."""
    found: dict[str, float] = {}

    def walk(node: Dict[str, Any], path: str) -> None:
        for key, value in node.items():
            if isinstance(value, dict):
                walk(value, f"{path}{key}.")
            elif isinstance(value, int) and value > 1 and str(key).isidentifier() and not str(key).endswith("_id"):
                found[f"{path}{key}"] = value

    walk(config, "")
    return found


def sizes_of(numbers: Dict[str, float]) -> dict[int, str]:
    """Axis sizes that have a name of their own."""
    counts = Counter(numbers.values())
    return {int(v): name.rpartition(".")[2] for name, v in numbers.items() if counts[v] == 1}


def _plain_lists(entry: dict[str, Any]) -> dict[str, Any]:
    """Numbers in brackets; names, which may be long, one on a line."""
    return {key: value if key == "source" else lists_in_line(value) for key, value in entry.items()}


def mapping_text(
    made: list[Made], names: list[str], unused: tuple[str, ...], untraced: list[Untraced], name: str
) -> str:
    """The mapping file, with what it leaves out said in comments."""
    document: dict[str, Any] = {"version": 1, "entries": [_plain_lists(e) for e in entries_of(made, names)]}
    # names are matched as globs there, and a name such as blocks[0] is none of its own
    ignore = {"source": [*map(escape, unused)], "target": [escape(u.target) for u in untraced]}
    if any(ignore.values()):
        document["ignore"] = {key: value for key, value in ignore.items() if value}
    notes = [f"# {' '.join(f'{u.target}: {u.reason}'.splitlines())}" for u in untraced]
    return "\n".join([f"# from {name}", *notes, ""]) + dump_yaml(document)
