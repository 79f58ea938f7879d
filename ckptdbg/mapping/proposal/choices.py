"""What names and shapes leave open: each choice with its alternatives, the likeliest first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ckptdbg.mapping.proposal.alignment import Alignment
from ckptdbg.mapping.proposal.conventions import PROJECTED
from ckptdbg.mapping.proposal.plan import Draft, Item
from ckptdbg.mapping.proposal.recipe import Recipe, reordered

Change = tuple[str, str, Any]
"""Item, field of it or of its recipe, value."""


@dataclass(frozen=True)
class Alternative:
    """One way to settle a choice: what it says, and what it changes in the items as drafted."""

    text: str
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True)
class Choice:
    """Something that shapes and names do not tell. The first alternative stands in the mapping."""

    name: str
    question: str
    alternatives: tuple[Alternative, ...]
    place: str
    """Choices of one place (``attention``) show together only: one alone changes nothing for the better."""
    items: tuple[str, ...] = ()
    """The entries it is about."""


def choices_of(draft: Draft) -> list[Choice]:
    """All choices of a draft."""
    found: list[Choice] = []
    for scope, items in _scopes(draft.items).items():
        said = f" ({scope})" if scope else ""
        found += _rotary(draft, items, said)
        found += _attention_scale(draft, items, said)
        found += _head_order(items, said)
    found += _norm_shift(draft.items)
    found += _embedding_scale(draft)
    found += _exchanges(draft.items)
    found += _orders(draft.items)
    found += _shapes(draft.items)
    found += _stacked(draft.items)
    found += _resized(draft.items)
    found += _tied(draft)
    return found


def changed(item: Item, changes: Sequence[tuple[str, Any]]) -> Item:
    """The item with fields of it, or of its recipe, changed."""
    for field, value in sorted(changes, key=lambda change: change[0] != "recipe"):  # the others change that recipe
        if field in Recipe.__dataclass_fields__:
            item = replace(item, recipe=replace(item.recipe, **{field: value}))
        else:
            item = replace(item, **{field: value})
    return item


def _scopes(items: Sequence[Item]) -> dict[str, list[Item]]:
    """The parts of a model that have conventions of their own."""
    found: dict[str, list[Item]] = {}
    for item in items:
        found.setdefault(next((s for s in ("vision", "audio") if s in item.said), ""), []).append(item)
    return found


def _carriers(item: Item, roles: Sequence[str] = ("query", "key")) -> tuple[int, ...]:
    """The arrays of an item that carry a query or a key."""
    return tuple(i for i, said in enumerate(item.roles) if said & set(roles) and item.recipe.heads[i] is not None)


def _rotary(draft: Draft, items: Sequence[Item], scope: str) -> Iterator[Choice]:
    """How the two halves of a head lie; where positions have an embedding of their own there is no rotation."""
    turning = [item for item in items if _carriers(item)]
    odd = any(h is not None and h.size % 2 for item in turning for h in item.recipe.heads)
    if not turning or odd or any("position" in item.said for item in items):
        return
    plain = [(item, _carriers(item)) for item in turning]
    ways = [("", plain), *((", values and outputs as well", whole) for whole in _with_values(items, plain))]
    directions = {
        "interleave": "halves in the source, neighbours in the target",
        "inverse": "neighbours in the source, halves in the target",
    }
    turned = (
        Alternative(f"{text}{more}", _turning(rotary, way)) for more, way in ways for rotary, text in directions.items()
    )
    names = tuple(dict.fromkeys(item.name for _, way in ways for item, _ in way))
    question = "do queries and keys keep the order of features within a head?"
    yield Choice(
        f"rotary order{scope}", question, (Alternative("as in the source"), *turned), f"attention{scope}", names
    )


def _turning(rotary: str, items: Sequence[tuple[Item, tuple[int, ...]]]) -> tuple[Change, ...]:
    return tuple(c for item, arrays in items for c in ((item.name, "rotary", rotary), (item.name, "turned", arrays)))


def _with_values(
    items: Sequence[Item], plain: Sequence[tuple[Item, tuple[int, ...]]]
) -> Iterator[list[tuple[Item, tuple[int, ...]]]]:
    """Where queries, keys and values are one tensor, a converter may turn all of it, and the outputs after the values:
    the same model."""
    fused = [item for item, _ in plain if len(item.roles) > 2 and len(_carriers(item, tuple(PROJECTED))) == 3]
    outputs = [item for item in items if _carriers(item, ("out",))]
    if fused and outputs:
        whole = [(item, _carriers(item, tuple(PROJECTED)) if item in fused else arrays) for item, arrays in plain]
        yield [*whole, *((item, (0,)) for item in outputs)]


def _attention_scale(draft: Draft, items: Sequence[Item], scope: str) -> Iterator[Choice]:
    """Whether the attention's scale is in the weights. A norm of the queries undoes a scale before it."""
    queries = [item for item in items if any("query" in said for said in item.roles) and _carriers(item, ("query",))]
    norms = [item for item in queries if "norm" in item.said]
    scaled = norms or queries
    if not scaled:
        return
    heads = next(h for item in scaled for h in item.recipe.heads if h is not None)
    size = draft.sizes.name("head_dim", heads.size, scaled[0].said)
    alternatives = [Alternative("not in the weights")]
    for name in dict.fromkeys([size, *draft.sizes.scales()]):
        for power, words in (("-0.5", "in the target's weights"), ("0.5", "in the source's weights")):
            factor = f"{name} ** {power}"
            changes = tuple(
                c for i in scaled for c in ((i.name, "factor", factor), (i.name, "scaled", _carriers(i, ("query",))))
            )
            alternatives.append(Alternative(f"{words}: queries times {factor}", changes))
    names = tuple(item.name for item in scaled)
    question = "is the scale of the attention folded into the queries?"
    yield Choice(f"attention scale{scope}", question, tuple(alternatives), f"attention{scope}", names)


def _norm_shift(items: Sequence[Item]) -> Iterator[Choice]:
    """Scales kept around 1 or around 0. A norm with a bias is none of those."""
    biased = {_module(item) for item in items if "bias" in item.said}
    norms = [i for i in items if "norm" in i.said and "bias" not in i.said and _module(i) not in biased]
    if not norms:
        return
    names = tuple(item.name for item in norms)
    yield Choice(
        "norm shift",
        "do both sides keep the scales of norms as they are?",
        (
            Alternative("yes"),
            Alternative("the source computes with 1 + w, the target with w", tuple((n, "shift", 1) for n in names)),
            Alternative("the source computes with w, the target with 1 + w", tuple((n, "shift", -1) for n in names)),
        ),
        "norms",
        names,
    )


def _module(item: Item) -> str:
    """What holds the target: a weight and its bias share it."""
    return str(item.targets[0]).rpartition(item.targets[0].leaf)[0]


def _embedding_scale(draft: Draft) -> Iterator[Choice]:
    tables = [
        i
        for i in draft.items
        if "embedding" in i.said and not i.said & {"position", "type", "norm", "bias", "vision", "patch"}
    ]
    tables = [i for i in tables if len(i.sources[0].shape) == 2 and i.sure != "tie" and i.sources[0].block is None]
    for item in tables:
        size = draft.sizes.name("hidden", item.sources[0].shape[-1], item.said)
        yield Choice(
            f"embedding scale of {item.name}" if len(tables) > 1 else "embedding scale",
            "is a factor of the embedding folded into the table?",
            (
                Alternative("no"),
                *(
                    Alternative(
                        f"the table is times {size} ** {power}{words}", _factor(item, f"{size} ** {power}", rounded)
                    )
                    for power, rounded, words in (
                        ("0.5", "", ""),
                        ("0.5", "bfloat16", ", the factor rounded to bfloat16"),
                        ("-0.5", "", ""),
                    )
                ),
            ),
            "embedding",
            (item.name,),
        )


def _factor(item: Item, factor: str, rounded: str) -> tuple[Change, ...]:
    return ((item.name, "factor", factor), (item.name, "scaled", (0,)), (item.name, "rounded", rounded))


def _head_order(items: Sequence[Item], scope: str) -> Iterator[Choice]:
    """Head-major against dim-major, where an axis of the source becomes two."""
    split = [item for item in items if any({"h", "d"} == set(group) for group in item.recipe.route.pattern.left)]
    if not split:
        return
    changes = tuple((item.name, "features_first", True) for item in split)
    names = tuple(item.name for item in split)
    question = "does the head come first where heads and their features share an axis?"
    alternatives = (Alternative("yes"), Alternative("no, the feature within a head comes first", changes))
    yield Choice(f"head order{scope}", question, alternatives, f"attention{scope}", names)


def _exchanges(items: Sequence[Item]) -> Iterator[Choice]:
    """Items that could have each other's sources: gate and up by convention, others where names do not tell."""
    for i, a in enumerate(items):
        for b in items[i + 1 :]:
            if not _exchangeable(a, b):
                continue
            gated = "gate" in a.said | b.said and "up" in a.said | b.said and not (a.said | b.said) & {"router"}
            doubtful = any(s in b.rivals for s in a.sources) or any(s in a.rivals for s in b.sources)
            if gated or doubtful:
                question = f"is {a.name} made of {a.sources[0]} and {b.name} of {b.sources[0]}?"
                swap = ((a.name, "sources", b.sources), (b.name, "sources", a.sources))
                alternatives = (Alternative("yes"), Alternative("no, the other way round", swap))
                yield Choice(f"{a.name} or {b.name}", question, alternatives, f"exchange {a.name}", (a.name, b.name))


def _exchangeable(a: Item, b: Item) -> bool:
    same = a.sources[0].shape == b.sources[0].shape and a.sources[0].slots == b.sources[0].slots
    return same and len(a.sources) == len(b.sources) == 1 and a.targets[0].shape == b.targets[0].shape


def _orders(items: Sequence[Item]) -> Iterator[Choice]:
    """In which order several tensors are joined, or one is parted."""
    for item in items:
        several = item.sources if len(item.sources) > 1 else item.targets
        if len(several) == 2 and len({f.shape for f in several}) == 1:
            first, second = several
            alternatives = (
                Alternative(f"{first}, then {second}"),
                Alternative(f"{second}, then {first}", ((item.name, "order", (1, 0)),)),
            )
            question = f"in which order does {item.name} hold its parts?"
            yield Choice(f"order in {item.name}", question, alternatives, f"order {item.name}", (item.name,))


def _shapes(items: Sequence[Item]) -> Iterator[Choice]:
    """What the shapes allow besides: a square matrix transposed or not, axes of equal sizes."""
    for item in items:
        if not item.others:
            continue
        text = f"how do its axes lie? The shapes allow {len(item.others) + 1} ways"
        alternatives = (
            Alternative(_way_text(item.recipe)),
            *(Alternative(_way_text(recipe), ((item.name, "recipe", recipe),)) for recipe in item.others),
        )
        place = "attention" if item.said & {*PROJECTED, "out"} else item.name
        yield Choice(f"axes of {item.name}", text, alternatives, f"axes {place}", (item.name,))


def _stacked(items: Sequence[Item]) -> Iterator[Choice]:
    """Which axis is the stacked one, where several have as many entries as there are layers."""
    for item in items:
        if item.stackings:
            alternatives = (
                Alternative(_axes_text(item.alignment)),
                *(
                    Alternative(_axes_text(other), ((item.name, "alignment", other), (item.name, "recipe", recipe)))
                    for other, recipe in item.stackings
                ),
            )
            name = f"stacked axis of {item.name}"
            yield Choice(name, "which axis runs over what is numbered?", alternatives, name, (item.name,))


def _axes_text(alignment: Alignment) -> str:
    axes = alignment.target_axes or alignment.source_axes
    return f"axis {', '.join(map(str, axes))}"


def _way_text(recipe: Recipe) -> str:
    route = recipe.route
    text = "as they are" if route.pattern.plain else f'"{route.pattern}"'
    joined = f", {route.join.kind} along axis {route.join.axis}" if route.join else ""
    return f"{text}{joined}" + (f", split along axis {route.part.axis}" if route.part else "")


def _resized(items: Sequence[Item]) -> Iterator[Choice]:
    for item in items:
        resize = item.recipe.route.resize
        if resize is not None:
            verb = "cut off" if resize.after < resize.before else "added as zeros"
            text = f"{abs(resize.after - resize.before)} rows {verb} at the end of axis {resize.axis}"
            question = f"what of axis {resize.axis} of {item.name} differs?"
            yield Choice(f"size of {item.name}", question, (Alternative(text),), "sizes", (item.name,))


def _tied(draft: Draft) -> Iterator[Choice]:
    for item in draft.items:
        if item.sure == "tie":
            text = f"{item.targets[0]} is the embedding {item.sources[0]} again"
            yield Choice("tied head", "is the head the embedding?", (Alternative(text),), "head", (item.name,))
    for family in draft.tied:
        text = f"the target has no head: {family} is taken to be the embedding and left out"
        yield Choice("tied head", "is the head the embedding?", (Alternative(text),), "head")


def settled_order(item: Item) -> tuple[Sequence[Any], Sequence[Any]]:
    """Sources and targets of an item in the order of its recipe."""
    order = item.recipe.order
    if len(item.sources) > 1:
        return reordered(item.sources, order), item.targets
    return item.sources, reordered(item.targets, order)
