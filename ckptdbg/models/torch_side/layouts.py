"""How an operator's own tensor shapes relate to the canonical matrices of an anchor.

Every layout has two verbs: ``split(tensor)`` gives one matrix per group, ``join(parts, like)`` puts matrices back into
the operator's shape (``like`` is the tensor they came from).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Layout(Protocol):
    def split(self, tensor: Tensor) -> list[Tensor]: ...

    def join(self, parts: list[Tensor], like: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Axes:
    """Axes named by letters: ``letters`` in the tensor, ``order`` (group, row, column) in the matrices.

    A letter of ``order`` that the tensor lacks is an axis of size 1. ``merge``: the groups share one matrix on the
    other side, so they are further rows of a single matrix.
    """

    letters: str
    order: str
    merge: bool = False

    def split(self, tensor: Tensor) -> list[Tensor]:
        grouped = self._grouped(tensor)
        if self.merge:
            grouped = grouped.reshape(1, -1, grouped.shape[-1])
        return list(grouped.unbind(0))

    def join(self, parts: list[Tensor], like: Tensor) -> Tensor:
        grouped = torch.stack(parts).reshape(self._grouped(like).shape)
        absent = [axis for axis, letter in enumerate(self.order) if letter not in self.letters]
        for axis in reversed(absent):
            grouped = grouped.squeeze(axis)
        present = [letter for letter in self.order if letter in self.letters]
        return grouped.permute([present.index(letter) for letter in self.letters])

    def _grouped(self, tensor: Tensor) -> Tensor:
        present = [letter for letter in self.order if letter in self.letters]
        tensor = tensor.permute([self.letters.index(letter) for letter in present])
        for axis, letter in enumerate(self.order):
            if letter not in self.letters:
                tensor = tensor.unsqueeze(axis)
        return tensor


@dataclass(frozen=True)
class FirstGroup:
    """An operand that is the same in every group: one matrix."""

    inner: Axes

    def split(self, tensor: Tensor) -> list[Tensor]:
        return self.inner.split(tensor)[:1]

    def join(self, parts: list[Tensor], like: Tensor) -> Tensor:
        raise NotImplementedError("an operand is never planted")


@dataclass(frozen=True)
class Flat:
    """``[..., columns]``: every leading axis is rows."""

    def split(self, tensor: Tensor) -> list[Tensor]:
        return [tensor.reshape(-1, tensor.shape[-1])]

    def join(self, parts: list[Tensor], like: Tensor) -> Tensor:
        return parts[0].reshape(like.shape)


@dataclass(frozen=True)
class Segments:
    """``[rows, columns]`` cut along the rows at ``ends`` (exclusive); rows after the last end belong to no group."""

    ends: tuple[int, ...]

    def split(self, tensor: Tensor) -> list[Tensor]:
        starts = (0, *self.ends[:-1])
        return [tensor[start:end] for start, end in zip(starts, self.ends, strict=True)]

    def join(self, parts: list[Tensor], like: Tensor) -> Tensor:
        return torch.cat([*parts, like[self.ends[-1] :]])


@dataclass(frozen=True)
class Table:
    """A lookup table whose rows lie along ``axis``: ``[embedding, vocabulary]``."""

    axis: int

    def split(self, tensor: Tensor) -> list[Tensor]:
        return [tensor.movedim(self.axis, -1).reshape(-1, tensor.shape[self.axis])]

    def join(self, parts: list[Tensor], like: Tensor) -> Tensor:
        raise NotImplementedError("an operand is never planted")


@dataclass(frozen=True)
class Gathered:
    """What a lookup gives: the ``rank`` axes of the ids stand at ``axis``, all others are the embedding."""

    axis: int
    rank: int

    def split(self, tensor: Tensor) -> list[Tensor]:
        front = self._ids_first(tensor)
        return [front.reshape(math.prod(front.shape[: self.rank]), -1)]

    def join(self, parts: list[Tensor], like: Tensor) -> Tensor:
        front = parts[0].reshape(self._ids_first(like).shape)
        return front.movedim(tuple(range(self.rank)), tuple(range(self.axis, self.axis + self.rank)))

    def _ids_first(self, tensor: Tensor) -> Tensor:
        return tensor.movedim(tuple(range(self.axis, self.axis + self.rank)), tuple(range(self.rank)))


@dataclass(frozen=True)
class Filters:
    """Convolution weights ``[out, in / groups, *kernel]``: one matrix ``[out / groups, in * kernel]`` per group."""

    groups: int

    def split(self, tensor: Tensor) -> list[Tensor]:
        return list(tensor.reshape(self.groups, tensor.shape[0] // self.groups, -1).unbind(0))

    def join(self, parts: list[Tensor], like: Tensor) -> Tensor:
        raise NotImplementedError("an operand is never planted")


@dataclass(frozen=True)
class Channels:
    """Convolution output ``[batch, channels, *positions]``: rows are (batch, positions)."""

    groups: int

    def split(self, tensor: Tensor) -> list[Tensor]:
        last = tensor.movedim(1, -1)
        rows = math.prod(last.shape[:-1])
        return list(last.reshape(rows, self.groups, last.shape[-1] // self.groups).unbind(1))

    def join(self, parts: list[Tensor], like: Tensor) -> Tensor:
        return torch.stack(parts, 1).reshape(like.movedim(1, -1).shape).movedim(-1, 1)


@dataclass(frozen=True)
class Windows:
    """Convolution input ``[batch, channels, *positions]`` unfolded to rows (batch, output positions) and
    columns (channel, kernel).

    Windows overlap, so there is no ``join``: a convolution's input is not planted.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def split(self, tensor: Tensor) -> list[Tensor]:
        pads = [amount for pad in reversed(self.padding) for amount in (pad, pad)]
        tensor = torch.nn.functional.pad(tensor, pads)
        for axis, (size, step, gap) in enumerate(zip(self.kernel, self.stride, self.dilation, strict=True), start=2):
            tensor = tensor.unfold(axis, (size - 1) * gap + 1, step)[..., ::gap]
        spatial = len(self.kernel)
        tensor = tensor.movedim(1, 1 + spatial)  # [batch, *positions, channels, *kernel]
        rows = math.prod(tensor.shape[: 1 + spatial])
        return list(tensor.reshape(rows, self.groups, -1).unbind(1))

    def join(self, parts: list[Tensor], like: Tensor) -> Tensor:
        raise NotImplementedError("windows overlap: a convolution's input is not planted")
