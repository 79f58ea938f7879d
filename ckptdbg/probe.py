"""The probe: what both models are run on, as arrays under Hugging Face names."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.checkpoint import open_checkpoint
from ckptdbg.config import ProbeConfig
from ckptdbg.errors import ConfigError

Array = NDArray[Any]
# A covering probe makes logits of at most so many elements (1 GB in float64), and rows of at most so many tokens.
_MOST_LOGITS = 2**27
_LONGEST = 2048
_MOST_DOUBLINGS = 3


def make_inputs(probe: ProbeConfig, config: Mapping[str, Any]) -> dict[str, Array]:
    """``input_ids`` ``[batch, length]`` int64, ``attention_mask``, and what padding or an encoder-decoder needs
    besides.

    ``config`` is the source's ``config.json``: its vocabulary bounds the tokens. Raises ConfigError.
    """
    if probe.inputs is not None:
        checkpoint = open_checkpoint(probe.inputs)
        inputs = {name: checkpoint.read(name) for name in checkpoint.specs}
    elif probe.ids is not None:
        inputs = _with_mask(_read_ids(probe.ids), None)
    elif probe.prompt is not None:
        inputs = _with_mask(_tokenised(probe), None)
    else:
        inputs = _drawn(probe, config)
    _check_tokens(inputs, config, probe.inputs or probe.ids or probe.tokenizer)
    return inputs


def other_tokens(
    probe: ProbeConfig, config: Mapping[str, Any], inputs: Mapping[str, Array], seed: int
) -> dict[str, Array]:
    """``inputs`` with other tokens in the same shapes: drawn anew where they are random, else in another order."""
    if probe.tokens == "random":
        return make_inputs(probe.model_copy(update={"seed": seed}), config)
    rng = np.random.default_rng(seed)
    names = [name for name in ("input_ids", "decoder_input_ids") if name in inputs]
    return {**inputs, **{name: rng.permuted(inputs[name]) for name in names}}


def vocabulary(config: Mapping[str, Any]) -> int | None:
    """``vocab_size`` of a ``config.json``, also where it is nested in ``text_config``."""
    nested = config.get("text_config") or {}
    size = config.get("vocab_size", nested.get("vocab_size") if isinstance(nested, Mapping) else None)
    return int(size) if size is not None else None


def sliding_window(config: Mapping[str, Any]) -> int | None:
    """How many tokens a ``config.json`` says that attention looks back; None where it looks back to the first."""
    nested = config.get("text_config") or {}
    size = config.get("sliding_window", nested.get("sliding_window") if isinstance(nested, Mapping) else None)
    return int(size) if size and config.get("use_sliding_window", True) else None


def covering_inputs(
    probe: ProbeConfig, config: Mapping[str, Any], unrouted: Callable[[dict[str, Array]], int]
) -> dict[str, Array]:
    """The inputs of ``tokens: cover``, with more rows for as long as some expert is chosen by no token.

    ``unrouted`` runs the source and says how many there are; what stays so after some doublings is left to the report.
    """
    inputs = make_inputs(probe, config)
    for _ in range(_MOST_DOUBLINGS):
        if not unrouted(inputs):
            break
        rows = 2 * len(inputs["input_ids"])
        inputs = make_inputs(probe.model_copy(update={"batch": rows}), config)
    return inputs


def _covering(probe: ProbeConfig, config: Mapping[str, Any], size: int) -> ProbeConfig:
    """The probe with rows that reach beyond a sliding window, or to the last position that a short table has, and
    enough of them for every token of the vocabulary."""
    window, positions = sliding_window(config), _position_rows(config)
    wanted = [probe.length, *([2 * window] if window else []), *([positions] if positions else [])]
    longest = min(_LONGEST, positions) if positions else _LONGEST
    length = max(n for n in wanted if n <= max(longest, probe.length))
    most = max(_MOST_LOGITS // (size * length), probe.batch)
    batch = min(max(-(-size // length), probe.batch), most)
    return probe.model_copy(update={"length": length, "batch": batch + (batch == length)})


def _position_rows(config: Mapping[str, Any]) -> int | None:
    """Rows of the table of positions; None for rotary positions, which have no table."""
    if any(key.startswith("rope") for key in config):
        return None
    size = config.get("n_positions") or config.get("max_position_embeddings")
    return int(size) if size else None


def _drawn(probe: ProbeConfig, config: Mapping[str, Any]) -> dict[str, Array]:
    size = vocabulary(config)
    if size is None:
        raise ConfigError(
            "cannot draw random tokens: no vocab_size in the source's config.json",
            hint="give the tokens yourself: probe: {ids: FILE.npy} or {inputs: FILE.safetensors}",
        )
    cover, rng = probe.tokens == "cover", np.random.default_rng(probe.seed)
    if cover:
        probe = _covering(probe, config, size)
    ids = rng.integers(0, size, (probe.batch, probe.length))
    if cover:  # every id once, in any order, then at random
        ids.flat[: min(size, ids.size)] = rng.permutation(size)[: ids.size]
    inputs = _with_mask(ids, probe.padding)
    if config.get("is_encoder_decoder"):
        # another length than the encoder's, so that token axes are told apart
        inputs["decoder_input_ids"] = rng.integers(0, size, (probe.batch, probe.length // 2 + 1))
    return inputs


def _with_mask(ids: Array, padding: list[int] | None) -> dict[str, Array]:
    mask = np.ones(ids.shape, np.int64)
    inputs: dict[str, Array] = {"input_ids": ids.astype(np.int64), "attention_mask": mask}
    if padding is not None and any(padding):
        for row, pad in enumerate(padding):
            mask[row, :pad] = 0
        # positions count from the first real token, and are said so to both models rather than left to each one's habit
        inputs["position_ids"] = np.maximum(mask.cumsum(axis=1) - 1, 0)
    return inputs


def _read_ids(path: Path) -> Array:
    try:
        if path.suffix == ".npy":
            ids = np.load(path, allow_pickle=False)
        elif path.suffix == ".json":
            ids = np.asarray(json.loads(path.read_text()))
        else:
            ids = np.loadtxt(path, dtype=np.int64, ndmin=2)
    except (ValueError, OSError) as error:
        expected = "[batch, length] integers, rows of equal length, in a .npy, .json or text file"
        raise ConfigError(f"cannot be read as token ids: {error}", where=str(path), expected=expected) from error
    if ids.ndim == 1:
        ids = ids[None]
    if ids.ndim != 2 or ids.dtype.kind not in "iu":
        raise ConfigError(
            "not token ids",
            where=str(path),
            found=f"{ids.dtype} {list(ids.shape)}",
            expected="integers [batch, length]",
        )
    return ids


def _tokenised(probe: ProbeConfig) -> Array:
    from ckptdbg.models.loaders.tokens import tokenise

    assert probe.prompt is not None
    assert probe.tokenizer is not None
    return tokenise(probe.prompt, probe.tokenizer)


def _check_tokens(inputs: Mapping[str, Array], config: Mapping[str, Any], file: Path | None) -> None:
    ids, size = inputs.get("input_ids"), vocabulary(config)
    if ids is None or size is None or not ids.size:
        return
    beyond = np.argwhere((ids < 0) | (ids >= size))
    if len(beyond):
        raise ConfigError(
            f"the probe has {len(beyond)} token{'s' if len(beyond) > 1 else ''} beyond the vocabulary",
            where=str(file) if file else None,
            found=f"{int(ids[tuple(beyond[0])])} at {beyond[0].tolist()}",
            expected=f"0 to {size - 1}",
            hint="vocab_size in the source's config.json says so: give ids of this model's own tokenizer",
        )
