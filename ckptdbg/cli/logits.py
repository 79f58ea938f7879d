"""`ckptdbg logits`: what both models predict, and nothing else."""

from __future__ import annotations

from typing import Annotated

import typer

from ckptdbg.cli.frame import Config, guarded, progress, say


@guarded
def logits(
    config: Config,
    greedy: Annotated[int, typer.Option(metavar="N", min=0, help="Decode N more tokens with both models.")] = 0,
) -> None:
    """Run both models and compare their logits only."""
    import numpy as np

    from ckptdbg.compare.logits import compare_greedy, compare_logits, decoder, tips
    from ckptdbg.report.terminal import logits_lines
    from ckptdbg.session import open_session

    with progress() as step:
        session = open_session(config)
        session.progress = step
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
    for line in logits_lines(figures):
        say(line)
