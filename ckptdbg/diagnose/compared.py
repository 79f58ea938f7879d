"""What every comparison has, whether the source's values are at hand or only a sketch of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ckptdbg.compare.features import Pairing, Port
from ckptdbg.compare.runs import Routing, Runs
from ckptdbg.compare.sites import Judged
from ckptdbg.compare.views import TargetView, View


class Viewed(Protocol):
    """A side of which the view is known."""

    @property
    def view(self) -> View: ...


class FreePlace(Protocol):
    """Somewhere both models were compared as they run."""

    @property
    def free(self) -> Judged: ...


class FreeSite(FreePlace, Protocol):
    """A port of a target anchor."""

    @property
    def anchor(self) -> int: ...
    @property
    def port(self) -> Port: ...


class Compared(Protocol):
    """A comparison, as far as it runs freely."""

    @property
    def source(self) -> Viewed: ...
    @property
    def target(self) -> TargetView: ...
    @property
    def pairing(self) -> Pairing: ...
    @property
    def routing(self) -> Routing: ...
    @property
    def free(self) -> Runs: ...
    @property
    def sites(self) -> Sequence[FreeSite]: ...
    @property
    def output(self) -> FreePlace: ...
    @property
    def blocks_left(self) -> Sequence[tuple[str, str]]: ...
