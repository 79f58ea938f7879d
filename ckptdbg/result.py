"""The result of a comparison: what is written as JSON (``schema: ckptdbg.result/1``) and what Python returns."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from ckptdbg.report.entries import EntryView
    from ckptdbg.report.pictures import Pictures

Effect = Literal["diverges", "none"]
Verdict = Literal["divergent", "definition-differs", "cannot-tell", "precision-floor", "equivalent"]


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Divergence(Record):
    """The first site, in execution order of the target, where the free-running models part."""

    site: str
    port: str
    layer: str | None
    entry: str | None
    order: int
    error: float | None
    noise: float | None
    ratio: float | None


class EntryRef(Record):
    name: str
    file: str | None = None
    line: int | None = None


class Repair(Record):
    """A correction of one entry; for a wrong tensor of the checkpoint the ops stay and the tensor is made again."""

    entry: str
    change: str = ""
    """What changes, in one line."""
    ops_before: list[Any]
    ops_after: list[Any]
    verified: bool
    also: list[str] = Field(default_factory=list)
    ratio_before: float | None = None
    ratio_after: float | None = None
    together: list[Repair] = Field(default_factory=list)
    """Corrections of other entries that belong to this one: of the mapping, none mends anything alone; of tensors that
    changed places, both are made again."""

    def parts(self) -> list[Repair]:
        """Every correction by itself, this one first."""
        return [self.model_copy(update={"together": []}), *self.together]


class Definition(Record):
    """Something that the two models define differently, where that is proved."""

    name: str
    source: str | None = None
    """Its value in the source, as people read it; None where it has none (an order of operations), or where ``target``
    says both."""
    target: str | None = None


class Finding(Record):
    kind: Literal["tensor", "layout", "definition", "precision", "unknown"]
    """``unknown`` where the evidence says where but not yet which of the others."""
    cause: Literal["checkpoint", "mapping", "model", "unknown"]
    effect: Effect
    entries: list[EntryRef]
    """Under suspicion, the strongest suspect first."""
    layers: list[str]
    site: str
    ratio: float | None
    explanation: str
    """One sentence a person can act on."""
    evidence: list[str] = Field(default_factory=list)
    excluded: list[str] = Field(default_factory=list)
    definition: Definition | None = None
    """What is defined differently, where that is proved and no mapping mends it."""
    repair: Repair | None = None


class Stats(Record):
    mean: float | None
    std: float | None
    min: float | None
    max: float | None
    nonfinite: int = 0


class Isolated(Record):
    error: float | None
    noise: float | None
    ratio: float | None


class Site(Record):
    """One compared side (port ``in`` or ``out``) of an anchor, the output of a block (``block``) or of the model
    (``output``)."""

    site: str
    entry: str | None
    layer: str | None
    port: Literal["in", "out", "block", "output"]
    scope: str
    order: int
    shape: list[int]
    source: Stats
    target: Stats
    error: float | None
    """L2 norm of the difference, source carried into the target's layout."""
    noise: float | None
    ratio: float | None
    isolated: Isolated | None = None
    nonfinite: str | None = None


class NotCompared(Record):
    name: str
    side: Literal["source", "target"]
    reason: str


class Noise(Record):
    method: str
    suspect: float
    divergent: float
    fallback_sites: list[str] = Field(default_factory=list)


class Greedy(Record):
    source: list[list[int]]
    target: list[list[int]]
    agree: bool
    first_difference: int | None


class Logits(Record):
    kl_mean_nats: float | None
    kl_max_nats: float | None
    kl_torchtitan: float | None
    top1_agreement: float | None
    topk_overlap: float | None
    max_abs: float | None
    kl_mean_bounds: list[float | None] | None = None
    """Between which ``kl_mean_nats`` lies, where only the source's likeliest tokens are known."""
    kl_max_bounds: list[float | None] | None = None
    greedy: Greedy | None = None
    tips: list[str] = Field(default_factory=list)

    def figures(self) -> dict[str, float | None]:
        """Every number by its name; bounds where they are all that is known."""
        found = self.model_dump(exclude={"greedy", "tips", "kl_mean_bounds", "kl_max_bounds"})
        for name, bounds in (("kl_mean_nats", self.kl_mean_bounds), ("kl_max_nats", self.kl_max_bounds)):
            if bounds is not None:
                found |= {f"{name} >=": bounds[0], f"{name} <=": bounds[1]}
        return found


class Exercised(Record):
    """How small a change of one target tensor this probe would have shown: one that reaches the ratio of a divergence
    in working precision, by activations alone. Changes are relative to the tensor's root mean square."""

    tensor: str
    entry: str | None
    layer: str | None
    elements: int
    unseen: int
    """Elements that no compared place depends on with this probe."""
    sampled: int | None = None
    """How many elements were tried where not all of them were; None where all are known."""
    element: float | None
    """The smallest change of one element that shows, of the element that shows least among those seen."""
    worst: list[int] | None
    """Index of that element."""
    whole: float | None
    """The smallest change of all elements by one factor; None where it does not show."""


class Coverage(Record):
    parameters_exercised: int
    parameters_total: int
    unexercised: list[str] = Field(default_factory=list)
    tensors: list[Exercised] = Field(default_factory=list)
    """Only where asked for (``compare --coverage``)."""
    unseen: list[str] = Field(default_factory=list)
    """What this probe cannot see, one line each."""
    proposal: str | None = None
    """A probe that would see more."""


class Result(Record):
    """What ``compare`` returns. ``to_json``, ``to_html``, ``to_markdown`` and ``to_csv`` write it."""

    schema_: Literal["ckptdbg.result/1"] = Field(default="ckptdbg.result/1", alias="schema")
    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    verdict: Verdict
    first_divergence: Divergence | None
    findings: list[Finding]
    sites: list[Site]
    not_compared: list[NotCompared]
    noise: Noise
    logits: Logits | None
    coverage: Coverage
    probe: dict[str, Any]
    environment: dict[str, Any]
    timings: dict[str, float]
    nonfinite: str | None = None
    """Numbers outside any site that were NaN or infinite and are null."""

    # The writers are imported when asked for: they build on this module.

    def __str__(self) -> str:
        """The result as ``ckptdbg compare`` prints it."""
        from ckptdbg.report.terminal import plain

        return plain(self)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        """What a notebook shows: the verdict and the findings, which outlast the kernel."""
        from ckptdbg.report.markdown import summary

        return {"text/markdown": summary(self), "text/plain": str(self)}

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> Result:
        """Read what ``to_json`` wrote. Raises ``CkptdbgError``."""
        from ckptdbg.report.json import read

        return read(path)

    def to_json(self, path: str | os.PathLike[str]) -> Path:
        """Write ``schema: ckptdbg.result/1``; a NaN or infinite number is null, with a ``nonfinite`` note beside it."""
        from ckptdbg.report.json import write

        return write(self, path)

    def to_csv(self, path: str | os.PathLike[str]) -> Path:
        """Write one line per compared site."""
        from ckptdbg.report.table import to_csv

        return to_csv(self, path)

    def to_markdown(self, path: str | os.PathLike[str]) -> Path:
        """Write the findings and the worst sites as Markdown."""
        from ckptdbg.report.markdown import write

        return write(self, path)

    def to_html(
        self,
        path: str | os.PathLike[str],
        *,
        pictures: Pictures | None = None,
        entries: list[EntryView] | None = None,
    ) -> Path:
        """Write one self-contained page. ``pictures`` are the values at the first divergence, ``entries`` the mapping
        entries to show under the findings that name them."""
        from ckptdbg.report.html import write

        return write(self, path, pictures=pictures, entries=entries)
