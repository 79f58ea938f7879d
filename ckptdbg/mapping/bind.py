"""Entries meet tensors: placeholders expand, every tensor is accounted for, shapes are checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property, partial
from itertools import product

from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.errors import MappingError
from ckptdbg.mapping.bound import BoundMapping
from ckptdbg.mapping.entry import BoundEntry
from ckptdbg.mapping.expressions import Number, Scope, near, whole
from ckptdbg.mapping.ops.values import Cast
from ckptdbg.mapping.parse import Entry
from ckptdbg.mapping.stacking import StackAxis
from ckptdbg.mapping.templates import Template, pieces

Values = dict[str, Number]
LISTED = 5  # unmapped tensors named in an error; the rest is counted


@dataclass(frozen=True)
class Tensors:
    """The tensors of one side, without those the mapping ignores."""

    side: str
    all: Mapping[str, TensorSpec]
    ignored: tuple[str, ...]

    @cached_property
    def specs(self) -> dict[str, TensorSpec]:
        """Tensors that entries must account for."""
        return {n: spec for n, spec in self.all.items() if not any(fnmatchcase(n, glob) for glob in self.ignored)}

    def spec(self, name: str, entry: Entry, template: Template) -> TensorSpec:
        """``MappingError`` where an entry names a tensor that is not there."""
        if name in self.specs:
            return self.specs[name]
        ignored = name in self.all
        raise MappingError(
            f"entry {entry.name}: {self.side} tensor {name} is {'ignored' if ignored else 'missing'}",
            where=template.where,
            hint=f"take it out of ignore.{self.side}" if ignored else near(name, self.specs) or self.count,
        )

    @property
    def count(self) -> str:
        """How many there are, for a person."""
        return f"the {self.side} has {len(self.specs)} tensors, none with a name like it"


def bind(
    entries: Sequence[Entry],
    scope: Scope,
    variables: Iterable[str],
    source: Mapping[str, TensorSpec],
    target: Mapping[str, TensorSpec],
    ignore_source: tuple[str, ...],
    ignore_target: tuple[str, ...],
    file: str,
    as_made: bool = False,
) -> BoundMapping:
    """What ``Mapping.bind`` and, with ``as_made``, ``Mapping.bind_as_made`` promise."""
    sides = Tensors("source", source, ignore_source), Tensors("target", target, ignore_target)
    declared = frozenset(variables)
    bound = tuple(b for entry in entries for b in Expansion(entry, scope, declared, *sides, as_made).instances())
    if as_made:
        bound = tuple(entry.as_made() for entry in bound)
    for entry in bound:
        entry.check()
    mapping = BoundMapping(bound, file)
    _check_unique(mapping)
    _check_complete(mapping, sides[0], mapping.entries_of_source, "used")
    if not as_made:
        _check_complete(mapping, sides[1], mapping.entry_of_target, "made")
    return mapping


@dataclass(frozen=True)
class Expansion:
    """One entry on its way to its instances."""

    entry: Entry
    scope: Scope
    declared: frozenset[str]
    source: Tensors
    target: Tensors
    as_made: bool = False
    """Whether the target's tensors are still to be made, or to be counted: none need be there."""

    def instances(self) -> list[BoundEntry]:
        """In numeric order of the placeholders; ``MappingError`` where the entry matches nothing."""
        return [make() for make in self.each()]

    def each(self) -> list[Callable[[], BoundEntry]]:
        """Makes one instance each, so that an error in one does not hide the others; ``MappingError`` as above."""
        self._check_names()
        sides = {stack.over: self._side(stack.over, stack.where) for stack in self.entry.stacks}
        groups: dict[tuple[Number, ...], list[Values]] = {}
        kept = [name for name in self.placeholders if name not in sides]
        for values in self._values():
            groups.setdefault(tuple(values[name] for name in kept), []).append(values)
        if self.as_made:  # what only the target has more of is for the caller to count
            groups = {key: group for key, group in groups.items() if self._has_sources(group)} or groups
        return [
            partial(self._instance, dict(zip(kept, key, strict=True)), group, sides) for key, group in groups.items()
        ]

    @cached_property
    def placeholders(self) -> list[str]:
        """Names in braces that are no declared variables: those of ``for`` first, then by appearance."""
        used = [*self._open(self.entry.sources), *self._open(self.entry.targets)]
        return list(dict.fromkeys([*(r.name for r in self.entry.ranges), *used]))

    @cached_property
    def names_only(self) -> Scope:
        """What a template can refer to besides placeholders: declared variables, not the whole config."""
        return Scope(self.scope.values)

    def _open(self, templates: Sequence[Template]) -> list[str]:
        return [name for template in templates for name in template.names if name not in self.declared]

    def _check_names(self) -> None:
        used = {*self._open(self.entry.sources), *self._open(self.entry.targets)}
        for item in (*self.entry.ranges, *self.entry.stacks):
            name = getattr(item, "name", None) or getattr(item, "over", "")
            if name not in used:
                hint = near(name, used) or None
                raise MappingError(f"entry {self.entry.name}: no name has {{{name}}}", where=item.where, hint=hint)

    def _side(self, over: str, where: str) -> str:
        in_source, in_target = over in self._open(self.entry.sources), over in self._open(self.entry.targets)
        if in_source and in_target:
            problem = (
                f"entry {self.entry.name}: {{{over}}} is in the names of both sides, so neither is stacked over it"
            )
            raise MappingError(problem, where=where, hint="leave it out of the names of the stacked side")
        return "target" if in_source else "source"

    def _values(self) -> list[Values]:
        ranges = self.entry.ranges
        found: list[Values] = []
        for combination in product(*(r.values(self.scope) for r in ranges)):
            given: Values = {r.name: value for r, value in zip(ranges, combination, strict=True)}
            found += ({**given, **rest} for rest in self._rest(given))
        if not found:
            template = self.entry.sources[0] if self._open(self.entry.sources) else self.entry.targets[0]
            tensors = self.source if template is self.entry.sources[0] else self.target
            hint = near("0".join(pieces(template.text)[::2]), tensors.specs) or tensors.count
            problem = f"entry {self.entry.name} matches nothing: no {tensors.side} tensor is named {template.text}"
            raise MappingError(problem, where=template.where, hint=hint)
        return found

    def _rest(self, given: Values) -> list[Values]:
        """Values of the placeholders that ``for`` does not give, from the names present."""
        free = [name for name in self.placeholders if name not in given]
        if not free:
            return [{}]
        scope = self.names_only.with_values(given)
        sides = [(self.entry.sources, self.source), (self.entry.targets, self.target)]
        whole_sets = [_present(templates, tensors, free, scope) for templates, tensors in sides]
        if any(found is not None for found in whole_sets):
            return _ordered([values for found in whole_sets for values in found or []], free)
        halves = []
        for templates, tensors in sides:
            names = [name for name in free if name in self._open(templates)]
            found = _present(templates, tensors, names, scope)
            if found is None:
                hint = f"give the values of {', '.join(names)} with for"
                raise MappingError(
                    f"entry {self.entry.name}: names alone do not tell them", where=self.entry.where, hint=hint
                )
            halves.append(found)
        joined = [{**a, **b} for a, b in product(*halves) if all(b.get(k, v) == v for k, v in a.items())]
        return _ordered(joined, free)

    def _has_sources(self, group: list[Values]) -> bool:
        scopes = [self.names_only.with_values(values) for values in group]
        return all(template.fill(scope) in self.source.specs for scope in scopes for template in self.entry.sources)

    def _target_spec(self, name: str, template: Template, dtype: str) -> TensorSpec:
        if self.as_made and name not in self.target.specs:
            return TensorSpec((), dtype)
        return self.target.spec(name, self.entry, template)

    def _instance(self, kept: Values, group: list[Values], sides: dict[str, str]) -> BoundEntry:
        entry, scope = self.entry, self.scope.with_values(kept)
        stacks = []
        runs: dict[str, list[list[Values]]] = {"source": [], "target": []}
        for stack in entry.stacks:
            run = list(dict.fromkeys(values[stack.over] for values in group))
            runs[sides[stack.over]].append([{stack.over: value} for value in run])
            axis = whole(stack.axis.value(scope), "axis", stack.where)
            stacks.append(StackAxis(stack.over, len(run), axis, sides[stack.over]))  # type: ignore[arg-type]
        names = self.names_only.with_values(kept)
        # a stacked target gathers many sources, a stacked source spreads over many targets
        sources = [(t, names.with_values(lane)) for lane in _grid(runs["target"]) for t in entry.sources]
        targets = [(t, names.with_values(lane)) for lane in _grid(runs["source"]) for t in entry.targets]
        source_names = tuple(template.fill(values) for template, values in sources)
        target_names = tuple(template.fill(values) for template, values in targets)
        ops = tuple(op.bind(scope, len(entry.targets)) for op in entry.ops)
        source_specs = tuple(self.source.spec(n, entry, t) for n, (t, _) in zip(source_names, sources, strict=True))
        dtype = next((op.dtype for op in reversed(ops) if isinstance(op, Cast)), source_specs[0].dtype)
        return BoundEntry(
            name=entry.name,
            file=entry.file,
            line=entry.line,
            layer=_text(kept.values()),
            sources=source_names,
            targets=target_names,
            source_layers=tuple(_text(template.numbers(values)) for template, values in sources),
            target_layers=tuple(_text(template.numbers(values)) for template, values in targets),
            ops=ops,
            stacks=tuple(stacks),
            source_specs=source_specs,
            target_specs=tuple(self._target_spec(n, t, dtype) for n, (t, _) in zip(target_names, targets, strict=True)),
        )


def _present(templates: Sequence[Template], tensors: Tensors, names: list[str], scope: Scope) -> list[Values] | None:
    """Values of ``names`` for which a tensor exists; None where no template tells them all."""
    if not names:
        return [{}]
    found: list[Values] | None = None
    for template in templates:
        if set(names) <= set(template.names) and (matches := template.matches(tensors.specs, scope)) is not None:
            found = [*(found or []), *matches]
    return found


def _ordered(found: list[Values], names: list[str]) -> list[Values]:
    """Each set of values once, in numeric order (10 after 9)."""
    keys = sorted({tuple(values[name] for name in names) for values in found})
    return [dict(zip(names, key, strict=True)) for key in keys]


def _grid(runs: list[list[Values]]) -> list[Values]:
    return [{name: value for values in combination for name, value in values.items()} for combination in product(*runs)]


def _text(numbers: Iterable[Number]) -> str | None:
    return ".".join(map(str, numbers)) or None


def _check_unique(mapping: BoundMapping) -> None:
    for name, (first, *others) in mapping.producers.items():
        if others:
            other = others[0]
            instances = f" (layers {first.layer} and {other.layer})" if first.name == other.name else ""
            makers = f"by entry {first.name} ({first.where}) and by entry {other.name}{instances}"
            raise MappingError(
                f"target tensor {name} is made twice: {makers}",
                where=other.where,
                hint="put the placeholder in the target's name or stack over it" if instances else "keep one of them",
            )


def _check_complete(mapping: BoundMapping, tensors: Tensors, used: Iterable[str], verb: str) -> None:
    known = list(used)
    mapped = set(known)
    unmapped = [name for name in tensors.specs if name not in mapped]
    if unmapped:
        raise _unmapped(mapping, tensors, unmapped, known, verb)


def _unmapped(mapping: BoundMapping, tensors: Tensors, unmapped: list[str], used: list[str], verb: str) -> MappingError:
    lines = []
    for name in unmapped[:LISTED]:
        similar = near(name, used, count=1).removeprefix("did you mean ").removesuffix("?")
        users = mapping.entries_of_source.get(similar) or mapping.producers.get(similar)
        lines.append(f"  {name}" + (f" (like {similar}: entry {users[0].name}, {users[0].where})" if users else ""))
    if len(unmapped) > LISTED:
        lines.append(f"  and {len(unmapped) - LISTED} more")
    plural = "s are" if len(unmapped) > 1 else " is"
    return MappingError(
        "\n".join([f"{len(unmapped)} {tensors.side} tensor{plural} {verb} by no entry", *lines, ""]).rstrip("\n"),
        where=mapping.file or None,
        hint=f"add entries, or globs under ignore.{tensors.side}",
    )
