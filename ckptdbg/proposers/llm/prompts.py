"""What a language model is told: the format of mapping files, and both sides' names and shapes. No values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.mapping.proposal.families import families_of
from ckptdbg.mapping.tracing.trace import numbers_of

SYSTEM = """You write mapping files that say how the tensors of one model checkpoint become those of another.
A mapping file is YAML:

version: 1
variables:            # names for numbers: keys of the source's config, or arithmetic on them, or numbers
  heads: num_attention_heads
entries:
  - name: attention.query
    source: model.layers.{layer}.self_attn.q_proj.weight      # several sources: a list
    target: decoder/layers_{layer}/attention/query/kernel     # several targets: a list
    ops:
      - rearrange: "(h d) m -> m h d"                         # an einops pattern with the sizes it cannot infer
        h: heads
      - scale: head_dim ** -0.5
    stack: [{over: layer, axis: 0}]    # where the target stacks what the source numbers, or the other way round
ignore: {source: [], target: []}       # globs

Placeholders in braces run over the numbers in the names. The ops are rearrange, transpose, reshape, squeeze, expand,
concat (axis), split (axis), stack, unstack, pad, slice, take, scale, divide, add, cast. Every target tensor must be
made exactly once, and every source tensor used or put under ignore. Answer with the YAML alone."""


def question(source: Mapping[str, TensorSpec], target: Mapping[str, TensorSpec], config: Mapping[str, Any]) -> str:
    """Both sides and the sizes in the config."""
    sizes = ", ".join(f"{name} = {value}" for name, value in numbers_of(dict(config)).items()) or "unknown"
    return f"The source has\n{_listed(source)}\n\nThe target has\n{_listed(target)}\n\nThe source's config: {sizes}"


WHOLE = "Write the mapping file."
PAIRS = (
    "First list, one line each, which source tensors make which target tensor, and how their axes answer. No YAML yet."
)
THEN = "Now write the mapping file for these pairs, as YAML alone."


def mend(error: str) -> str:
    """What is said after a mapping that did not bind."""
    return f"That mapping cannot be used:\n{error}\nCorrect it and answer with the whole YAML again."


def _listed(specs: Mapping[str, TensorSpec]) -> str:
    """One line per family of tensors."""
    lines = []
    for family in families_of(specs):
        counts = ", ".join(f"{slot.name} = {_span(slot.values)}" for slot in family.slots)
        lines.append(f"- {family} {list(family.shape)}" + (f" ({counts})" if counts else ""))
    return "\n".join(lines)


def _span(values: tuple[int, ...]) -> str:
    whole = values == tuple(range(values[0], values[-1] + 1))
    return f"{values[0]} to {values[-1]}" if whole else ", ".join(map(str, values))
