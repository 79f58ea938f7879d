"""A pass that is ended early: nothing of it stays in the model, and it is not ended too early."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from ckptdbg.models.torch_side import TorchSide

INPUTS = {"x": np.random.default_rng(0).standard_normal((2, 5, 4)).astype(np.float32)}


class WithState(nn.Module):
    """Keeps what it computes for the length of a pass, and clears it at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 3)
        self.kept: torch.Tensor | None = None

    def forward(self, x):
        assert self.kept is None
        self.kept = self.first(x)
        self.last_shape = x.shape
        found = self.second(self.kept)
        self.kept = None
        return found


def test_what_a_model_keeps_during_a_pass_is_gone_after_one_that_was_ended():
    module = WithState()
    side = TorchSide(module)
    whole = side.run(INPUTS, promoted=True)
    before = set(vars(module))
    begun = side.run(INPUTS, promoted=True, until=0)
    assert begun.records[0].output.size
    assert not begun.records[1].output.size
    assert module.kept is None
    assert set(vars(module)) == before
    np.testing.assert_array_equal(side.run(INPUTS, promoted=True).output, whole.output)


class InEitherOrder(nn.Module):
    """Two branches that a setting runs in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.out = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.turned = False

    def forward(self, x):
        if self.turned:
            right = self.right(x)
            left = self.left(x)
        else:
            left = self.left(x)
            right = self.right(x)
        return self.out(left * right)


def test_it_ends_only_once_all_that_is_asked_for_was_seen():
    module = InEitherOrder()
    side = TorchSide(module)
    whole = side.run(INPUTS, promoted=True)
    module.turned = True
    begun = side.run(INPUTS, promoted=True, until=0)
    np.testing.assert_array_equal(begun.records[0].output, whole.records[0].output)
    assert not begun.records[2].output.size
