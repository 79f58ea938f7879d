"""Files of golden logits as MaxText has them: ``.jsonl``, one object a line, or a pickled list of dicts.

The keys are those of its ``generate_hf_golden_logits.py`` and ``forward_pass_logit_checker.py``: ``prompt`` (text),
``tokens`` (``[length]`` ids) and ``logits`` (``[length, vocabulary]``, float32); a line of the checker's own output
may hold a list of such objects.
"""

from __future__ import annotations

import json
import os
import pickle
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.errors import CheckpointError
from ckptdbg.golden.unpickle import read_pickle

PICKLES = (".pickle", ".pkl")
_TEXT = {"prompt", "formatted_prompt", "image_path", "tokens", "logits", "attention_mask"}
"""Keys that a model of tokens alone can do with."""


@dataclass(frozen=True)
class Golden:
    """The logits of one prompt."""

    where: str
    """``file:line``, or which item of a pickle."""
    prompt: str
    tokens: NDArray[np.int64]
    """``[length]``"""
    logits: NDArray[np.float32]
    """``[length, vocabulary]``"""


def read_golden(path: Path, *, pickles: bool = False) -> list[Golden]:
    """All prompts of a file. Raises CheckpointError with file:line for what is wrong with it; a pickle is read only
    where ``pickles`` says so, and then only plain values and NumPy arrays in it."""
    if not path.is_file():
        raise CheckpointError("no such file of golden logits", where=str(path), hint="check the path")
    _check_suffix(path, pickles)
    items = list(_pickled(path) if path.suffix in PICKLES else _lines(path))
    if not items:
        raise CheckpointError("there are no golden logits in it", where=str(path), expected="one object a line")
    return [_golden(item, where) for item, where in items]


def _check_suffix(path: Path, pickles: bool) -> None:
    if path.suffix in PICKLES and not pickles:
        raise CheckpointError(
            "a pickle is not taken unasked",
            where=str(path),
            expected=".jsonl",
            hint="--pickle takes it: plain values and NumPy arrays, and no code in it is run",
        )
    if path.suffix not in (".jsonl", *PICKLES):
        raise CheckpointError(
            "unknown kind of golden logits",
            where=str(path),
            found=path.suffix or "no suffix",
            expected=f".jsonl, {', '.join(PICKLES)}",
        )


def _lines(path: Path) -> Iterator[tuple[Any, str]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            where = f"{path}:{number}"
            if not line.strip():
                continue
            try:
                found = json.loads(line.decode("utf-8"), parse_constant=_not_finite)
            except (ValueError, RecursionError) as cause:
                expected = "an object with prompt, tokens and logits"
                raise CheckpointError(f"not valid JSON: {cause}", where=where, expected=expected) from cause
            for item in found if isinstance(found, list) else [found]:
                yield item, where


def _not_finite(text: str) -> float:
    raise ValueError(f"found {text} where a number is due")


def _pickled(path: Path) -> Iterator[tuple[Any, str]]:
    found = read_pickle(path)
    if not isinstance(found, list):
        raise CheckpointError("not golden logits", where=str(path), found=type(found).__name__, expected="a list")
    for number, item in enumerate(found, 1):
        yield item, f"{path} (item {number})"


def _golden(item: Any, where: str) -> Golden:
    if not isinstance(item, dict):
        raise CheckpointError(
            "not an object", where=where, found=type(item).__name__, expected="prompt, tokens, logits"
        )
    missing = [key for key in ("tokens", "logits") if key not in item]
    if missing:
        found = ", ".join(map(str, item)) or "nothing"
        raise CheckpointError(f"it has no {missing[0]}", where=where, found=found, expected="prompt, tokens, logits")
    other = sorted(str(key) for key in item if key not in _TEXT)
    if other:
        problem = "the model was given more than tokens, which is not done here"
        raise CheckpointError(problem, where=where, found=", ".join(other), expected="prompt, tokens, logits")
    tokens, logits = _array(item, "tokens", 1, "iu", where), _array(item, "logits", 2, "fiu", where)
    mask = _array(item, "attention_mask", 1, "iub", where) if "attention_mask" in item else np.ones(1)
    if not mask.all():
        raise CheckpointError("its attention_mask leaves tokens out", where=where, expected="a prompt without padding")
    if len(tokens) != len(logits) or not logits.size:
        found = f"{len(tokens)} tokens, logits {list(logits.shape)}"
        raise CheckpointError("tokens and logits do not fit", where=where, found=found, expected="[length, vocabulary]")
    with np.errstate(over="ignore"):  # a number that float32 cannot hold is named below
        logits = logits.astype(np.float32)
    if not np.isfinite(logits).all():
        at = [int(i) for i in np.argwhere(~np.isfinite(logits))[0]]
        found = f"{logits[tuple(at)]} at {at}"
        raise CheckpointError("its logits are not all numbers", where=where, found=found, expected="finite logits")
    prompt = item.get("formatted_prompt", item.get("prompt", ""))
    return Golden(where, str(prompt), tokens.astype(np.int64), logits)


def _array(item: dict[str, Any], key: str, axes: int, kinds: str, where: str) -> NDArray[Any]:
    try:
        found = np.asarray(item[key])
        fits = found.ndim == axes and (found.dtype.kind in kinds or not found.size)
    except (ValueError, OverflowError):  # rows of different lengths
        found, fits = None, False
    if found is None or not fits:
        what = "rows of different lengths" if found is None else f"{found.dtype} {list(found.shape)}"
        expected = "[length] whole numbers" if axes == 1 else "[length, vocabulary] numbers"
        raise CheckpointError(f"{key} is not right", where=where, found=what, expected=expected)
    return found


def write_golden(path: Path, goldens: Sequence[Golden], *, pickles: bool = False) -> Path:
    """Write a file that MaxText reads, where there is none yet. Raises CheckpointError."""
    _check_suffix(path, pickles)
    check_free(path)
    items = [{"prompt": g.prompt, "tokens": g.tokens, "logits": g.logits} for g in goldens]
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        fresh = Path(folder, path.name)
        with fresh.open("wb") as file:
            if path.suffix in PICKLES:
                pickle.dump(items, file)
            else:
                file.writelines(_line(item) for item in items)
        os.replace(fresh, path)
    return path


def check_free(path: Path) -> None:
    """Raise CheckpointError where there is something already."""
    if path.exists():
        raise CheckpointError("there is a file here already", where=str(path), hint="name a new one")


def _line(item: dict[str, Any]) -> bytes:
    plain = {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in item.items()}
    return json.dumps(plain).encode() + b"\n"
