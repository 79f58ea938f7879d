"""Sample conversions that are run once, healthy; faults are then planted in them without running the source again.

A fault of the mapping or of the weights leaves the target's program as it is: the healthy target runs with other
tensors. Only a fault in the target's code makes another target.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from zlib import crc32

import numpy as np

from ckptdbg.checkpoint import open_checkpoint
from ckptdbg.config import load_config
from ckptdbg.mapping import Mapping
from ckptdbg.models.records import Trace
from ckptdbg.samples.build import build_sample
from ckptdbg.samples.fault import Fault, Planted, plan
from ckptdbg.samples.faults import FAULTS, list_faults
from ckptdbg.session import Session

NO_LAYER_OF_THEIR_OWN = ("layers-in-pairs-swapped", "experts-sorted-as-text")
"""Faults of a mapping that are about an order: one layer has none."""


class Conversion:
    """One pair of models. ``seed`` chooses the source's weights, the tokens and the layers of planted faults."""

    def __init__(self, pair: str, folder: Path, seed: int = 0) -> None:
        self.pair, self.folder, self.seed = pair, folder, seed
        config = load_config(build_sample(folder / "healthy", pair, seed=seed))
        probe = config.probe.model_copy(update={"seed": seed})
        self.config = config.model_copy(update={"probe": probe})
        self.healthy = Session(self.config)

    def plant(self, faults: Sequence[str]) -> Session:
        """A session on the same source with these faults (``name`` or ``name@layer``). Raises ConfigError."""
        planted = self.planted(faults)
        name = re.sub(r"\W+", "-", " ".join(faults))
        config = load_config(build_sample(self.folder / name, self.pair, faults, seed=self.seed))
        config = config.model_copy(update={"probe": self.config.probe})
        if any(p.fault.kind == "definition" for p in planted):
            return self._with_another_target(Session(config))
        assert config.target.path is not None
        assert isinstance(config.mapping, Path)
        stored = open_checkpoint(config.target.path)
        return self.healthy.repaired(Mapping.load(config.mapping), {n: np.array(stored.read(n)) for n in stored.specs})

    def planted(self, faults: Sequence[str]) -> list[Planted]:
        """The faults and where they go."""
        return [plan(spec, self.pair, FAULTS) for spec in faults]

    @cached_property
    def promoted(self) -> Trace:
        """The healthy target in float64, made exactly by the right mapping: what a mended mapping should give."""
        made = self.healthy.made
        values = self.healthy.target.to_parameters(lambda n: made[n] if n in made else self.healthy.target.read(n))
        return self.healthy.target.side.run(self.healthy.inputs, promoted=True, values=values)

    @cached_property
    def layers(self) -> int:
        return int(self.config.target.options["layers"])

    def at(self, fault: Fault, layer: int) -> str:
        """The fault in this layer, where it can be planted in one; else where it always is."""
        last = self.layers - 1 - fault.difference.shift
        return f"{fault.name}@{min(layer, last)}" if self.has_layers(fault) else fault.name

    def has_layers(self, fault: Fault) -> bool:
        """Whether the fault can be planted in one layer only."""
        if fault.kind == "weights":
            return fault.layers is not None
        if fault.kind == "definition" or fault.name in NO_LAYER_OF_THEIR_OWN:
            return False
        entries = {e.name: e for e in self.healthy.mapping.entries}
        return all(entries[n].layer is not None and not entries[n].stacks for n in fault.entries)

    def _with_another_target(self, session: Session) -> Session:
        shared = ("source", "source_exact", "source_side", "inputs", "read_source")
        vars(session).update({name: getattr(self.healthy, name) for name in shared})
        return session


def places(conversion: Conversion, only: Sequence[str] | None = None) -> list[str]:
    """Every fault that has a place in a conversion; one of the weights in a layer that the seed chooses."""
    rng = generator(conversion)
    drawn = [
        (fault, conversion.at(fault, int(rng.integers(conversion.layers)))) for fault in list_faults(conversion.pair)
    ]
    chosen = [(fault, spec) for fault, spec in drawn if not only or fault.name in only]
    return [spec if fault.kind == "weights" else fault.name for fault, spec in chosen]


def pairs_of_faults(conversion: Conversion, count: int) -> list[tuple[str, str]]:
    """Two harmful faults that share no entry, ``count`` times: query and key of one layer first, where both have
    faults of their own, then drawn at random, half of them in single layers and half of those in the same one."""
    rng = generator(conversion)
    harmful = [f for f in list_faults(conversion.pair) if f.effect == "diverges"]
    drawn: dict[frozenset[str], tuple[str, str]] = {}
    together = _query_and_key(harmful, rng)
    if together is not None:
        layer = int(rng.integers(conversion.layers))
        first, second = (conversion.at(f, layer) for f in together)
        drawn[frozenset(f.name for f in together)] = first, second
    while len(drawn) < count:
        chosen = [harmful[i] for i in rng.choice(len(harmful), 2, replace=False)]
        if set(_touched(chosen[0])) & set(_touched(chosen[1])):
            continue
        layers = rng.integers(conversion.layers, size=2)
        layers = layers[[0, 0]] if rng.random() < 0.5 else layers
        single = rng.random() < 0.5
        first, second = (
            conversion.at(f, int(layer)) if single or f.kind == "weights" else f.name
            for f, layer in zip(chosen, layers, strict=True)
        )
        drawn.setdefault(frozenset(f.name for f in chosen), (first, second))
    return list(drawn.values())


def generator(conversion: Conversion) -> np.random.Generator:
    """Random numbers that depend on the seed and the pair only."""
    return np.random.default_rng([conversion.seed, crc32(conversion.pair.encode())])


def _query_and_key(faults: Sequence[Fault], rng: np.random.Generator) -> tuple[Fault, Fault] | None:
    queries, keys = ([f for f in faults if f.entries == (f"attention.{name}",)] for name in ("query", "key"))
    if not queries or not keys:
        return None
    return queries[rng.integers(len(queries))], keys[rng.integers(len(keys))]


def _touched(fault: Fault) -> tuple[str, ...]:
    """Two faults that touch the same could undo or hide each other."""
    return fault.entries or (fault.name,)
