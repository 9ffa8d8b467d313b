"""The LFW protocol and the ROC against straightforward implementations, scikit-learn and closed forms."""

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.model_selection import KFold

from faceflow.components.evaluate import baselines
from faceflow.components.evaluate.verification import THRESHOLDS, cross_validate, mean_and_std, roc, squared_distances


def draw(seed, count=600, folds=10):
    """Distances of overlapping kinds, with ties and values on the thresholds themselves."""
    rng = np.random.default_rng(seed)
    same = np.arange(count) % 2 == 0
    distances = np.clip(rng.normal(np.where(same, 1.0, 1.9), 0.5), 0, 4)
    distances[::7] = np.round(distances[::7], 1)
    return distances, same, np.repeat(np.arange(folds), count // folds)


def plainly(distances, same, folds):
    """The protocol with nothing but loops: for every fold, try every threshold on all the others."""
    accuracies, thresholds = [], []
    for fold in sorted(set(folds.tolist())):
        train = [place for place in range(len(same)) if folds[place] != fold]
        test = [place for place in range(len(same)) if folds[place] == fold]
        best, chosen = -1.0, None
        for step in range(400):
            threshold = THRESHOLDS[step]
            right = sum((distances[place] < threshold) == same[place] for place in train)
            if right > best:
                best, chosen = right, threshold
        thresholds.append(chosen)
        accuracies.append(sum((distances[place] < chosen) == same[place] for place in test) / len(test))
    return accuracies, thresholds


@pytest.mark.parametrize("seed", range(3))
def test_folds_are_scored_as_a_plain_implementation_scores_them(seed):
    distances, same, folds = draw(seed, 200)
    rng = np.random.default_rng(seed)
    if seed == 2:  # unequal folds that are not in file order
        folds = rng.integers(0, 4, len(same))
    accuracies, thresholds = plainly(distances, same, folds)
    scored = cross_validate(distances, same, folds)
    assert [fold.accuracy for fold in scored] == accuracies
    assert [fold.threshold for fold in scored] == thresholds
    assert [fold.pairs for fold in scored] == [int((folds == fold.fold).sum()) for fold in scored]
    assert mean_and_std(scored) == (pytest.approx(np.mean(accuracies)), pytest.approx(np.std(accuracies)))


def test_the_fold_column_of_lfw_is_scikit_learns_kfold_in_file_order():
    distances, same, folds = draw(5, 6000)
    scored = cross_validate(distances, same, folds)
    for fold, (train, test) in zip(scored, KFold(10, shuffle=False).split(distances), strict=True):
        right = [((distances[train] < threshold) == same[train]).mean() for threshold in np.arange(0, 4, 0.01)]
        threshold = np.arange(0, 4, 0.01)[np.argmax(right)]
        assert fold.accuracy == ((distances[test] < threshold) == same[test]).mean()


def test_the_threshold_is_never_chosen_on_the_fold_itself():
    # the second fold's distances are all shifted: its own best threshold would tell every pair rightly
    distances = np.array([0.5, 1.0, 2.5, 3.0])
    same = np.array([True, False, True, False])
    scored = cross_validate(distances, same, np.array([0, 0, 1, 1]))
    assert [fold.accuracy for fold in scored] == [0.5, 0.5]
    assert [fold.threshold for fold in scored] == [pytest.approx(2.51), pytest.approx(0.51)]


def test_clean_and_hopeless_sets_score_one_and_a_half():
    same = np.tile([True, False], 50)
    folds = np.repeat(np.arange(10), 10)
    clean = cross_validate(np.where(same, 0.4, 2.0), same, folds)
    assert mean_and_std(clean) == (1.0, 0.0)
    assert mean_and_std(cross_validate(np.full(100, 1.0), same, folds)) == (0.5, 0.0)
    with pytest.raises(ValueError, match="two folds"):
        cross_validate(np.ones(4), same[:4], np.zeros(4))


def test_squared_distances_of_unit_vectors_are_two_minus_twice_the_cosine():
    rng = np.random.default_rng(1)
    one, other = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in rng.normal(size=(2, 40, 9)))
    np.testing.assert_allclose(squared_distances(one, other), 2 - 2 * (one * other).sum(1), atol=1e-12)
    assert squared_distances(np.eye(2, dtype=np.float32), -np.eye(2, dtype=np.float32)).tolist() == [4.0, 4.0]


# ---- ROC


def curve_of(seed):
    distances, same, _ = draw(seed)
    return 1 - distances / 2, same, roc(1 - distances / 2, same)


@pytest.mark.parametrize("seed", range(3))
def test_every_point_of_the_curve_counts_accepted_pairs(seed):
    cosines, same, curve = curve_of(seed)
    for far, tar, threshold in zip(curve.far, curve.tar, curve.thresholds, strict=True):
        assert far == pytest.approx((cosines[~same] >= threshold).mean())
        assert tar == pytest.approx((cosines[same] >= threshold).mean())
    assert (curve.far[0], curve.tar[0], curve.far[-1], curve.tar[-1]) == (0, 0, 1, 1)


@pytest.mark.parametrize("seed", range(3))
def test_the_area_is_how_often_a_same_pair_beats_a_different_one(seed):
    cosines, same, curve = curve_of(seed)
    above = cosines[same][:, None] - cosines[~same][None]
    assert curve.auc == pytest.approx(((above > 0) + 0.5 * (above == 0)).mean())
    assert curve.auc == pytest.approx(roc_auc_score(same, cosines))


@pytest.mark.parametrize("seed", range(3))
def test_the_corners_are_scikit_learns_and_draw_the_same_curve(seed):
    cosines, same, curve = curve_of(seed)
    far, tar, thresholds = curve.corners()
    wanted = roc_curve(same, cosines, drop_intermediate=True)
    np.testing.assert_allclose(far, wanted[0])
    np.testing.assert_allclose(tar, wanted[1])
    np.testing.assert_allclose(thresholds[1:], wanted[2][1:])
    assert len(far) < len(curve.far)
    assert np.trapezoid(tar, far) == pytest.approx(curve.auc)


@pytest.mark.parametrize("seed", range(3))
def test_tar_at_a_far_is_the_most_that_its_budget_of_false_accepts_buys(seed):
    cosines, same, curve = curve_of(seed)
    for far in (1 / 300, 0.01, 0.05, 0.1, 0.5):
        best = 0.0
        for threshold in [math.inf, *np.unique(cosines)]:
            if (cosines[~same] >= threshold).sum() <= far * 300 + 1e-9:
                best = max(best, (cosines[same] >= threshold).mean())
        assert curve.tar_at(far) == pytest.approx(best)


def test_a_far_below_one_in_the_negatives_is_refused():
    _, _, curve = curve_of(0)
    assert curve.negatives == 300
    assert curve.supports(1 / 300)
    assert not curve.supports(0.003)
    with pytest.raises(ValueError, match="300 negative pairs cannot show"):
        curve.tar_at(0.003)


@pytest.mark.parametrize("apart", [0.5, 1.0, 2.0, 3.0])
def test_two_gaussians_have_the_rates_of_the_normal_distribution(apart):
    quantiles = norm.ppf((np.arange(20_000) + 0.5) / 20_000)
    same = np.repeat([True, False], 20_000)
    curve = roc(np.concatenate([quantiles + apart, quantiles]), same)
    assert curve.eer == pytest.approx(norm.cdf(-apart / 2), abs=1e-4)
    assert curve.auc == pytest.approx(norm.cdf(apart / math.sqrt(2)), abs=1e-4)
    assert curve.tar_at(0.01) == pytest.approx(norm.cdf(apart - norm.ppf(0.99)), abs=1e-3)


@pytest.mark.parametrize(
    ("scores", "same", "eer"),
    [
        ([0.9, 0.8, 0.2, 0.1], [1, 1, 0, 0], 0.0),
        ([0.9, 0.8, 0.2, 0.1], [0, 0, 1, 1], 1.0),
        ([0.9, 0.6, 0.5, 0.1], [1, 0, 1, 0], 0.5),
        ([0.5, 0.5, 0.5, 0.5], [1, 0, 1, 0], 0.5),  # one step to (1, 1): the line crosses in the middle
        ([0.9, 0.8, 0.7, 0.6, 0.5, 0.4], [1, 1, 0, 1, 0, 0], 1 / 3),
    ],
)
def test_equal_error_rates_that_can_be_counted_by_hand(scores, same, eer):
    assert roc(np.array(scores), np.array(same, bool)).eer == pytest.approx(eer)


def test_a_curve_needs_both_kinds():
    for same in ([True, True], [False, False]):
        with pytest.raises(ValueError, match="pairs of one identity and pairs of two"):
            roc(np.array([0.1, 0.2]), np.array(same))


def test_the_curve_never_falls():
    _, _, curve = curve_of(1)
    assert all(a <= b for a, b in pairwise(curve.far))
    assert all(a <= b for a, b in pairwise(curve.tar))


# ---- baselines


def test_the_baselines_are_the_cosines_of_flat_images():
    rng = np.random.default_rng(3)
    pixels = rng.integers(0, 256, (140, 4, 5, 3), dtype=np.uint8)
    pixels[7] = 0
    pairs = rng.integers(0, 140, (300, 2))
    pairs[0] = (7, 8)
    flat = pixels.reshape(140, -1).astype(np.float64)
    for distances, rows in (
        (baselines.raw_pixels(pixels, pairs), flat),
        (baselines.raw_pixels_centred(pixels, pairs), flat - flat.mean(0)),
    ):
        one, other = rows[pairs[:, 0]], rows[pairs[:, 1]]
        lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
        cosines = np.divide((one * other).sum(1), lengths, out=np.zeros(300), where=lengths > 0)
        np.testing.assert_allclose(distances, 2 - 2 * cosines, atol=1e-9)
