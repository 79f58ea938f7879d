"""Text to token ids, with a tokenizer from disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ckptdbg.errors import ConfigError
from ckptdbg.models.records import Array


def tokenise(text: str, tokenizer: Path) -> Array:
    """``[1, length]`` int64. Raises ConfigError where the tokenizer cannot be read."""
    try:
        from transformers import AutoTokenizer

        ids = AutoTokenizer.from_pretrained(tokenizer, local_files_only=True)(text)["input_ids"]
    except Exception as error:
        raise ConfigError(
            f"the tokenizer cannot be read: {type(error).__name__}: {error}",
            where=str(tokenizer),
            expected="a folder written by save_pretrained",
        ) from error
    return np.asarray(ids, np.int64)[None]
