"""The best one-to-one assignment of rows to columns: the Hungarian method with potentials."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def assign(score: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Pairs (row, column) with the greatest sum of scores; pairs of no positive score are left out.

    ``score`` is ``[rows, columns]``; O(n^3) for n families, of which a model has some tens.
    """
    size = max(score.shape, default=0)
    if not size or not score.size:
        return []
    cost = np.zeros((size + 1, size + 1))
    cost[1 : score.shape[0] + 1, 1 : score.shape[1] + 1] = -np.maximum(score, 0.0)
    row_of = _solved(cost, size)
    pairs = sorted((int(row_of[j]) - 1, j - 1) for j in range(1, size + 1))
    return [(i, j) for i, j in pairs if i < score.shape[0] and j < score.shape[1] and score[i, j] > 0]


def _solved(cost: NDArray[np.float64], size: int) -> NDArray[np.int64]:
    """For every column (from 1) its row: rows are added one by one along the shortest augmenting path."""
    u, v = np.zeros(size + 1), np.zeros(size + 1)
    row_of, before = np.zeros(size + 1, np.int64), np.zeros(size + 1, np.int64)
    for row in range(1, size + 1):
        row_of[0], column = row, 0
        least, used = np.full(size + 1, np.inf), np.zeros(size + 1, bool)
        while row_of[column] != 0:
            used[column] = True
            own = row_of[column]
            reduced = cost[own] - u[own] - v
            closer = ~used & (reduced < least)
            least[closer], before[closer] = reduced[closer], column
            nearest = int(np.argmin(np.where(used, np.inf, least)[1:])) + 1
            delta = least[nearest]
            u[row_of[used]] += delta
            v[used] -= delta
            least[~used] -= delta
            column = nearest
        while column:
            row_of[column] = row_of[before[column]]
            column = int(before[column])
    return row_of
