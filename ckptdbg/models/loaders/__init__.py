"""From a line in a config to a model that can be walked: ``load_model`` and what it returns."""

from ckptdbg.models.loaders.kinds import wrap_model
from ckptdbg.models.loaders.load import load_model
from ckptdbg.models.loaders.loaded import Loaded

__all__ = ["Loaded", "load_model", "wrap_model"]
