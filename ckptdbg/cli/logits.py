"""`ckptdbg logits`: what both models predict, or one model and a file of golden logits, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ckptdbg.cli.frame import Config, guarded, progress, say
from ckptdbg.errors import CkptdbgError

if TYPE_CHECKING:
    from ckptdbg.golden.figures import GoldenFigures
    from ckptdbg.session import Session


@guarded
def logits(
    config: Config,
    greedy: Annotated[int, typer.Option(metavar="N", min=0, help="Decode N more tokens with both models.")] = 0,
    golden: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Compare one model with golden logits of MaxText's format.")
    ] = None,
    write_golden: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write one model's logits as MaxText's golden logits.")
    ] = None,
    side: Annotated[
        Literal["source", "target"], typer.Option(help="The model for --golden and --write-golden.")
    ] = "target",
    pickle: Annotated[
        bool, typer.Option("--pickle", help="Take a .pickle file: plain values and arrays; no code in it is run.")
    ] = False,
) -> None:
    """Run both models and compare their logits only; or one of them and a file of golden logits."""
    from ckptdbg.session import open_session

    if sum([bool(greedy), golden is not None, write_golden is not None]) > 1:
        raise CkptdbgError("--greedy, --golden and --write-golden are three things", expected="one of them")
    with progress() as step:
        session = open_session(config)
        session.progress = step
        if golden is not None:
            lines = _against(session, side, golden, pickle)
        elif write_golden is not None:
            lines = _written(session, side, write_golden, pickle)
        else:
            lines = _both(session, greedy)
    for line in lines:
        say(line)


def _both(session: Session, greedy: int) -> list[str]:
    import numpy as np

    from ckptdbg.compare.logits import compare_greedy, compare_logits, decoder, tips
    from ckptdbg.report.terminal import logits_lines

    sides, inputs = (session.source.side, session.target.side), session.inputs
    ids = inputs["input_ids"].astype(np.int64)
    ours, theirs = (decoder(side, inputs, 0)(ids) for side in sides)
    mask = inputs.get("attention_mask")
    figures = compare_logits(ours, theirs, mask=None if mask is None else mask != 0)
    if greedy:
        runs = [decoder(side, inputs, greedy) for side in sides]
        decoded = figures.greedy = compare_greedy(runs[0], runs[1], ids, greedy)
        # Ids as words: loops show in them, whatever the tokenizer.
        said = [[" ".join(map(str, row)) for row in rows] for rows in (decoded.source, decoded.target)]
        figures.tips = tips(said[0], said[1])
    return logits_lines(figures)


def _against(session: Session, side: str, file: Path, pickle: bool) -> list[str]:
    from ckptdbg.golden.figures import compare_golden
    from ckptdbg.golden.maxtext import read_golden
    from ckptdbg.probe import vocabulary

    goldens = read_golden(file, pickles=pickle)
    loaded = getattr(session, side)
    size = vocabulary(loaded.config or session.model_config)
    figures = list(compare_golden(loaded.side, goldens, size))
    worst = max(figures, key=lambda f: f.logits.kl_max_nats or 0.0)
    mean = sum((f.logits.kl_mean_nats or 0.0) * len(f.golden.tokens) for f in figures)
    tokens = sum(len(f.golden.tokens) for f in figures)
    last = (
        f"all {tokens} tokens: KL {mean / tokens:.3g} nats per token, worst {worst.logits.kl_max_nats or 0.0:.3g} in "
        f"{worst.golden.where}"
    )
    return [line for each in figures for line in _golden_lines(each)] + [last]


def _golden_lines(figures: GoldenFigures) -> list[str]:
    """Ours, then MaxText's, which are of the last token."""
    from ckptdbg.report.terminal import logits_lines

    golden, (theirs, ours) = figures.golden, figures.vocabulary
    short = golden.prompt if len(golden.prompt) <= 60 else f"{golden.prompt[:60]}..."
    sizes = f"vocabulary {ours}" if ours == theirs else f"the first {min(ours, theirs)} of {theirs} and {ours} logits"
    return [
        f"{golden.where}: {short!r}, {len(golden.tokens)} tokens, {sizes}",
        *(f"  {line}" for line in logits_lines(figures.logits)),
        f"  overlap_count             {figures.overlap_count}",
        f"  jaccard_similarity        {figures.jaccard_similarity:.6g}",
        f"  rank_agreement_percentage {figures.rank_agreement_percentage:.6g}",
    ]


def _written(session: Session, side: str, file: Path, pickle: bool) -> list[str]:
    from ckptdbg.golden.figures import golden_of
    from ckptdbg.golden.maxtext import check_free, write_golden

    check_free(file)  # before the model runs, not after
    prompt = session.config.probe.prompt or ""
    goldens = golden_of(getattr(session, side).side, session.inputs, prompt)
    return [f"wrote {write_golden(file, goldens, pickles=pickle)}: {len(goldens)} prompts of the {side}"]
