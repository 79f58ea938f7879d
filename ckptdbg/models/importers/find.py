"""The importers by the key that asks for them in a config's ``mapping``."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from ckptdbg.models.importers.base import Given
from ckptdbg.models.loaders.conversion import Conversion

LIBRARIES = ("torchtitan", "maxtext", "transformers")


def find_conversion(asked: Mapping[str, Any], sides: Given) -> Conversion:
    """What ``mapping: {torchtitan: llama3, ...}`` and the like stand for. Raises LoaderError, ConfigError."""
    (library,) = (name for name in LIBRARIES if name in asked)
    return importlib.import_module(f"ckptdbg.models.importers.{library}").find(asked, sides)
