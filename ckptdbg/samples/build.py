"""Put a sample conversion on disk, healthy or with planted faults."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ckptdbg.checkpoint import open_checkpoint, write_safetensors
from ckptdbg.documents import dump_yaml, parse_yaml, read_text
from ckptdbg.errors import ConfigError, MappingError
from ckptdbg.mapping import Mapping
from ckptdbg.models.loaders import load_model
from ckptdbg.samples.checkpoints import write_checkpoint
from ckptdbg.samples.fault import Planted, plan
from ckptdbg.samples.faults import FAULTS
from ckptdbg.samples.mapping_edits import split_layers
from ckptdbg.samples.pairs import PAIRS, Pair, sample_configs
from ckptdbg.samples.weight_faults import Weights

DEMO_PAIR = "llama_to_nnx"
DEMO_FAULTS = ("query-not-interleaved", "checkpoint-gate-up-swapped@2")
"""One mistake in the mapping, in every layer, and one in the checkpoint, in one layer."""


def build_sample(
    folder: str | Path, pair: str = DEMO_PAIR, faults: Sequence[str] = (), seed: int = 0, **overrides: Any
) -> Path:
    """Write source checkpoint, mapping, converted target and config into ``folder``; returns the config's path.

    ``faults`` are names in ``FAULTS``, with ``@layer`` where only some layers have it; ``overrides`` are fields of the
    source's configuration. Raises ConfigError for an unknown pair or fault.
    """
    folder = Path(folder)
    if pair not in PAIRS:
        raise ConfigError("unknown sample conversion", found=repr(pair), expected=", ".join(PAIRS))
    kind = PAIRS[pair]
    planted = [plan(spec, pair, FAULTS) for spec in faults]
    source = write_checkpoint(kind.family, folder / "source", seed, **overrides)
    hf_config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    config = _config(kind, hf_config, planted)
    options = config["target"]["options"]
    mapping = _mapping(kind, planted, options["layers"])
    _write(folder / config["mapping"], mapping.text)
    tensors = _convert(mapping, source, hf_config, config["target"]["loader"], options, planted)
    write_safetensors(folder / config["target"]["path"], tensors.items())
    return _write(folder / "config.yaml", dump_yaml(config))


def _config(pair: Pair, hf_config: dict[str, Any], planted: Sequence[Planted]) -> Any:
    """The sample config with this source's sizes and the planted definition."""
    file = sample_configs() / f"{pair.config}.yaml"
    config = parse_yaml(read_text(file, ConfigError), str(file), ConfigError)
    options = config["target"]["options"]
    options.update(pair.options_from(hf_config))
    for item in planted:
        if item.fault.kind == "definition":
            item.fault.edit(options)
    return config


def _mapping(pair: Pair, planted: Sequence[Planted], layers: int) -> Mapping:
    """The sample mapping with the planted changes."""
    file = sample_configs() / "mappings" / f"{pair.config}.yaml"
    document = parse_yaml(read_text(file, MappingError), str(file), MappingError)
    nodes = document["entries"]
    before = _sources(nodes)
    for item in planted:
        if item.fault.kind != "mapping":
            continue
        if item.layers is None:
            named = {node["name"]: node for node in nodes}
            item.fault.edit(*(named[name] for name in item.fault.entries))
        else:
            item.fault.edit(*(split_layers(nodes, name, item.layers, layers) for name in item.fault.entries))
    if unused := [name for name in before if name not in _sources(nodes)]:
        document.setdefault("ignore", {}).setdefault("source", []).extend(unused)
    return Mapping.loads(dump_yaml(document), str(file))


def _sources(nodes: Sequence[Any]) -> list[str]:
    """Every source that entries mention, without placeholders: as globs, which ``ignore`` takes."""
    named = [
        name for node in nodes for name in ([node["source"]] if isinstance(node["source"], str) else node["source"])
    ]
    return [re.sub(r"\{.*?\}", "*", name) for name in named]


def _convert(
    mapping: Mapping,
    source: Path,
    hf_config: dict[str, Any],
    loader: str,
    options: dict[str, Any],
    planted: Sequence[Planted],
) -> dict[str, Any]:
    """The target's tensors: what the mapping makes, then the planted changes."""
    empty = load_model(
        loader, None, options=dict(options), inputs={}, output=None, base=source.parent, precision="float32"
    )
    checkpoint = open_checkpoint(source)
    bound = mapping.bind(hf_config, checkpoint.specs, empty.specs)
    tensors = {name: np.array(value) for name, value, _ in bound.values(checkpoint.read)}
    weights = Weights(tensors, bound)
    for item in planted:
        if item.fault.kind == "weights":
            for layer in item.layers or (0,):
                item.fault.edit(weights, layer)
    return tensors


def _write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file
