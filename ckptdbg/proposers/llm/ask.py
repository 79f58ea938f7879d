"""A mapping from a language model: asked for, bound, asked for once more with the error, never trusted."""

from __future__ import annotations

import re
from collections.abc import Mapping as Dict
from typing import Any

from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.errors import MappingError
from ckptdbg.mapping import Mapping
from ckptdbg.proposers.llm.clients import Chat, Message
from ckptdbg.proposers.llm.prompts import PAIRS, SYSTEM, THEN, WHOLE, mend, question

FILE = "<language model>"


def ask_for_mapping(
    chat: Chat,
    source: Dict[str, TensorSpec],
    target: Dict[str, TensorSpec],
    config: Dict[str, Any] | None = None,
    chained: bool = False,
) -> Mapping:
    """A mapping that binds: every tensor of both sides accounted for, every shape right.

    ``chained`` asks for the pairs first and for the file then. What does not bind is sent back once with the error.
    Raises MappingError where the second does not bind either, ConfigError where nobody answers.
    """
    config = config or {}
    asked = question(source, target, config)
    messages: list[Message] = [{"role": "system", "content": SYSTEM}]
    if chained:
        messages.append({"role": "user", "content": f"{asked}\n\n{PAIRS}"})
        messages.append({"role": "assistant", "content": chat(messages)})
        messages.append({"role": "user", "content": THEN})
    else:
        messages.append({"role": "user", "content": f"{asked}\n\n{WHOLE}"})
    answer = chat(messages)
    try:
        return _bound(answer, source, target, config)
    except MappingError as first:
        messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": mend(str(first))}]
    try:
        return _bound(chat(messages), source, target, config)
    except MappingError as second:
        raise MappingError(
            "the language model gave no mapping that can be used, twice",
            found=str(second),
            hint="`ckptdbg mapping propose` without --llm needs none",
        ) from second


def _bound(
    answer: str, source: Dict[str, TensorSpec], target: Dict[str, TensorSpec], config: Dict[str, Any]
) -> Mapping:
    mapping = Mapping.loads(_yaml_in(answer), FILE)
    made = mapping.bind(config, source, target).entry_of_target
    ignored = [name for name in target if name not in made]
    if ignored:
        hint = "a parameter that nothing makes cannot be ignored"
        raise MappingError(f"{len(ignored)} target tensors are made by no entry: {', '.join(ignored[:3])}", hint=hint)
    return mapping


def _yaml_in(answer: str) -> str:
    """The longest block between fences; all of it where there is none."""
    blocks = re.findall(r"```[a-zA-Z]*\n(.*?)```", answer, re.DOTALL)
    return max(blocks, key=len) if blocks else answer
