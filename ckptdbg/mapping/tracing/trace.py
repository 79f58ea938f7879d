"""A conversion function as a mapping file: what makes each tensor is read from probes or from recorded ops, factored,
grouped, written, and checked on the checkpoint itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Mapping as Dict
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from numpy.typing import NDArray

from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.errors import MappingError
from ckptdbg.mapping.file import Mapping
from ckptdbg.mapping.ops import Make
from ckptdbg.mapping.tracing.checking import Check, against_function, against_programs, run_for_one, run_recorded
from ckptdbg.mapping.tracing.dependence import sources_of
from ckptdbg.mapping.tracing.families import Made
from ckptdbg.mapping.tracing.joining import Places, Recipe, Unfactored
from ckptdbg.mapping.tracing.origins import (
    CONSTANT,
    UNSTEADY,
    Convert,
    Origin,
    Origins,
    gathered,
    read_origins,
    running,
)
from ckptdbg.mapping.tracing.programs import Recipes
from ckptdbg.mapping.tracing.recipes import recipe_of
from ckptdbg.mapping.tracing.recorded import Program
from ckptdbg.mapping.tracing.writing import Untraced, mapping_text, numbers_of

Array = NDArray[Any]


@dataclass(frozen=True)
class Traced:
    """What a function turned out to do."""

    mapping: Mapping
    specs: dict[str, TensorSpec]
    """What the function returns."""
    untraced: tuple[Untraced, ...]
    """Target tensors that no op makes: with sources they have an opaque entry, constants are left out."""
    inexact: tuple[str, ...]
    """Targets whose places are right and whose last bits may differ: their arithmetic is not one of ours."""
    unused: tuple[str, ...]
    """Source tensors that go nowhere."""


@dataclass
class _Found:
    """What is known of every target."""

    name: str
    names: list[str]
    """Of the source tensors."""
    specs: dict[str, TensorSpec]
    make: Make
    made: dict[str, Made] = field(default_factory=dict)
    inexact: set[str] = field(default_factory=set)
    left: dict[str, Untraced] = field(default_factory=dict)

    def note(self, target: str, recipe: Callable[[], tuple[Recipe, Sequence[str]]]) -> None:
        """One target by its recipe, with the names that its sources count."""
        try:
            found, names = recipe()
        except Unfactored as cause:
            self.left[target] = Untraced(target, str(cause))
            return
        self.made[target] = Made(target, tuple(names[i] for i in found.sources), found.ops, found.stacks)
        if not found.exact:
            self.inexact.add(target)

    def carried(self, sources: Callable[[Sequence[str]], Dict[str, tuple[str, ...]]]) -> None:
        """Say of every target that no op makes what it depends on; what has a shape of its own is then made by the
        function itself."""
        waiting = [target for target, left in self.left.items() if left.reason != UNSTEADY and target not in self.made]
        for target, names in sources(waiting).items():
            if names:
                self.left[target] = replace(self.left[target], sources=names)
                spec = self.specs[target]
                op = {"opaque": self.name, "shape": list(spec.shape), "dtype": spec.dtype}
                self.made[target] = Made(target, names, (op,), ())

    def written(self) -> Traced:
        """The mapping file."""
        if not self.made:
            found = "; ".join(f"{u.target}: {u.reason}" for u in [*self.left.values()][:3]) or "no tensors"
            raise MappingError("nothing of the conversion could be traced", where=self.name, found=found)
        made, untraced = list(self.made.values()), tuple(self.left.values())
        used = {s for m in made for s in m.sources}
        unused = tuple(n for n in self.names if n not in used)
        text = mapping_text(made, [*self.names, *self.specs], unused, list(untraced), self.name)
        mapping = Mapping.loads(text, file=self.name).with_functions({self.name: self.make})
        inexact = tuple(target for target in self.made if target in self.inexact)
        return Traced(mapping, self.specs, untraced, inexact, unused)

    def otherwise(self, check: Check) -> list[str]:
        """Targets that turn out to be made otherwise, now without ops."""
        traced = self.written()
        reasons = check(traced.mapping, traced.specs, self.inexact)
        for target, reason in reasons.items():
            self.left[target] = Untraced(target, reason)
            del self.made[target]
        return list(reasons)


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
    origins, numbers = read_origins(convert, specs), numbers_of(config or {})
    made = {n: TensorSpec(o.sample.shape, o.dtype.name) for n, o in origins.targets.items()}
    found = _Found(name, list(specs), made, run_for_one(convert, specs))
    for target, origin in origins.targets.items():
        found.note(target, partial(_recipe, origins, origin, numbers))
    find = partial(sources_of, running(convert), origins)
    found.carried(find)
    if real is not None:
        check = against_function(convert, specs, config, real)
        if found.made and found.otherwise(check):
            found.carried(find)
            for target in found.otherwise(check):  # what chooses between tensors counts as well
                found.carried(lambda _, target=target: {target: tuple(specs)})
    return found.written()


def trace_programs(
    programs: Dict[str, Program],
    specs: Dict[str, TensorSpec],
    config: Dict[str, Any] | None = None,
    name: str = "<traced>",
    read: Callable[[str], Array] | None = None,
) -> Traced:
    """The same of recorded ops: no tensor is made to read them, and what many targets have in common is read once.

    With ``read``, which gives a source tensor by name, every target is made by its own ops and by the mapping, one at
    a time, and the two are compared.
    """

    made = {target: program.spec for target, program in programs.items()}
    found = _Found(name, list(specs), made, run_recorded(programs))
    recipes = Recipes(specs, numbers_of(config or {}))
    for target, program in programs.items():
        found.note(target, partial(recipes.of, program))

    def find(targets: Sequence[str]) -> dict[str, tuple[str, ...]]:
        return {target: programs[target].sources for target in targets}

    if read is not None and found.made:
        found.otherwise(against_programs(programs, specs, config, read))
    found.carried(find)
    return found.written()


def _recipe(origins: Origins, origin: Origin, numbers: dict[str, float]) -> tuple[Recipe, list[str]]:
    if origin.opaque:
        raise Unfactored(origin.opaque)
    if not (origin.ordinal >= 0).any():
        raise Unfactored(CONSTANT)
    before = gathered(origins, origin)
    places = Places.dense(origin.ordinal, origin.index, origin.scale, origin.shift, before, origin.sample)
    return recipe_of(places, list(origins.specs.values()), numbers), list(origins.specs)
