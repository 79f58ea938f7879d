"""ckptdbg: finds where, and in which mapping entry, a converted model checkpoint goes wrong.

Nothing heavy is imported until a name is used: ``import ckptdbg`` needs neither torch nor jax.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ckptdbg.api import assert_equivalent as assert_equivalent
    from ckptdbg.api import capture as capture
    from ckptdbg.api import compare_models as compare_models
    from ckptdbg.errors import CkptdbgError as CkptdbgError
    from ckptdbg.mapping import Mapping as Mapping
    from ckptdbg.models.jax_model import JaxModel as JaxModel
    from ckptdbg.result import Result as Result
    from ckptdbg.session import open_session as open

_WHERE = {
    "CkptdbgError": ("ckptdbg.errors", "CkptdbgError"),
    "JaxModel": ("ckptdbg.models.jax_model", "JaxModel"),
    "Mapping": ("ckptdbg.mapping", "Mapping"),
    "Result": ("ckptdbg.result", "Result"),
    "assert_equivalent": ("ckptdbg.api", "assert_equivalent"),
    "capture": ("ckptdbg.api", "capture"),
    # not `compare`: that name is a package, and hides the function as soon as it is imported
    "compare_models": ("ckptdbg.api", "compare_models"),
    "open": ("ckptdbg.session", "open_session"),
}

__all__ = ["CkptdbgError", "JaxModel", "Mapping", "Result", "assert_equivalent", "capture", "compare_models", "open"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _WHERE[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
