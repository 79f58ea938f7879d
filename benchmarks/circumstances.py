"""Healthy conversions, as they are and under unusual circumstances: none of them may raise an alarm."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.checkpoint import open_checkpoint, write_safetensors
from ckptdbg.cli import exit_status
from ckptdbg.config import ModelConfig, ProbeConfig, load_config
from ckptdbg.mapping import Mapping
from ckptdbg.models.loaders import load_model
from ckptdbg.result import Result
from ckptdbg.samples.build import build_sample
from ckptdbg.samples.fault import MOE
from ckptdbg.samples.pairs import PAIRS
from ckptdbg.session import Session, open_session

Tensors = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Healthy:
    """A conversion with nothing at fault, and what is unusual about it."""

    name: str
    pair: str
    sizes: dict[str, Any] = field(default_factory=dict)
    """Fields of the source's configuration."""
    edit: Callable[[Tensors], None] | None = None
    """Changes the source's tensors in place, before they are converted."""
    probe: dict[str, Any] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)
    """Options of the source's loader."""
    target: dict[str, Any] = field(default_factory=dict)
    """Options of the target's loader."""
    precision: str = "float32"

    @property
    def id(self) -> str:
        return f"{self.pair}: {self.name}"


def open_healthy(case: Healthy, folder: Path) -> Session:
    """Build the case and open it."""
    file = build_sample(folder, case.pair, **case.sizes)
    if case.edit is not None:
        edit_source(file, case.edit)
    config = load_config(file)
    changes = {
        "source": changed(config.source, case.source),
        "target": changed(config.target, case.target),
        "probe": ProbeConfig(**{**config.probe.model_dump(), **case.probe}),
        "precision": case.precision,
    }
    return open_session(config.model_copy(update=changes))


def changed(side: ModelConfig, options: dict[str, Any]) -> ModelConfig:
    """One side of a config with other options for its loader."""
    return side.model_copy(update={"options": {**side.options, **options}})


def edit_source(file: Path, edit: Callable[[Tensors], None]) -> None:
    """Rewrite the source of a built sample and convert it again with the same mapping."""
    config = load_config(file)
    source, target, mapping = config.source.path, config.target, config.mapping
    assert source is not None
    assert target.path is not None
    assert isinstance(mapping, Path)
    checkpoint = open_checkpoint(source)
    tensors = {name: np.array(checkpoint.read(name)) for name in checkpoint.specs}
    edit(tensors)
    write_safetensors(source / "model.safetensors", tensors.items(), {"format": "pt"})
    empty = load_model(
        target.loader, None, options=target.options, inputs={}, output=None, base=file.parent, precision="float32"
    )
    sizes = json.loads((source / "config.json").read_text())
    bound = Mapping.load(mapping).bind(sizes, open_checkpoint(source).specs, empty.specs)
    made = {name: np.array(value) for name, value, _ in bound.values(tensors.__getitem__)}
    write_safetensors(target.path, made.items())


def is_healthy(result: Result) -> bool:
    """Equivalent, status 0, and nothing found."""
    return result.verdict == "equivalent" and exit_status(result) == 0 and not result.findings


def raised_mean(*names: str, by: float) -> Callable[[Tensors], None]:
    """An edit: a constant added to every feature of a table, so that norms see a mean far above the spread."""

    def edit(tensors: Tensors) -> None:
        for name in names:
            tensors[name] += np.float32(by)

    return edit


def massive_token(table: str, amplitude: float) -> Callable[[Tensors], None]:
    """An edit: one feature of some tokens' embedding, as large as the massive activations of trained models."""

    def edit(tensors: Tensors) -> None:
        tensors[table][::9, 7] = amplitude

    return edit


def massive_channel(kernel: str, amplitude: float) -> Callable[[Tensors], None]:
    """An edit: one feature that a kernel ``[out, in]`` writes to the residual stream is ``amplitude`` times larger."""

    def edit(tensors: Tensors) -> None:
        tensors[kernel][7] *= np.float32(amplitude)

    return edit


_TORCH, _NNX, _SCAN, _GPT2, _BERT = "llama_to_torch", "llama_to_nnx", "llama_to_scan", "gpt2_to_jax", "bert_to_jax"
_DEEP = {"num_hidden_layers": 24}
_BF16 = {"sizes": {"dtype": "bfloat16"}, "target": {"dtype": "bfloat16"}, "precision": "bfloat16"}
_LAYERS = {_GPT2: "n_layer"}
_LLAMA_TABLE, _LLAMA_DOWN = "model.embed_tokens.weight", "model.layers.1.mlp.down_proj.weight"
_GPT2_TABLES = ("transformer.wte.weight", "transformer.wpe.weight")

PLAIN = [Healthy("as it is", pair) for pair in PAIRS]
UNUSUAL = [
    *(Healthy("eager attention", pair, source={"attn_implementation": "eager"}) for pair in PAIRS),
    # transformers refuses sdpa for Gemma 2, which caps its scores
    *(
        Healthy("sdpa attention", pair, source={"attn_implementation": "sdpa"})
        for pair in PAIRS
        if pair != "gemma2_to_jax"
    ),
    *(Healthy(f"batch {batch}", pair, probe={"batch": batch}) for pair in (_TORCH, _SCAN) for batch in (1, 3)),
    *(Healthy(f"length {length}", _TORCH, probe={"length": length}) for length in (8, 200, 2048)),
    *(Healthy("left padding", pair, probe={"attention_mask": "left-padded"}) for pair in PAIRS if pair != _BERT),
    *(Healthy(f"seed {seed}", pair, {"seed": seed}, probe={"seed": seed}) for seed in (1, 2, 3) for pair in PAIRS),
    *(Healthy("one layer", pair, {_LAYERS.get(pair, "num_hidden_layers"): 1}) for pair in PAIRS),
    *(Healthy("batch 5, length 13", pair, {"seed": 4}, probe={"seed": 4, "batch": 5, "length": 13}) for pair in PAIRS),
    *(Healthy("24 layers", pair, sizes=_DEEP) for pair in (_TORCH, _SCAN)),
    Healthy("mean 30 times the spread before LayerNorm", _GPT2, edit=raised_mean(*_GPT2_TABLES, by=30.0)),
    Healthy("mean 1000 times the spread before LayerNorm", _GPT2, edit=raised_mean(*_GPT2_TABLES, by=1000.0)),
    Healthy(
        "mean 30 times the spread before LayerNorm",
        _BERT,
        edit=raised_mean("embeddings.word_embeddings.weight", by=30.0),
    ),
    *(
        Healthy("massive activation of some tokens", pair, edit=massive_token(_LLAMA_TABLE, 5e3))
        for pair in (_TORCH, _NNX)
    ),
    Healthy("massive activation of some tokens", _GPT2, edit=massive_token(_GPT2_TABLES[0], 5e3)),
    *(Healthy("massive residual channel", pair, edit=massive_channel(_LLAMA_DOWN, 5e3)) for pair in (_TORCH, _SCAN)),
    *(Healthy("both sides bfloat16", pair, **_BF16) for pair in (_TORCH, *MOE)),
]


@dataclass(frozen=True)
class Ratios:
    """The largest ratios of one comparison over all sites and the output."""

    isolated: float
    """Working precision, every piece on the source's values."""
    isolated_promoted: float
    free: float
    free_promoted: float
    output: float


def ratios(session: Session) -> Ratios:
    """Raises HarnessError where the comparison cannot be made."""
    places = [*session.comparison.sites, session.comparison.output]
    return Ratios(
        max(p.isolated.working.ratio for p in places),
        max(p.isolated.promoted.ratio for p in places),
        max(p.free.working.ratio for p in places),
        max(p.free.promoted.ratio for p in places),
        session.comparison.output.free.working.ratio,
    )
