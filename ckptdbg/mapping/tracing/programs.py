"""Recipes of recorded programs: a stack slice by slice, and what many programs have in common once."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Hashable, Sequence
from collections.abc import Mapping as Dict

from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.mapping.tracing.joining import Recipe, Unfactored, stack_recipes
from ckptdbg.mapping.tracing.labels import read_places
from ckptdbg.mapping.tracing.recipes import recipe_of
from ckptdbg.mapping.tracing.recorded import Program


class Recipes:
    """Finds recipes of programs; what many have in common is read once."""

    def __init__(self, specs: Dict[str, TensorSpec], numbers: Dict[str, float]) -> None:
        self._specs, self._numbers = specs, numbers
        self._known: dict[Hashable, Recipe | Unfactored] = {}
        self._first: dict[Hashable, tuple[tuple[tuple[int, int], ...], Recipe]] = {}
        """Of programs that differ in ``selected`` alone, what the first of them selects, and its recipe."""

    def of(self, program: Program) -> tuple[Recipe, tuple[str, ...]]:
        """How a program's tensor is made, and the names of the sources that the recipe counts. Raises Unfactored."""
        axis = program.stacked
        if axis is not None:
            parts = [program.slice(axis, i) for i in range(program.spec.shape[axis])]
            names = [name for part in parts for name in part.sources]
            if names and len(set(names)) == len(names):
                return self._stacked(parts, axis)
        key = program.key, program.selected
        if key not in self._known:
            self._known[key] = self._like_first(program) or self._read(program)
        known = self._known[key]
        if isinstance(known, Unfactored):
            raise known
        self._first.setdefault(program.key, (program.selected, known))
        return known, program.sources

    def _like_first(self, program: Program) -> Recipe | None:
        """The recipe of a program that does the same to another slice of its source: layer 3 of a stack for layer 2."""
        if program.key not in self._first:
            return None
        selected, recipe = self._first[program.key]
        leading = list(itertools.takewhile(lambda op: "slice" in op, recipe.ops))
        if {op["slice"]: (op["start"], op["stop"]) for op in leading} != {a: (i, i + 1) for a, i in selected}:
            return None
        index = dict(program.selected)
        ops = [{**op, "start": index[op["slice"]], "stop": index[op["slice"]] + 1} for op in leading]
        return dataclasses.replace(recipe, ops=(*ops, *recipe.ops[len(leading) :]))

    def _stacked(self, parts: Sequence[Program], axis: int) -> tuple[Recipe, tuple[str, ...]]:
        found = [self.of(part) for part in parts]
        names = tuple(names[i] for recipe, names in found for i in recipe.sources)
        starts = itertools.accumulate((len(recipe.sources) for recipe, _ in found), initial=0)
        counted = [
            dataclasses.replace(recipe, sources=tuple(range(start, start + len(recipe.sources))))
            for (recipe, _), start in zip(found, starts, strict=False)
        ]
        return stack_recipes(counted, axis), names

    def _read(self, program: Program) -> Recipe | Unfactored:
        specs = [self._specs[name] for name in program.sources]
        try:
            return recipe_of(read_places(program, specs), specs, self._numbers)
        except Unfactored as cause:
            return cause
