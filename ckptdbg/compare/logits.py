"""How far two models' logits are apart, in the figures people know, and what decoded text gives away.

These are for people: no verdict is made from them. A KL divergence says nothing about where, and the same number is
good in one precision and bad in another.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ckptdbg.errors import HarnessError
from ckptdbg.models.records import Side
from ckptdbg.result import Greedy, Logits

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]
Run = Callable[[Ids], NDArray[np.generic]]
"""``[batch, length]`` ids to ``[batch, length, vocabulary]`` logits."""

CHUNK_ELEMENTS = 2**23
"""Elements held at once per float64 array: 64 MB, so that a vocabulary of 256k does not need gigabytes."""


def compare_logits(
    source: NDArray[np.generic], target: NDArray[np.generic], *, mask: NDArray[np.bool_] | None = None, k: int = 10
) -> Logits:
    """The figures of ``[..., length, vocabulary]`` logits, all computed in float64.

    ``kl_mean_nats`` and ``kl_max_nats`` are KL(source || target) per token. ``kl_torchtitan`` is what torchtitan's
    conversion script prints: the sum over the last token of every sequence divided by *all* elements, so it shrinks
    with the vocabulary. ``top1_agreement`` and ``topk_overlap`` are shares between 0 and 1, ``max_abs`` is in logits.
    ``mask`` ``[..., length]`` is False at padding. Raises ``HarnessError`` when the shapes differ or nothing is left.
    """
    if source.shape != target.shape or source.ndim < 2:
        raise HarnessError(
            "the two models' logits cannot be compared",
            found=f"shapes {source.shape} and {target.shape}",
            expected="one shape [..., length, vocabulary]",
            hint="select the logits with `output:`, and drop padded vocabulary rows in the loader",
        )
    keep = np.ones(source.shape[:-1], bool) if mask is None else np.asarray(mask, bool)
    if keep.shape != source.shape[:-1]:
        raise HarnessError("the mask does not fit the logits", found=keep.shape, expected=source.shape[:-1])
    if not keep.any():
        raise HarnessError("every token of the probe is padding", hint="give the probe at least one real token")
    kl, top1, overlap, worst = (np.concatenate(parts) for parts in zip(*per_token(source, target, k), strict=True))
    last = _last_tokens(keep)
    keep = keep.reshape(-1)
    return Logits(
        kl_mean_nats=float(kl[keep].mean()),
        kl_max_nats=float(kl[keep].max()),
        kl_torchtitan=float(kl[last].sum() / (len(last) * source.shape[-1])),
        top1_agreement=float(top1[keep].mean()),
        topk_overlap=float(overlap[keep].mean()),
        max_abs=float(worst[keep].max()),
    )


def log_softmax(logits: NDArray[np.generic]) -> Floats:
    """Log-probabilities over the last axis, float64."""
    x = logits.astype(np.float64)
    x -= x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def per_token(source: NDArray[np.generic], target: NDArray[np.generic], k: int) -> Iterator[tuple[Floats, ...]]:
    """For chunks of tokens, each ``[tokens]``: KL(source || target) in nats, whether the first choice agrees (0 or 1),
    the share of the ``k`` first in common, and the largest difference."""
    vocabulary = source.shape[-1]
    source, target = source.reshape(-1, vocabulary), target.reshape(-1, vocabulary)
    step = max(1, CHUNK_ELEMENTS // vocabulary)
    for start in range(0, len(source), step):
        a, b = source[start : start + step].astype(np.float64), target[start : start + step].astype(np.float64)
        log_p, log_q = log_softmax(a), log_softmax(b)
        p = np.exp(log_p)
        # 0 * log(0) is 0: a logit of -inf on both sides (a token ruled out) agrees.
        with np.errstate(invalid="ignore"):
            terms = np.where(p == 0, p * 0, p * (log_p - log_q))
            difference = np.where(a == b, 0.0, np.abs(a - b))
        ranked_a, ranked_b = ranked(a, k), ranked(b, k)
        common = (ranked_a[:, :, None] == ranked_b[:, None, :]).any(axis=-1).mean(axis=-1)
        yield (
            terms.sum(axis=-1),
            (ranked_a[:, 0] == ranked_b[:, 0]).astype(np.float64),
            common,
            difference.max(axis=-1),
        )


def ranked(logits: Floats, k: int) -> Ids:
    """The ``k`` largest, largest first; the lower id wins a tie, as arg-max does."""
    k = min(k, logits.shape[-1])
    return np.argsort(-logits, axis=-1, kind="stable")[:, :k]


def _last_tokens(keep: NDArray[np.bool_]) -> Ids:
    """Flat index of the last real token of every sequence that has one."""
    sequences = keep.reshape(-1, keep.shape[-1])
    length = sequences.shape[1]
    last = length - 1 - sequences[:, ::-1].argmax(axis=1)
    return np.flatnonzero(sequences.any(axis=1)) * length + last[sequences.any(axis=1)]


def greedy(run: Run, ids: NDArray[np.integer], steps: int, *, pad: int = 0) -> Ids:
    """``[batch, steps]`` ids that arg-max decoding adds to ``ids`` ``[batch, length]``.

    The model runs anew for every step at the one length ``length + steps``, so a compiled model compiles once. What
    is beyond the current token is ``pad``; a causal model does not see it. Raises ``HarnessError`` when ``run`` does
    not return ``[batch, length + steps, vocabulary]``.
    """
    batch, length = ids.shape
    padded = np.full((batch, length + steps), pad, np.int64)
    padded[:, :length] = ids
    for position in range(length, length + steps):
        logits = np.asarray(run(padded))
        if logits.ndim != 3 or logits.shape[:2] != padded.shape:
            raise HarnessError(
                "cannot decode", found=f"output {logits.shape}", expected=f"{padded.shape} + (vocabulary,)"
            )
        padded[:, position] = logits[:, position - 1].argmax(axis=-1)
    return padded[:, length:]


def compare_greedy(source: Run, target: Run, ids: NDArray[np.integer], steps: int, *, pad: int = 0) -> Greedy:
    """Both models' greedy continuations of ``ids``; ``first_difference`` counts new tokens from 0."""
    ours, theirs = greedy(source, ids, steps, pad=pad), greedy(target, ids, steps, pad=pad)
    apart = np.flatnonzero((ours != theirs).any(axis=0))
    return Greedy(
        source=ours.tolist(),
        target=theirs.tolist(),
        agree=not len(apart),
        first_difference=int(apart[0]) if len(apart) else None,
    )


def decoder(side: Side, inputs: Mapping[str, NDArray[np.generic]], steps: int) -> Run:
    """A model as ``greedy`` wants it. The mask and the positions of ``inputs`` are continued over the new tokens.

    Raises ``HarnessError`` for inputs that cannot be continued (another length or meaning than the tokens').
    """
    other = sorted(set(inputs) - {"input_ids", "attention_mask", "position_ids"})
    if other:
        raise HarnessError(
            "greedy decoding cannot continue this probe",
            found=f"inputs {', '.join(other)}",
            expected="input_ids, attention_mask, position_ids",
            hint="use a probe of tokens alone",
        )
    more = dict(inputs)
    if "attention_mask" in more:
        mask = np.asarray(more["attention_mask"])
        more["attention_mask"] = np.pad(mask, ((0, 0), (0, steps)), constant_values=1)
    if "position_ids" in more:
        positions = np.asarray(more["position_ids"], np.int64)
        more["position_ids"] = np.concatenate([positions, positions[:, -1:] + np.arange(1, steps + 1)], axis=1)

    def run(ids: Ids) -> NDArray[np.generic]:
        trace = side.run({**more, "input_ids": ids})
        return trace.output.reshape(trace.output_shape)

    return run


REPETITION = "repetition"
GARBAGE = "garbage"

CAUSES = {
    REPETITION: "the target repeats itself and the source does not: attention has often lost its positions; look at "
    "the layout of the query and key projections (half-split against interleaved RoPE), at rotary base and scaling, "
    "and at the mask",
    GARBAGE: "the target writes garbage and the source does not: look at the embedding and output head (rows, tying, "
    "padding, scale), at the order of layers and at norm scales (w against 1 + w)",
}
LONGEST_PHRASE = 80
"""Characters: about a sentence."""
SHORTEST_LOOP = 16
"""Characters: an ellipsis or a rule is not a loop."""
UNSPACED = frozenset({"CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "HANGUL", "THAI", "LAO", "KHMER", "MYANMAR"})
"""Writing systems that healthy text sets beside others without a space."""


def tips(source: Sequence[str], target: Sequence[str]) -> list[str]:
    """What decoded continuations suggest: one line for each symptom that the target shows and the source does not."""
    ours = {symptom for text in source for symptom in symptoms(text)}
    theirs = {symptom for text in target for symptom in symptoms(text)}
    return [CAUSES[symptom] for symptom in CAUSES if symptom in theirs - ours]


def symptoms(text: str) -> set[str]:
    """What is wrong with a text to the eye, without knowing its language.

    ``repetition``: its last half or more is one phrase, at least four times over. ``garbage``: more than a tenth of its
    characters cannot be shown, or in a fifth of its words letters of different writing systems touch.
    """
    found: set[str] = set()
    text = text.strip()
    if any(_repeats(text, period) for period in range(1, min(LONGEST_PHRASE, len(text) // 4) + 1)):
        found.add(REPETITION)
    if _unprintable(text) > 0.1 or _mixed(text.split()) >= 0.2:
        found.add(GARBAGE)
    return found


def _repeats(text: str, period: int) -> bool:
    repeated = period
    while repeated < len(text) and text[-1 - repeated] == text[-1 - repeated + period]:
        repeated += 1
    return repeated >= max(4 * period, len(text) / 2, SHORTEST_LOOP)


def _unprintable(text: str) -> float:
    """Share of replacement, control, private and unassigned characters."""
    bad = sum(c == "\ufffd" or (unicodedata.category(c) in {"Cc", "Co", "Cn", "Cs"} and not c.isspace()) for c in text)
    return bad / max(1, len(text))


def _mixed(words: Sequence[str]) -> float:
    """Share of words in which letters of different writing systems touch."""
    return sum(any(a != b for a, b in pairwise(_scripts(word))) for word in words) / max(1, len(words))


def _scripts(word: str) -> list[str]:
    """Writing system of each letter: the first word of its Unicode name."""
    names = [unicodedata.name(c, "").split(" ")[0] for c in word if c.isalpha()]
    return [name for name in names if name not in UNSPACED]
