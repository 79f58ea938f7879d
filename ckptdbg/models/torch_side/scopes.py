"""Which module is running, and which line of the model's code."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as hooks

from ckptdbg.models.records import Where

_NOT_THE_MODEL = (str(Path(torch.__file__).parent), str(Path(__file__).parent))


class Scopes:
    """A stack of the names of the modules being called."""

    def __init__(self, module: nn.Module) -> None:
        self._names = {id(child): name for name, child in module.named_modules()}
        self.stack: list[str] = []

    def where(self) -> Where:
        """The module and the line of the model's code that is running now."""
        frame = sys._getframe(1)
        while frame is not None and frame.f_code.co_filename.startswith(_NOT_THE_MODEL):
            frame = frame.f_back
        scope = self.stack[-1] if self.stack else ""
        return Where(scope, frame.f_code.co_filename, frame.f_lineno) if frame else Where(scope)

    @contextmanager
    def followed(self, enter: Callable[[str], None], leave: Callable[[str, nn.Module, Any], None]) -> Iterator[None]:
        """Calls ``enter(name)`` and ``leave(name, module, output)`` around every call of a submodule."""

        def before(module: nn.Module, _: Any) -> None:
            if id(module) in self._names:
                self.stack.append(self._names[id(module)])
                enter(self.stack[-1])

        def after(module: nn.Module, _: Any, output: Any) -> None:
            if id(module) in self._names:
                leave(self.stack.pop(), module, output)

        handles = (hooks.register_module_forward_pre_hook(before), hooks.register_module_forward_hook(after))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self.stack.clear()
