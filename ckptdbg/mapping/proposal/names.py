"""What the name of a tensor says, in the words of the vocabulary."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache

from ckptdbg.mapping.proposal.vocabulary import OTHER_WORD, PHRASES, ROUTERS, WEIGHTS

Concepts = frozenset[str]
_PART = re.compile(r"[./\-\s]+")
_WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+")
_LONGEST = max(len(phrase.split()) for phrase in PHRASES)


def words(text: str) -> list[str]:
    """The words of one part of a name, in lower case; numbers are words of their own (``fc1`` is ``fc``, ``1``)."""
    return [word.lower() for word in _WORD.findall(text)]


def parts(name: str) -> list[list[str]]:
    """A name as parts, each a list of words."""
    return [found for part in _PART.split(name) if (found := words(part))]


@cache
def concepts(name: str, counted: bool) -> Concepts:
    """What a name says. ``counted``: whether it stands in a layer, where ``output`` is not the head. A word that is in
    no table stands for itself, after ``word:``; a number that is part of the name after ``number:``."""
    found: set[str] = set()
    for part in parts(name):
        said = _said(part)
        if " ".join(part) in ROUTERS:
            said |= {"router"}
        found |= said
    if "out" in found and "attention" not in found and not found & {"query", "key", "value"}:
        found = found - {"out"} | ({"down"} if counted else {"head"})
    if found & {"gate", "up", "down"} and "moe" not in found:
        found.add("mlp")
    if found & {"query", "key", "value"}:
        found.add("attention")
    return frozenset(found)


def _said(part: list[str]) -> set[str]:
    found: set[str] = set()
    at = 0
    while at < len(part):
        for length in range(min(_LONGEST, len(part) - at), 0, -1):
            meaning = PHRASES.get(" ".join(part[at : at + length]))
            if meaning is not None:
                found |= set(meaning)
                break
        else:
            length = 1
            found.add(f"number:{part[at]}" if part[at].isdigit() else f"word:{part[at]}")
        at += length
    return found


def likeness(a: Iterable[str], b: Iterable[str]) -> float:
    """How much of what two names say is the same, by weight: 1 for all of it."""
    a, b = set(a), set(b)
    return _weight(a & b) / (_weight(a | b) or 1.0)


def _weight(found: set[str]) -> float:
    return sum(_weight_of(c, WEIGHTS) for c in found)


def _weight_of(concept: str, weights: Mapping[str, float]) -> float:
    if concept.startswith("place:"):
        return weights["norm"]
    return weights.get(concept, OTHER_WORD)
