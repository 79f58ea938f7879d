"""What people judge conversions by today, each as an opinion on one comparison: an alarm or none, and where.

Every judge is given more than it takes in practice: the layers and modules of both models are laid beside each other
for it, and the largest KL is taken over all tokens of the probe.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.compare.logits import compare_logits, decoder, greedy
from ckptdbg.models.records import Plant, Side, Trace
from ckptdbg.samples.fault import Planted
from ckptdbg.session import Session

Array = NDArray[Any]
# torchtitan, scripts/checkpoint_conversion/README.md: its conversion of Llama 3 without the permutation of q and k. The
# good one is -1.5e-13.
TITAN_BROKEN, TITAN_VOCABULARY = 5.368335223465692e-06, 128256
PROMPTS, PROMPT, STEPS, DECODED = 100, 8, 16, 4
# MaxText, tests/end_to_end: --max_kl_div of its forward_pass_logit_checker.
MAXTEXT = (0.015, 0.1)
COSINE = 0.98
# torch.allclose without arguments.
RTOL, ATOL = 1e-5, 1e-8
JUDGES = (
    "torchtitan KL as printed",
    "torchtitan KL at a vocabulary of 128256",
    *(f"MaxText KL at most {limit}" for limit in MAXTEXT),
    f"greedy decode of {STEPS} tokens",
    f"cosine of layers below {COSINE}",
    "allclose of layers",
    "allclose of modules in order",
)


@dataclass(frozen=True)
class Opinion:
    """What one judge says. ``alarm`` is None where it cannot be applied."""

    judge: str
    alarm: bool | None = None
    value: float | None = None
    layer: str | None = None
    """The layer that is blamed."""
    entry: str | None = None
    """The module that is blamed, by the mapping entry that makes it."""

    def row(self, planted: Sequence[Planted] = ()) -> dict[str, Any]:
        """As JSON; ``right``: it blames a planted place."""
        right = bool(self.alarm) and any(self.places(p) for p in planted)
        return {"alarm": self.alarm, "value": self.value, "layer": self.layer, "entry": self.entry, "right": right}

    def places(self, planted: Planted) -> bool:
        """Whether the first layer of the fault is blamed, and its entry where this judge tells modules apart."""
        fault = planted.fault
        first = str(planted.layers[0]) if planted.layers else "0"
        if self.entry is not None:
            wanted = fault.entries or fault.region
            named = self.entry.partition("@")[0] in wanted if fault.entries else self.entry.startswith(wanted)
            return named and self.layer in (None, first)
        outside = ("embedding", "positions", "head", "final_norm")
        layered = not all(name.startswith(outside) for name in fault.entries or fault.region)
        return layered and self.layer == first


class Judges:
    """The judges of one source. Its own logits and decoded tokens are computed once."""

    def __init__(self, source: Side, vocabulary: int, seed: int = 0, *, causal: bool = True) -> None:
        rng = np.random.default_rng(seed)
        self.causal = causal
        self.prompts = rng.integers(0, vocabulary, (PROMPTS, PROMPT))
        self.begun = self.prompts[:DECODED]
        if causal:
            self._logits, self._decoded = self._last(source), self._continued(source)

    @classmethod
    def of(cls, session: Session, seed: int = 0) -> Judges:
        """The judges of a session's source. They decode where the model gives logits for the tokens it reads, and only
        what came before."""
        config, output = session.model_config, session.source_side.runs.free.working.output
        vocabulary = int(config["vocab_size"])
        return cls(session.source.side, vocabulary, seed, causal=output.shape[-1] == vocabulary)

    def opinions(self, session: Session) -> Iterator[Opinion]:
        """One per judge, in the order of ``JUDGES``, on a session that was compared."""
        yield from self._kl(session)
        yield self._greedy(session.target.side)
        yield from _by_layer(session)
        yield _by_module(session)

    def _kl(self, session: Session) -> Iterator[Opinion]:
        if not self.causal:
            yield from (Opinion(judge) for judge in JUDGES[:4])
            return
        logits = self._last(session.target.side)
        printed = compare_logits(self._logits, logits).kl_torchtitan or 0.0
        for judge, share in zip(JUDGES, (1.0, logits.shape[-1] / TITAN_VOCABULARY), strict=False):
            yield Opinion(judge, bool(printed * share >= TITAN_BROKEN), printed * share)
        trace, source = (r.free.working for r in (session.comparison, session.comparison.source.runs))
        whole = compare_logits(_shaped(source), _shaped(trace)).kl_max_nats or 0.0
        for judge, limit in zip(JUDGES[2:], MAXTEXT, strict=False):
            yield Opinion(judge, whole > limit, whole)

    def _greedy(self, target: Side) -> Opinion:
        if not self.causal:
            return Opinion(JUDGES[4])
        same = self._next(target) == self._decoded
        return Opinion(JUDGES[4], not same.all(), float(same.mean()))

    def _last(self, side: Side) -> Array:
        """Logits of the last tokens, ``[prompts, 1, vocabulary]``."""
        return _logits(side, self.prompts)[:, -1:]

    def _continued(self, side: Side) -> Array:
        return greedy(decoder(side, {"input_ids": self.begun}, STEPS), self.begun, STEPS)

    def _next(self, target: Side) -> Array:
        """What the target adds at every step to what the source has by then, ``[prompts, steps]``: all that it would
        decode by itself, or not, from the first step on at which they part. One run in the place of one for each."""
        steps = np.arange(STEPS)
        ids = np.zeros((STEPS, DECODED, PROMPT + STEPS), np.int64)
        ids[:, :, :PROMPT] = self.begun
        ids[:, :, PROMPT:] = np.where(steps < steps[:, None, None], self._decoded, 0)
        logits = _logits(target, ids.reshape(-1, PROMPT + STEPS)).reshape(*ids.shape, -1)
        return logits[steps, :, PROMPT - 1 + steps].argmax(-1).T


def _logits(side: Side, ids: Array) -> Array:
    """``[batch, length, vocabulary]``. A run in which something may be planted goes step by step on JAX: compiled as
    one, the program would take many times as long to compile as to run, for every fault of the model's code anew."""
    return _shaped(side.run({"input_ids": ids}, plants={0: Plant()}))


def _shaped(trace: Trace) -> Array:
    return trace.output.reshape(trace.output_shape)


def _by_layer(session: Session) -> Iterator[Opinion]:
    """Outputs of corresponding layers, in order: the first that is off is blamed."""
    blocks = [b for b in session.comparison.blocks if any(c.isdigit() for c in b.name)]
    if not blocks:
        yield from (Opinion(judge) for judge in JUDGES[5:7])
        return
    numbers = ["".join(c for c in b.name.split(".")[-1].split("/")[-1] if c.isdigit()) for b in blocks]
    cosines = [_cosine(b.source, b.target) for b in blocks]
    low = [n for n, c in zip(numbers, cosines, strict=True) if c < COSINE]
    yield Opinion(JUDGES[5], bool(low), min(cosines), low[0] if low else None)
    apart = [_share_apart(b.source, b.target) for b in blocks]
    off = [n for n, share in zip(numbers, apart, strict=True) if share]
    yield Opinion(JUDGES[6], bool(off), max(apart), off[0] if off else None)


def _by_module(session: Session) -> Opinion:
    """Outputs of all modules that hold a matrix, the first with the first, the second with the second."""
    comparison = session.comparison
    ours, theirs = comparison.free.working.records, comparison.source.runs.free.working.records
    for i, (own, other) in enumerate(zip(ours, theirs, strict=False)):
        if own.output.shape != other.output.shape or _share_apart(other.output, own.output):
            label = comparison.target.labels[i]
            return Opinion(JUDGES[7], True, float(i), label.layer, label.entry.name if label.entry else "")
    return Opinion(JUDGES[7], len(ours) != len(theirs), float(len(ours)))


def _cosine(one: Array, other: Array) -> float:
    """Mean over the tokens."""
    a, b = one.astype(np.float64), other.astype(np.float64)
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return float(((a * b).sum(-1) / np.maximum(norms, np.finfo(float).tiny)).mean())


def _share_apart(one: Array, other: Array) -> float:
    """Share of the elements that ``torch.allclose`` would not let pass."""
    a, b = one.astype(np.float64), other.astype(np.float64)
    return float((np.abs(a - b) > ATOL + RTOL * np.abs(b)).mean())
