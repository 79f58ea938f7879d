"""A conversion function as a mapping file: what makes each tensor is read from probes or from recorded ops, factored,
grouped, written, and checked on the checkpoint itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Mapping as Dict
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from numpy.typing import NDArray

from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.errors import MappingError
from ckptdbg.mapping.file import Mapping
from ckptdbg.mapping.tracing.checking import Check, against_function, against_programs
from ckptdbg.mapping.tracing.families import Made
from ckptdbg.mapping.tracing.joining import Places, Recipe, Unfactored
from ckptdbg.mapping.tracing.origins import CONSTANT, Convert, Origin, Origins, gathered, read_origins
from ckptdbg.mapping.tracing.recipes import recipe_of
from ckptdbg.mapping.tracing.recorded import Program, Recipes
from ckptdbg.mapping.tracing.writing import Untraced, mapping_text, numbers_of

Array = NDArray[Any]


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


@dataclass
class _Found:
    """What is known of every target."""

    name: str
    names: list[str]
    """Of the source tensors."""
    specs: dict[str, TensorSpec]
    made: dict[str, Made] = field(default_factory=dict)
    inexact: set[str] = field(default_factory=set)
    left: dict[str, str] = field(default_factory=dict)
    """Why no ops make it."""

    def note(self, target: str, recipe: Callable[[], tuple[Recipe, Sequence[str]]]) -> None:
        """One target by its recipe, with the names that its sources count."""
        try:
            found, names = recipe()
        except Unfactored as cause:
            self.left[target] = str(cause)
            return
        self.made[target] = Made(target, tuple(names[i] for i in found.sources), found.ops, found.stacks)
        if not found.exact:
            self.inexact.add(target)

    def written(self) -> Traced:
        if not self.made:
            found = "; ".join(f"{target}: {reason}" for target, reason in [*self.left.items()][:3]) or "no tensors"
            raise MappingError("nothing of the conversion could be traced", where=self.name, found=found)
        made, untraced = list(self.made.values()), [Untraced(*item) for item in self.left.items()]
        used = {s for m in made for s in m.sources}
        unused = tuple(n for n in self.names if n not in used)
        text = mapping_text(made, [*self.names, *self.specs], unused, untraced, self.name)
        inexact = tuple(target for target in self.made if target in self.inexact)
        return Traced(Mapping.loads(text, file=self.name), self.specs, tuple(untraced), inexact, unused)

    def checked(self, check: Check | None) -> Traced:
        """Written without what turns out to be made otherwise."""
        traced = self.written()
        otherwise = {} if check is None else check(traced.mapping, traced.specs, self.inexact)
        if not otherwise:
            return traced
        self.made = {target: made for target, made in self.made.items() if target not in otherwise}
        self.left |= otherwise
        return self.written()


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
    found = _Found(name, list(specs), {n: TensorSpec(o.sample.shape, o.dtype.name) for n, o in origins.targets.items()})
    for target, origin in origins.targets.items():
        found.note(target, partial(_recipe, origins, origin, numbers))
    return found.checked(None if real is None else against_function(convert, specs, config, real))


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
    numbers = numbers_of(config or {})
    found = _Found(name, list(specs), {target: program.spec for target, program in programs.items()})
    recipes = Recipes(specs, numbers)
    for target, program in programs.items():
        found.note(target, partial(recipes.of, program))
    return found.checked(None if read is None else against_programs(programs, specs, config, read))


def _recipe(origins: Origins, origin: Origin, numbers: dict[str, float]) -> tuple[Recipe, list[str]]:
    if origin.opaque:
        raise Unfactored(origin.opaque)
    if not (origin.ordinal >= 0).any():
        raise Unfactored(CONSTANT)
    before = gathered(origins, origin)
    places = Places.dense(origin.ordinal, origin.index, origin.scale, origin.shift, before, origin.sample)
    return recipe_of(places, list(origins.specs.values()), numbers), list(origins.specs)
