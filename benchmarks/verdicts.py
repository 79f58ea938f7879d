"""What became of planted faults: found, named, explained truly, mended.

``Verdict.row`` is one line of ``out/faults.json``. Nothing here knows how a finding is made: it is held against what
the fault says of itself (``ckptdbg.samples.fault``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from planted import Conversion

from ckptdbg.cli import exit_status
from ckptdbg.mapping import BoundMapping
from ckptdbg.mapping import Mapping as TensorMapping
from ckptdbg.models.loaders import Loaded
from ckptdbg.result import Finding, Repair, Result
from ckptdbg.samples.fault import Planted
from ckptdbg.session import Session

EQUAL, EQUIVALENT, OTHER = "equal", "equivalent", "other"
# The promoted outputs of two equivalent mappings differ by roundings of float64 alone, some 1e-15.
_SAME = 1e-11
_WORDS = {
    "permuted": r"order|permut|rearrange|exchanged|swapped|changed places|shifted|rolled|reversed",
    "transposed": r"transpos",
    "rounded": r"rounded to",
    "zeros": r"zeros",
    "other values": r"elements differ",
}


@dataclass(frozen=True)
class Verdict:
    """What became of the faults planted in one conversion."""

    conversion: Conversion
    session: Session
    planted: Sequence[Planted]
    result: Result

    @property
    def exit(self) -> int:
        """The exit status of ``ckptdbg compare``."""
        return exit_status(self.result)

    def naming(self, planted: Planted, *, anywhere: bool = False) -> list[Finding]:
        """Findings that name a place of this fault, in the layers where it is planted."""
        return [f for f in self.result.findings if names(f, planted, anywhere=anywhere)]

    @property
    def detected(self) -> bool:
        """Whether the status is what the faults ask for."""
        return self.exit == int(any(p.fault.effect == "diverges" for p in self.planted))

    @property
    def missed(self) -> list[str]:
        """Faults of which no finding names a place, and entries at fault that no finding names."""
        nowhere = [p.fault.name for p in self.planted if not self.naming(p)]
        named = {e.name for p in self.planted for f in self.naming(p) for e in f.entries}
        return [
            *nowhere,
            *(e for p in self.planted for e in p.entries() if e not in named and p.fault.name not in nowhere),
        ]

    @property
    def caught(self) -> bool:
        """Detected, and every fault named where it is."""
        return self.detected and not self.missed

    @property
    def others(self) -> list[Finding]:
        """Findings that name no planted place in any layer: there should be none."""
        return [f for f in self.result.findings if not any(names(f, p, anywhere=True) for p in self.planted)]

    def called_right(self, planted: Planted) -> bool:
        """Whether kind and cause of every finding that names it are true, or true of a fault planted beside it. What
        the mapping can make up for may be called a fault of the mapping where the model's code is suspected too."""
        accepted = {pair for p in self.planted for pair in p.fault.accepted}
        defined = any(p.fault.kind == "definition" for p in self.planted)

        def true(f: Finding) -> bool:
            either = defined and bool(f.repair and f.repair.verified) and "model's code" in f.explanation
            return (f.kind, f.cause) in accepted or (either and (f.kind, f.cause) == ("layout", "mapping"))

        found = self.naming(planted)
        return bool(found) and all(true(f) for f in found)

    def stated(self, planted: Planted, *, repaired: bool = True) -> bool:
        """Whether a finding or its repair says what was done. A mapping that was mended to the right one says it by the
        repair."""
        if planted.fault.kind == "mapping" and repaired and self.mended and self.mapping_after == EQUAL:
            return True
        found = self.naming(planted)
        return bool(found) and states(planted, found, self.session.mapping)

    @property
    def mended(self) -> bool:
        """Whether everything that can be mended was, proved by runs, and the mapping that comes out is a right one."""
        able = [p for p in self.planted if p.fault.mendable]
        repaired = all(any(f.repair and f.repair.verified for f in self.naming(p)) for p in able)
        return bool(able) and repaired and self.mapping_after != OTHER

    @cached_property
    def mapping_after(self) -> str:
        """What the mapping that comes out makes, beside the healthy one: equal tensors; other tensors that give the
        same output in float64; or neither."""
        # what the mapping makes up for is in the target's code, which stays as it is; what it cannot is taken out
        kept = [p.fault.name for p in self.planted if p.fault.mended_by]
        target = (self.conversion.plant(kept) if kept else self.conversion.healthy).target
        return _against_healthy(self.conversion, self.session.diagnosis.mapping, target)

    def row(self, *, repaired: bool = True) -> dict[str, Any]:
        """As JSON. ``repaired``: whether repairs were tried."""
        findings = self.result.findings
        able = repaired and any(p.fault.mendable for p in self.planted)
        return {
            "verdict": self.result.verdict,
            "exit": self.exit,
            "detected": self.detected,
            "named": not self.missed,
            "caught": self.caught,
            "missed": self.missed,
            "called_right": all(self.called_right(p) for p in self.planted),
            "stated": all(self.stated(p, repaired=repaired) for p in self.planted),
            "mendable": able,
            "mended": able and self.mended,
            "mapping_after": self.mapping_after if able else None,
            "others": [told(f) for f in self.others],
            "findings": [told(f) for f in findings],
        }


def told(finding: Finding) -> dict[str, Any]:
    """What matters of a finding."""
    repair = finding.repair
    return {
        "kind": finding.kind,
        "cause": finding.cause,
        "effect": finding.effect,
        "entries": [e.name for e in finding.entries],
        "layers": finding.layers,
        "site": finding.site,
        "ratio": finding.ratio,
        "explanation": finding.explanation,
        "repair": "; ".join(f"{r.entry}: {r.change}" for r in _repairs(repair)) if repair else None,
        "verified": bool(repair and repair.verified),
    }


def names(finding: Finding, planted: Planted, *, anywhere: bool = False) -> bool:
    """Whether a finding names the entries of a fault (of a fault in the model's code: an entry of its region), in a
    layer where it is planted. ``anywhere``: in any layer, under the name without layers too."""
    fault, wanted = planted.fault, planted.entries()
    found = [e.name for e in finding.entries]
    if anywhere:
        wanted, found = fault.entries, [name.partition("@")[0] for name in found]
    named = any(n in wanted if wanted else n.startswith(fault.region) for n in found)
    effect = finding.effect == "diverges" or fault.effect != "diverges"
    where = {str(layer) for layer in planted.where()}
    unlayered = not finding.layers  # the head, the embedding
    return named and effect and (anywhere or not where or unlayered or bool(where & set(finding.layers)))


def states(planted: Planted, findings: Sequence[Finding], mapping: BoundMapping) -> bool:
    """Whether these findings say what was done: by its word, and with its number or partner where it has one."""
    what, text = planted.fault.difference, " ".join(t for f in findings for t in _texts(f))
    if what.how == "defined":
        return re.search(what.says, text) is not None and _says_ratio(text, what.by)
    if what.how == "elements":
        return f"{what.count} of " in text
    if what.how in ("scaled", "shifted"):
        return _says_number(text, what.how, what.by)
    if what.how == "exchanged":
        return _says_partner(planted, text, mapping)
    return bool(re.search(_WORDS[what.how], text)) and (what.dtype or "") in text


def _texts(finding: Finding) -> Iterator[str]:
    yield finding.explanation
    yield from finding.evidence
    for repair in _repairs(finding.repair):
        yield f"{repair.entry}: {repair.change}"
        yield from repair.also


def _repairs(repair: Repair | None) -> list[Repair]:
    return repair.parts() if repair else []


def _says_number(text: str, how: str, by: float | None) -> bool:
    """The factor or term that was planted, or the one that undoes it."""
    words = re.search(r"times|scale|factor" if how == "scaled" else r"plus|add|shift", text)
    if by is None or words is None:
        return words is not None
    wanted = (by, 1 / by) if how == "scaled" else (by, -by)
    return any(np.isclose(n, w, rtol=1e-4) for n in _numbers(text) for w in wanted)


def _says_ratio(text: str, by: float | None) -> bool:
    """Two values of which one is so many times the other."""
    values = [abs(n) for n in _numbers(text) if n]
    return by is None or any(np.isclose(a / b, by, rtol=2e-3) for a in values for b in values)


def _numbers(text: str) -> list[float]:
    return [float(n) for n in re.findall(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?", text)]


def _says_partner(planted: Planted, text: str, mapping: BoundMapping) -> bool:
    """Names the tensor, or both layers of a stacked one, that changed places with this one; of a fault of the mapping,
    that sources did."""
    if planted.fault.kind == "mapping":
        return bool(re.search(r"exchanged|take(s)? (the source of )?\S+|sources in the order", text))
    if not re.search(r"holds what|changed places|exchanged|swapped|in the order", text):
        return False
    where = planted.where()
    made = [e for e in mapping.entries if e.name in planted.fault.entries]
    if any(e.stacks for e in made) and planted.fault.difference.shift:
        return re.search(rf"\b{where[0]}\b.{{1,40}}\b{where[1]}\b", text) is not None
    tensors = {t for e in made for t in e.targets if e.stacks or not where or int(e.layer or 0) in where}
    return sum(tensor in text for tensor in tensors) > 1


def _against_healthy(conversion: Conversion, mapping: TensorMapping, target: Loaded) -> str:
    healthy = conversion.healthy
    bound = mapping.bind(healthy.model_config, healthy.source_specs, target.specs)
    made = {n: v for n, v, _ in bound.values(lambda n: np.asarray(healthy.read_source(n)))}
    same = made.keys() == healthy.made.keys() and all(
        np.array_equal(v, healthy.target.read(n)) for n, v in made.items()
    )
    if same and target is healthy.target:
        return EQUAL
    exact = {n: v for n, v, _ in bound.values(_double(healthy), cast=False, dtype=np.float64)}
    values = target.to_parameters(lambda n: exact[n] if n in exact else healthy.target.read(n))
    output = target.side.run(healthy.inputs, promoted=True, values=values).output
    right = conversion.promoted.output
    return EQUIVALENT if np.linalg.norm(output - right) <= _SAME * np.linalg.norm(right) else OTHER


def _double(session: Session) -> Any:
    return lambda name: np.asarray(session.read_source(name), np.float64)
