"""Names for the sizes that ops speak of: keys of the config where it has them, else plain numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ckptdbg.mapping.proposal.names import Concepts
from ckptdbg.mapping.proposal.vocabulary import ATTENTION_SCALES, SIZES

_SCOPES = ("vision", "audio", "encoder", "decoder")


class Sizes:
    """The variables of a proposed mapping, as they come to be needed."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = dict(_flat(config))
        self.variables: dict[str, str] = {}
        """Name and expression, as they stand in the mapping file."""
        self._values: dict[str, int] = {}

    def name(self, role: str, value: int, said: Concepts) -> str:
        """A variable for the size ``value`` that is the ``role`` (a key of ``SIZES``) of a tensor whose name says
        ``said``: one of its own for every part of a model that has another value."""
        scope = next((s for s in _SCOPES if s in said), "")
        for name in (role, f"{scope}_{role}" if scope else f"{role}_2", *(f"{role}_{i}" for i in range(3, 99))):
            if self._values.setdefault(name, value) == value:
                self.variables.setdefault(name, self._expression(role, value, scope) or str(value))
                return name
        raise AssertionError("a model with so many sizes of one kind")

    def known(self, role: str, said: Concepts) -> int | None:
        """What the config says of a role; None where it does not."""
        scope = next((s for s in _SCOPES if s in said), "")
        return next((value for _, value in self._keys(role, scope)), None)

    def scales(self) -> list[str]:
        """Config keys that an attention scale may be made of, besides the size of a head."""
        return [path for path in self._config if path.rpartition(".")[2] in ATTENTION_SCALES]

    def _expression(self, role: str, value: int, scope: str) -> str | None:
        return next((path for path, found in self._keys(role, scope) if found == value), None)

    def _keys(self, role: str, scope: str) -> Iterator[tuple[str, int]]:
        """Config keys of a role, those of the part of the model first."""
        found = [(p, v) for key in SIZES.get(role, ()) for p, v in self._config.items() if p.rpartition(".")[2] == key]
        inside = [(p, v) for p, v in found if scope and scope in p]
        yield from inside or [(p, v) for p, v in found if not any(s in p for s in _SCOPES)]


def _flat(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, int]]:
    """Whole numbers of a config by dotted path, as expressions name them."""
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, int) and not isinstance(value, bool) and str(key).isidentifier():
            yield f"{prefix}{key}", value
