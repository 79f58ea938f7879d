"""How far the two models' predictions are apart, token by token, and where their greedy texts part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import traitlets
from numpy.typing import NDArray

from ckptdbg.compare.comparison import Comparison
from ckptdbg.compare.logits import log_softmax, per_token
from ckptdbg.diagnose.summary import is_logits
from ckptdbg.report.names import number, visible
from ckptdbg.result import Greedy, Logits, Result
from ckptdbg_widgets.modules import module, styles
from ckptdbg_widgets.panel import Panel, shared

Array = NDArray[Any]
Decode = Callable[[int], str]
TOP = 8
"""Candidates shown for a token."""
TABLES = 256
"""Tokens that have a table of candidates: those with the largest divergence, where there are more."""


class LogitsPanel(Panel):
    """KL(source || target) per token, the first choices of both models, and greedy continuations.

    ``position`` is the flat index ``sequence * length + token``; it starts at the largest KL.
    """

    kind = "logits_panel"
    sheets = (kind,)
    _esm = module(kind)
    _css = styles(*sheets)
    data = shared(traitlets.Dict())
    position = shared(traitlets.Int(0))

    def __init__(
        self,
        figures: Logits | None,
        source: Array | None = None,
        target: Array | None = None,
        *,
        ids: Array | None = None,
        decode: Decode | None = None,
    ) -> None:
        """``source`` and ``target`` are logits ``[batch, length, vocabulary]``; without them the figures alone are
        shown. ``ids`` ``[batch, length]`` are the probe's tokens, ``decode`` gives the text of one id."""
        data = _data(figures, source, target, ids, decode)
        super().__init__(data=data, position=data.get("worst", 0))

    @classmethod
    def of(
        cls, comparison: Comparison, result: Result, *, ids: Array | None = None, decode: Decode | None = None
    ) -> Any:
        """The panel of a comparison; figures alone where its output is not over a vocabulary."""
        return cls(result.logits, *logits_of(comparison), ids=ids, decode=decode)

    def show(
        self, comparison: Comparison, result: Result, *, ids: Array | None = None, decode: Decode | None = None
    ) -> None:
        """Show another comparison in place of this one, from its worst token."""
        data = _data(result.logits, *logits_of(comparison), ids, decode)
        with self.hold_sync():
            self.data, self.position = data, data.get("worst", 0)

    def plain(self) -> str:
        """The figures, and where greedy decoding parts."""
        lines = [f"{name}  {value}" for name, value in self.data["figures"]]
        greedy = self.data["greedy"]
        if greedy:
            first = greedy["first"]
            lines.append("greedy decoding agrees" if first is None else f"greedy decoding parts at new token {first}")
        return "\n".join([*lines, *(f"tip: {tip}" for tip in self.data["tips"])]) or "no logits were compared"


def logits_of(comparison: Comparison) -> tuple[Array, Array] | tuple[None, None]:
    """Both models' logits ``[batch, length, vocabulary]``, source carried into the target's features; None where the
    output is not over a vocabulary."""
    if not is_logits(comparison):
        return None, None
    shape, paired = comparison.free.working.output_shape[:2], comparison.output.index >= 0
    sides = (comparison.output.source, comparison.output.target)
    source, target = (np.asarray(side)[:, paired].reshape(*shape, -1) for side in sides)
    return source, target


def _data(
    figures: Logits | None, source: Array | None, target: Array | None, ids: Array | None, decode: Decode | None
) -> dict[str, Any]:
    tokens = {} if source is None or target is None else _tokens(source, target, ids, decode)
    return _figures(figures, decode) | tokens


def _figures(figures: Logits | None, decode: Decode | None) -> dict[str, Any]:
    if figures is None:
        return {"figures": [], "tips": [], "greedy": None}
    rows = [
        ("KL(source ‖ target), mean per token", f"{number(figures.kl_mean_nats, 4)} nats"),
        ("KL, worst token", f"{number(figures.kl_max_nats, 4)} nats"),
        ("first choice agrees", _share(figures.top1_agreement)),
        ("first ten in common", _share(figures.topk_overlap)),
        ("largest difference of a logit", number(figures.max_abs, 4)),
        ("torchtitan's figure", number(figures.kl_torchtitan, 4)),
    ]
    greedy = None if figures.greedy is None else _greedy(figures.greedy, decode)
    return {"figures": rows, "tips": [visible(tip) for tip in figures.tips], "greedy": greedy}


def _greedy(greedy: Greedy, decode: Decode | None) -> dict[str, Any]:
    rows = [[[_text(i, decode) for i in row] for row in side] for side in (greedy.source, greedy.target)]
    return {"source": rows[0], "target": rows[1], "first": greedy.first_difference}


def _tokens(source: Array, target: Array, ids: Array | None, decode: Decode | None) -> dict[str, Any]:
    if source.shape != target.shape or source.ndim != 3:
        raise ValueError(f"expected logits [batch, length, vocabulary], found {source.shape} and {target.shape}")
    batch, length, vocabulary = source.shape
    kl, agree, *_ = (np.concatenate(part) for part in zip(*per_token(source, target, TOP), strict=True))
    # What is not finite is worse than any number.
    badness = np.where(np.isfinite(kl), kl, np.inf)
    shown = sorted(np.argsort(-badness, kind="stable")[:TABLES].tolist())
    flat = [part.reshape(-1, vocabulary) for part in (source, target)]
    tables = {str(i): {"source": _top(flat[0][i], decode), "target": _top(flat[1][i], decode)} for i in shown}
    text = None if ids is None else [_text(int(i), decode) for i in np.asarray(ids).reshape(-1)]
    return {
        "batch": batch,
        "length": length,
        # Rounding can leave a divergence of nothing a little below zero.
        "kl": [max(float(value), 0.0) if np.isfinite(value) else None for value in kl],
        "agree": [bool(value) for value in agree],
        "tables": tables,
        "text": text,
        "worst": int(np.argmax(badness)),
    }


def _top(logits: Array, decode: Decode | None) -> list[tuple[str, float | None]]:
    """Tokens and probabilities, the most probable first; the lower id wins a tie, as arg-max does."""
    order = np.argsort(-logits.astype(np.float64), kind="stable")[:TOP]
    with np.errstate(invalid="ignore"):
        probability = np.exp(log_softmax(logits[None])[0, order])
    return [
        (_text(int(i), decode), float(p) if np.isfinite(p) else None) for i, p in zip(order, probability, strict=True)
    ]


def _text(token: int, decode: Decode | None) -> str:
    return str(token) if decode is None else visible(decode(token))


def _share(share: float | None) -> str:
    # Not rounded up: 99.96 % is not agreement.
    return "–" if share is None else f"{int(share * 1000) / 10:g} %"
