"""Run the two models of a sample straight, without any of the kit's own walking."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML


def read_config(path: Path) -> dict[str, Any]:
    return YAML(typ="safe").load(path)


def make_tokens(path: Path) -> np.ndarray:
    config = json.loads((path.parent / "source" / "config.json").read_text())
    return np.random.default_rng(7).integers(0, config["vocab_size"], (2, 40))


def run_source(path: Path, **inputs: np.ndarray) -> np.ndarray:
    """Logits, or the last hidden state, of the Hugging Face model in float32."""
    import torch
    import transformers

    folder = path.parent / "source"
    name = json.loads((folder / "config.json").read_text())["architectures"][0]
    model = getattr(transformers, name).from_pretrained(folder)
    with torch.no_grad():
        return model(torch.tensor(make_tokens(path)), **{key: torch.tensor(value) for key, value in inputs.items()})[
            0
        ].numpy()


def run_target(path: Path, **inputs: np.ndarray) -> np.ndarray:
    """The output of the target that the config describes."""
    import torch

    target = read_config(path)["target"]
    module, _, function = target["loader"].partition(":")
    model = getattr(importlib.import_module(module), function)(path.parent / target["path"], **target["options"])
    names = {usual: own for own, usual in target.get("inputs", {}).items()}
    given = {names.get(key, key): value for key, value in {"input_ids": make_tokens(path), **inputs}.items()}
    if isinstance(model, torch.nn.Module):
        with torch.no_grad():
            return model(**{key: torch.tensor(value) for key, value in given.items()}).numpy()
    return _run_jax(model, given)


def _run_jax(model: Any, inputs: dict[str, np.ndarray]) -> np.ndarray:
    import jax
    import jax.numpy as jnp

    arrays = {key: jnp.asarray(value) for key, value in inputs.items()}
    with jax.default_matmul_precision("highest"):
        if isinstance(model, tuple):
            return np.asarray(model[0].apply(model[1], **arrays))
        return np.asarray(model.apply(model.params, arrays) if hasattr(model, "apply") else model(**arrays))


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    """L2 norm of the difference over that of ``expected``."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.fixture(scope="session")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The config of the healthy sample of a pair, built once."""
    from ckptdbg.samples import build_sample

    built: dict[str, Path] = {}

    def get(pair: str) -> Path:
        if pair not in built:
            built[pair] = build_sample(tmp_path_factory.mktemp(pair), pair)
        return built[pair]

    return get
