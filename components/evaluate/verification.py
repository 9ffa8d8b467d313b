"""Face verification: the LFW protocol and the ROC.

G. Huang, E. Learned-Miller: "Labeled Faces in the Wild: Updates and New Reporting Procedures" (2014), unrestricted
with labelled outside data. As FaceNet's and InsightFace's evaluations do it: embeddings of length 1, squared Euclidean
distances, and for each fold the threshold out of 0, 0.01, .. 3.99 that is best on all the other folds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

THRESHOLDS = np.arange(0, 4, 0.01)


@dataclass(frozen=True)
class Fold:
    """One fold's result.

    Attributes:
        fold: Its number.
        pairs: Its pairs.
        threshold: Squared distance below which a pair counts as one identity, chosen on the other folds.
        accuracy: Fraction of its pairs that are told rightly.
    """

    fold: int
    pairs: int
    threshold: float
    accuracy: float


def squared_distances(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float64]:
    """Squared Euclidean distances, 0 to 4, between rows of two (N, D) arrays of unit vectors."""
    return np.asarray(np.square(np.subtract(one, other, dtype=np.float64)).sum(axis=1))


def cross_validate(distances: NDArray[Any], same: NDArray[np.bool_], folds: NDArray[Any]) -> list[Fold]:
    """Score every fold with the threshold that is best on the others; of equals, the smallest.

    Args:
        distances: (N,) squared distances.
        same: (N,) bool.
        folds: (N,) each pair's fold, two different ones at least.

    Raises:
        ValueError: There is only one fold.
    """
    names = np.unique(folds)
    if len(names) < 2:
        raise ValueError("cross-validation needs at least two folds")
    correct = np.array([_correct(distances[folds == name], same[folds == name]) for name in names])
    sizes = np.array([np.count_nonzero(folds == name) for name in names])
    best = np.argmax(correct.sum(0) - correct, axis=1)
    return [
        Fold(int(name), int(sizes[row]), float(THRESHOLDS[best[row]]), float(correct[row, best[row]] / sizes[row]))
        for row, name in enumerate(names)
    ]


def _correct(distances: NDArray[Any], same: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Pairs told rightly at each threshold, where a distance strictly below it means one identity."""
    hits = np.searchsorted(np.sort(distances[same]), THRESHOLDS, side="left")
    false_accepts = np.searchsorted(np.sort(distances[~same]), THRESHOLDS, side="left")
    return np.asarray(hits + np.count_nonzero(~same) - false_accepts)


@dataclass(frozen=True)
class Roc:
    """Receiver operating characteristic over all pairs at once.

    Attributes:
        far: (M,) false accept rates, rising from 0 to 1.
        tar: (M,) true accept rates.
        thresholds: (M,) cosines at or above which a pair is accepted, falling from infinity.
        positives: Pairs of one identity.
        negatives: Pairs of two.
    """

    far: NDArray[np.float64]
    tar: NDArray[np.float64]
    thresholds: NDArray[np.float64]
    positives: int
    negatives: int

    @property
    def auc(self) -> float:
        """Area under the curve: how likely a pair of one identity has the higher cosine, ties counting half."""
        return float(np.trapezoid(self.tar, self.far))

    @property
    def eer(self) -> float:
        """Equal error rate: where false accepts and false rejects are equally likely, between vertices by a line."""
        gap = self.far - (1 - self.tar)
        right = int(np.argmax(gap >= 0))
        if right == 0 or gap[right] == 0:
            return float(self.far[right])
        share = -gap[right - 1] / (gap[right] - gap[right - 1])
        return float(self.far[right - 1] + share * (self.far[right] - self.far[right - 1]))

    def supports(self, far: float) -> bool:
        """Whether the negatives are enough for a false accept rate to be met: one false accept at the least."""
        return self.negatives * far >= 1 - 1e-9

    def tar_at(self, far: float) -> float:
        """Largest true accept rate whose false accept rate is at most the one given; nothing is interpolated.

        Raises:
            ValueError: The negatives are too few; see :meth:`supports`.
        """
        if not self.supports(far):
            raise ValueError(f"{self.negatives} negative pairs cannot show a false accept rate of {far:g}")
        return float(self.tar[np.searchsorted(self.far, far + 1e-12, side="right") - 1])

    def corners(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Rates and thresholds of the points at which the curve turns: the same curve, and less to store."""
        rates = np.stack([self.far * self.negatives, self.tar * self.positives]).round()
        turns = np.concatenate([[True], np.any(np.diff(rates, n=2) != 0, axis=0), [True]])
        return self.far[turns], self.tar[turns], self.thresholds[turns]


def roc(cosines: NDArray[Any], same: NDArray[np.bool_]) -> Roc:
    """The ROC of (N,) cosines, both kinds of pairs being there.

    Raises:
        ValueError: There is only one kind.
    """
    from sklearn.metrics import roc_curve

    positives = int(np.count_nonzero(same))
    if not 0 < positives < len(same):
        raise ValueError("an ROC needs pairs of one identity and pairs of two")
    far, tar, thresholds = roc_curve(same, cosines, drop_intermediate=False)
    return Roc(far, tar, thresholds, positives, len(same) - positives)


def mean_and_std(folds: Sequence[Fold]) -> tuple[float, float]:
    """Mean accuracy of the folds and its standard deviation over them (population, ddof 0, as InsightFace prints)."""
    accuracies = [fold.accuracy for fold in folds]
    return float(np.mean(accuracies)), float(np.std(accuracies))
