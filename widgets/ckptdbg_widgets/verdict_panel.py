"""The verdict, what it rests on, and the findings."""

from __future__ import annotations

import traitlets

from ckptdbg.report.markdown import dumps
from ckptdbg.report.names import count, number, visible
from ckptdbg.report.words import BADGE, MARK, sentence
from ckptdbg.result import Result
from ckptdbg_widgets.mapped import finding_of
from ckptdbg_widgets.modules import module, styles
from ckptdbg_widgets.panel import Panel, shared


class VerdictPanel(Panel):
    """Verdict, a sentence, a few figures, all findings and what was not compared.

    ``finding`` is the number of the finding that was chosen (from 1, as in reports), 0 for none.
    """

    kind = "verdict_panel"
    sheets = ("shared/findings", kind)
    _esm = module(kind)
    _css = styles(*sheets)
    data = shared(traitlets.Dict())
    finding = shared(traitlets.Int(0))

    def __init__(self, result: Result) -> None:
        self.result = result
        super().__init__(data=_data(result))

    def show(self, result: Result) -> None:
        """Show another result in place of this one."""
        self.result = result
        with self.hold_sync():
            self.data, self.finding = _data(result), 0

    def plain(self) -> str:
        """The report as Markdown."""
        return dumps(self.result)


def _data(result: Result) -> dict:
    coverage = result.coverage
    facts = [
        ("findings", str(len(result.findings))),
        ("sites compared", str(len(result.sites))),
        ("parameters exercised", f"{coverage.parameters_exercised} of {coverage.parameters_total}"),
    ]
    if result.first_divergence is not None:
        facts.append(("first divergence", f"{number(result.first_divergence.ratio)} × noise"))
    if result.logits is not None:
        facts.append(("KL per token", f"{number(result.logits.kl_mean_nats)} nats"))
    left = [f"{visible(n.name)} ({n.side}): {visible(n.reason)}" for n in result.not_compared]
    return {
        "verdict": {"name": result.verdict, "mark": MARK[result.verdict], "badge": BADGE[result.verdict]},
        "sentence": sentence(result),
        "facts": facts,
        "findings": [finding_of(finding, result) for finding in result.findings],
        "left": left,
        "left_title": f"{count(len(left), 'thing')} not compared" if left else "",
        "unexercised": [visible(name) for name in coverage.unexercised],
        "measured": _measured(result),
    }


def _measured(result: Result) -> list[str]:
    """How the numbers came about, a line each."""
    noise = result.noise
    lines = [
        f"noise: {noise.method}",
        f"suspect from {number(noise.suspect)}, divergent from {number(noise.divergent)}",
    ]
    lines += [f"another estimate of noise: {', '.join(noise.fallback_sites)}"] if noise.fallback_sites else []
    for title, values in (("probe", result.probe), ("environment", result.environment)):
        if values:
            lines.append(
                f"{title}: {', '.join(f'{key} {value}' for key, value in values.items() if value is not None)}"
            )
    seconds = (f"{name} {number(value)} s" for name, value in result.timings.items())
    lines += [f"time: {', '.join(seconds)}"] if result.timings else []
    return [visible(line) for line in lines]
