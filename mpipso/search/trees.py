"""Extremely randomised trees for regression, grown all at once.

P. Geurts, D. Ernst, L. Wehenkel, "Extremely randomized trees", Machine Learning 63 (2006) 3-42: every node draws a
threshold for each feature uniformly between the least and the greatest value it holds, and takes the split that
reduces the variance most. The spread of the trees' predictions together with that inside their leaves is the
uncertainty, as in F. Hutter et al., "Algorithm runtime prediction: methods & evaluation" (2014), section 4.3.2.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Indices = NDArray[np.intp]


class ExtraTrees:
    """A forest over points of shape (n, features) with targets of shape (n,); ``random`` draws its thresholds."""

    def __init__(
        self, features: Array, targets: Array, random: np.random.Generator, *, trees: int = 40, leaf: int = 2
    ) -> None:
        self._trees = trees
        self._feature: list[Indices] = []
        self._threshold: list[Array] = []
        self._child: list[Indices] = []
        count, width = features.shape
        # Every (tree, point) pair is an entry; nodes are numbered over the whole forest, level by level.
        point = np.tile(np.arange(count), trees)
        node = np.repeat(np.arange(trees), count)
        nodes = trees
        self._value, self._variance = np.zeros(0), np.zeros(0)
        first = 0
        features_of_node, thresholds, children = [], [], []
        values, variances = [], []
        while nodes:
            order = np.argsort(node, kind="stable")
            point, node = point[order], node[order]
            starts = np.searchsorted(node, np.arange(nodes))
            size = np.diff(np.append(starts, len(node)))
            y = targets[point]
            total = np.add.reduceat(y, starts)
            mean = total / size
            square = np.add.reduceat((y - mean[node]) ** 2, starts)
            values.append(mean)
            variances.append(square / size)
            x = features[point]
            low, high = np.minimum.reduceat(x, starts), np.maximum.reduceat(x, starts)
            cut = low + random.random((nodes, width)) * (high - low)
            left = x <= cut[node]
            on_left = np.add.reduceat(left, starts, dtype=np.intp)
            sum_left = np.add.reduceat(np.where(left, y[:, None], 0.0), starts)
            on_right = size[:, None] - on_left
            gain = sum_left**2 / np.maximum(on_left, 1) + (total[:, None] - sum_left) ** 2 / np.maximum(on_right, 1)
            gain = np.where((low < high) & (on_left > 0) & (on_right > 0), gain, -np.inf)
            best = np.argmax(gain, axis=1)
            every = np.arange(nodes)
            splits = (size > leaf) & (square > 1e-12 * size) & np.isfinite(gain[every, best])
            following = first + nodes + 2 * (np.cumsum(splits) - 1)
            features_of_node.append(best)
            thresholds.append(cut[every, best])
            children.append(np.where(splits, following, -1))
            keep = splits[node]
            goes_right = ~left[np.arange(len(node)), best[node]]
            node = (following - first - nodes)[node] + goes_right
            point, node = point[keep], node[keep]
            first += nodes
            nodes = 2 * int(splits.sum())
        self._depth = len(children)
        self._features_of_node, self._thresholds = np.concatenate(features_of_node), np.concatenate(thresholds)
        self._children = np.concatenate(children)
        self._values, self._variances = np.concatenate(values), np.concatenate(variances)

    def predict(self, features: Array) -> tuple[Array, Array]:
        """Mean and standard deviation at points of shape (m, features); each of shape (m,)."""
        rows = np.arange(len(features))
        node = np.repeat(np.arange(self._trees)[:, None], len(features), axis=1)
        for _ in range(self._depth - 1):
            child = self._children[node]
            right = features[rows, self._features_of_node[node]] > self._thresholds[node]
            node = np.where(child < 0, node, child + right)
        values = self._values[node]
        variance = values.var(axis=0) + self._variances[node].mean(axis=0)
        return values.mean(axis=0), np.sqrt(np.maximum(variance, 1e-10))
