"""Choices as they were settled for another pair of the same conventions: a small model tells of a large one."""

from __future__ import annotations

from collections.abc import Mapping as Dict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ckptdbg.checkpoint.huggingface import read_json
from ckptdbg.errors import MappingError
from ckptdbg.mapping.proposal.proposal import Proposal

SCHEMA = "ckptdbg.proposal/1"


def read_plan(path: Path) -> dict[str, str]:
    """Of a plan that ``mapping propose --json`` wrote, what each choice came to. MappingError where it is none."""
    data = read_json(path)
    choices = data.get("choices")
    if data.get("schema") != SCHEMA or not isinstance(choices, list):
        found, expected = repr(data.get("schema")), f"schema {SCHEMA}"
        raise MappingError(
            "not a plan", where=str(path), found=found, expected=expected, hint="`mapping propose --json` writes one"
        )
    return dict(_taken(choice, path) for choice in choices)


def _taken(choice: Any, path: Path) -> tuple[str, str]:
    try:
        return str(choice["name"]), str(choice["alternatives"][choice["taken"]])
    except (KeyError, IndexError, TypeError) as cause:
        raise MappingError("a choice without name, alternatives or taken", where=str(path)) from cause


def settled_like(proposal: Proposal, plan: Dict[str, str]) -> tuple[Proposal, Sequence[str]]:
    """The proposal with every choice settled as in a plan, and the names of those that the plan does not settle: it has
    no such choice, or came to something that is no alternative here."""
    taken, open_ones = list(proposal.taken), []
    for i, choice in enumerate(proposal.choices):
        texts = [alternative.text for alternative in choice.alternatives]
        wanted = plan.get(choice.name)
        if wanted in texts:
            taken[i] = texts.index(wanted)
        elif len(texts) > 1:
            open_ones.append(choice.name)
    return proposal.settled(taken), open_ones
