"""A model against golden logits: our figures, and beside them those of MaxText's checker under its own names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.compare.logits import compare_logits, decoder, ranked
from ckptdbg.errors import HarnessError
from ckptdbg.golden.maxtext import Golden
from ckptdbg.models.records import Side
from ckptdbg.result import Logits

Array = NDArray[Any]
TOP = 10
"""As many tokens as MaxText's checker lists."""


@dataclass(frozen=True)
class GoldenFigures:
    """One prompt. ``logits`` is KL(golden || model) and the rest over all its tokens."""

    golden: Golden
    vocabulary: tuple[int, int]
    """Of the golden logits and of the model; compared up to the smaller, as MaxText does."""
    logits: Logits
    overlap_count: str
    """Of the ten likeliest after the last token, how many are in both lists: ``9/10``."""
    jaccard_similarity: float
    """Tokens in both lists over tokens in either."""
    rank_agreement_percentage: float
    """How many of the ten are at the same rank, in per cent."""


def compare_golden(side: Side, goldens: Iterable[Golden], vocabulary: int | None) -> Iterator[GoldenFigures]:
    """Run a model on each prompt's tokens. ``vocabulary`` is the model's, where it is known. Raises HarnessError."""
    for golden in goldens:
        beyond = np.flatnonzero((golden.tokens < 0) | (golden.tokens >= (vocabulary or np.inf)))
        if len(beyond):
            raise HarnessError(
                "a token beyond the model's vocabulary",
                where=golden.where,
                found=f"{golden.tokens[beyond[0]]} at [{beyond[0]}]",
                expected=f"0 to {(vocabulary or 0) - 1}",
                hint="take golden logits of this model's own tokenizer",
            )
        yield _figures(golden, predict(side, _inputs(golden)))


def golden_of(side: Side, inputs: Mapping[str, Array], prompt: str) -> list[Golden]:
    """The model's own logits on a probe, a prompt for each row; padding is left out."""
    logits = predict(side, inputs)
    ids = inputs["input_ids"]
    mask = np.asarray(inputs.get("attention_mask", np.ones(ids.shape))) != 0
    return [
        Golden("", prompt, np.asarray(row[real], np.int64), own[real].astype(np.float32))
        for row, real, own in zip(ids, mask, logits, strict=True)
    ]


def predict(side: Side, inputs: Mapping[str, Array]) -> Array:
    """``[batch, length, vocabulary]`` logits. Raises HarnessError where the model gives something else."""
    if "input_ids" not in inputs:
        raise HarnessError("logits need tokens to follow", found=", ".join(inputs), expected="input_ids")
    ids = np.asarray(inputs["input_ids"], np.int64)
    found = decoder(side, inputs, 0)(ids)
    if found.ndim != 3 or found.shape[:2] != ids.shape:
        expected = f"[{', '.join(map(str, ids.shape))}, vocabulary]"
        hint = "select the logits with `output:` in the config (a key or an index)"
        raise HarnessError("the model's output is not logits", found=list(found.shape), expected=expected, hint=hint)
    return found


def _inputs(golden: Golden) -> dict[str, Array]:
    ids = golden.tokens[None]
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def _figures(golden: Golden, own: Array) -> GoldenFigures:
    sizes = golden.logits.shape[-1], own.shape[-1]
    ours, theirs = own[..., : min(sizes)], golden.logits[None, :, : min(sizes)]
    first, second = (ranked(np.asarray(x[0, -1:], np.float64), TOP)[0] for x in (theirs, ours))
    common = len(np.intersect1d(first, second))
    return GoldenFigures(
        golden,
        sizes,
        compare_logits(theirs, ours, k=TOP),
        f"{common}/{len(first)}",
        common / (2 * len(first) - common),
        100 * float((first == second).mean()),
    )
