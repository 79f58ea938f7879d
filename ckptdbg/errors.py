"""The one family of errors that ckptdbg raises on purpose.

Every message is one line a person can act on: what was found and where, what was expected, what to do next.
"""

from __future__ import annotations


class CkptdbgError(Exception):
    """Bad input. The command line prints the message and exits with status 2."""

    def __init__(
        self,
        problem: str,
        *,
        where: str | None = None,
        found: object = None,
        expected: object = None,
        hint: str | None = None,
    ) -> None:
        self.problem, self.where, self.found, self.expected, self.hint = problem, where, found, expected, hint
        parts = [f"{where}: {problem}" if where else problem]
        if found is not None:
            parts.append(f"found {found}")
        if expected is not None:
            parts.append(f"expected {expected}")
        if hint:
            parts.append(hint)
        super().__init__("; ".join(parts))


class ConfigError(CkptdbgError):
    """A config file that cannot be read or does not say what is needed."""


class CheckpointError(CkptdbgError):
    """A checkpoint that is missing, truncated, or lacks a tensor."""


class MappingError(CkptdbgError):
    """A mapping that cannot be read, is incomplete, or does not fit the tensors."""


class LoaderError(CkptdbgError):
    """A model that could not be loaded or called."""


class HarnessError(CkptdbgError):
    """The two models were not run under the same conditions, so nothing can be compared."""
