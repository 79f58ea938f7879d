"""The plan: for every family of target tensors the sources, the ops, how sure that is, and what is left to choose."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.errors import MappingError
from ckptdbg.mapping.proposal.alignment import Alignment
from ckptdbg.mapping.proposal.conventions import Conventions
from ckptdbg.mapping.proposal.families import Family, families_of
from ckptdbg.mapping.proposal.heads import HeadShapes
from ckptdbg.mapping.proposal.matching import Match, Matcher, match
from ckptdbg.mapping.proposal.names import Concepts
from ckptdbg.mapping.proposal.recipe import Recipe
from ckptdbg.mapping.proposal.shares import shared_out
from ckptdbg.mapping.proposal.sizes import Sizes
from ckptdbg.mapping.proposal.vocabulary import TABLES


@dataclass(frozen=True)
class Item:
    """One entry of the plan."""

    name: str
    sources: tuple[Family, ...]
    targets: tuple[Family, ...]
    said: Concepts
    """What the names on both sides say."""
    roles: tuple[Concepts, ...]
    """The same of every array that is joined or parted into."""
    alignment: Alignment
    recipe: Recipe
    sure: str
    likeness: float
    others: tuple[Recipe, ...] = ()
    """What the shapes allow besides, for the same stacked axes."""
    stackings: tuple[tuple[Alignment, Recipe], ...] = ()
    """Other axes that may be the stacked ones, with a recipe each."""
    rivals: tuple[Family, ...] = ()


@dataclass(frozen=True)
class Draft:
    """The plan before its choices are drawn up."""

    items: tuple[Item, ...]
    sizes: Sizes
    unexplained: tuple[Family, ...]
    """Targets that nothing makes."""
    unused: tuple[Family, ...]
    """Sources that go nowhere."""
    tied: tuple[Family, ...]
    """Heads of the source that the target has not: it uses the embedding."""
    tables: tuple[str, ...]
    """Source tensors that a model computes by itself."""


def draft(source: Mapping[str, TensorSpec], target: Mapping[str, TensorSpec], config: Mapping[str, Any]) -> Draft:
    """Pair all families and take, of what the shapes allow, what the rest of the model suggests."""
    tables = tuple(n for n in source if any(fnmatchcase(n, f"*{word}") for word in TABLES))
    theirs = families_of(target)
    ours = shared_out(families_of({n: spec for n, spec in source.items() if n not in tables}), theirs)
    if not ours or not theirs:
        raise MappingError("nothing to pair", found=f"{len(ours)} and {len(theirs)} kinds of tensors")
    matcher, matches = match(ours, theirs)
    sizes, conventions = Sizes(config), Conventions(matcher, matches)
    shapes = HeadShapes(sizes, conventions, [(m.ways[0][1], conventions.said(m)) for m in matches])
    made = [_item(matcher, m, conventions, shapes) for m in matches]
    used, explained = ({i for m in matches for i in getattr(m, side)} for side in ("sources", "targets"))
    left = [i for i in range(len(ours)) if i not in used]
    tied = [i for i in left if _is_tied(matcher, matches, i)]
    return Draft(
        tuple(_named(made)),
        sizes,
        tuple(f for i, f in enumerate(theirs) if i not in explained),
        tuple(ours[i] for i in left if i not in tied),
        tuple(ours[i] for i in tied),
        tables,
    )


def _is_tied(matcher: Matcher, matches: Sequence[Match], source: int) -> bool:
    """Whether an unused source is a head of the shape of an embedding that is used, where the target has no head."""
    said, shape = matcher.said[0][source], matcher.sources[source].shape
    embeddings = {matcher.sources[i].shape for m in matches for i in m.sources if "embedding" in matcher.said[0][i]}
    return "head" in said and shape in embeddings and not any("head" in s for s in matcher.said[1])


def _item(matcher: Matcher, found: Match, conventions: Conventions, shapes: HeadShapes) -> Item:
    sources = tuple(matcher.sources[i] for i in found.sources)
    targets = tuple(matcher.targets[i] for i in found.targets)
    ways = tuple(sorted(found.ways, key=lambda way: conventions.cost(way[0], way[1], found)))
    alignment = ways[0][0]
    several, side = (found.targets, 1) if len(targets) > 1 else (found.sources, 0)
    whole = conventions.said(found)
    said = [matcher.said[side][i] if len(several) > 1 else whole for i in several]

    def recipes(alignment: Alignment) -> list[Recipe]:
        lanes = [alignment.lanes(f.shape, f.shape)[side] for f in (targets if side else sources)]
        return [shapes.recipe(route, said, lanes) for other, route in ways if other == alignment]

    recipe, *others = recipes(alignment)
    stackings = dict.fromkeys(other for other, _ in ways if other != alignment and other.cost == alignment.cost)
    return Item(
        name="",
        sources=sources,
        targets=targets,
        said=whole,
        roles=tuple(said),
        alignment=alignment,
        recipe=recipe,
        sure=found.sure,
        likeness=found.likeness,
        others=tuple(others),
        stackings=tuple((other, recipes(other)[0]) for other in stackings),
        rivals=tuple(matcher.sources[i] for i in found.rivals),
    )


def _named(items: Sequence[Item]) -> list[Item]:
    """Every item with a name of its own, from its first target."""
    found: dict[str, Item] = {}
    for item in items:
        parts = [part.strip("_") for part in re.split(r"[./\-]", "".join(item.targets[0].pieces))]
        name = base = ".".join(part for part in parts if part and part != "params")
        while name in found:
            name = f"{base}#{len(found)}"
        found[name] = replace(item, name=name)
    return list(found.values())
