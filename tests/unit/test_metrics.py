"""metrics: against statsmodels and scikit-learn, and the papers' own matrices."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from statsmodels.stats.proportion import proportion_confint

from busilib import metrics

PAPER_A = [[63, 3, 0], [4, 27, 0], [0, 0, 20]]
PAPER_B = [[87, 2, 0], [8, 34, 0], [6, 0, 20]]
CLASSES = ("benign", "malignant", "normal")
labels = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=60)
quick = settings(max_examples=60, deadline=None)


@quick
@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.sampled_from([0.9, 0.95]))
def test_wilson_is_statsmodels(counts, level):
    right, total = counts
    low, high = metrics.wilson(right, total, level)
    assert (low, high) == pytest.approx(proportion_confint(right, total, 1 - level, method="wilson"), abs=1e-9)
    assert 0 <= low <= right / total + 1e-12 and right / total - 1e-12 <= high <= 1


@pytest.mark.parametrize("total", range(1, 120))
def test_wilson_holds_the_share_itself(total):
    for right in (0, total):
        low, high = metrics.wilson(right, total)
        assert low <= right / total <= high


def test_wilson_of_nothing_and_of_the_impossible():
    assert all(math.isnan(value) for value in metrics.wilson(0, 0))
    with pytest.raises(ValueError, match="5 right of 4: impossible"):
        metrics.wilson(5, 4)
    with pytest.raises(ValueError, match="impossible"):
        metrics.wilson(-1, 4)


@quick
@given(labels)
def test_scores_are_scikit_learns(pairs):
    truth, predicted = np.array(pairs).T
    matrix = metrics.confusion_matrix(truth, predicted)
    assert (matrix == sk.confusion_matrix(truth, predicted, labels=[0, 1, 2])).all()
    table = metrics.per_class(matrix, CLASSES)
    precision, recall, f1, n = sk.precision_recall_fscore_support(
        truth, predicted, labels=[0, 1, 2], zero_division=np.nan
    )
    assert table["n"].tolist() == n.tolist()
    np.testing.assert_allclose(table["sensitivity"], recall)
    np.testing.assert_allclose(table["precision"], precision)
    np.testing.assert_allclose(table["f1"], np.nan_to_num(f1))
    for k, name in enumerate(CLASSES):
        others = truth != k
        expected = (predicted[others] != k).mean() if others.any() else np.nan
        np.testing.assert_allclose(table.loc[name, "specificity"], expected)


@quick
@given(labels)
def test_averages_are_scikit_learns(pairs):
    truth, predicted = np.array(pairs).T
    matrix = metrics.confusion_matrix(truth, predicted)
    scores = metrics.averages(matrix)
    for average in ("weighted", "macro"):
        expected = sk.precision_recall_fscore_support(
            truth, predicted, labels=np.unique(truth), average=average, zero_division=0
        )
        found = [scores[f"{average}_{name}"] for name in ("precision", "recall", "f1")]
        assert found == pytest.approx(expected[:3])
    assert scores["weighted_recall"] == pytest.approx(scores["accuracy"])
    assert scores["accuracy"] == pytest.approx(sk.accuracy_score(truth, predicted))
    assert metrics.majority(matrix) == pytest.approx(np.bincount(truth).max() / len(truth))
    assert metrics._macro_f1(matrix) == pytest.approx(scores["macro_f1"])  # the bootstrap's shorter way


def test_confusion_matrix_refuses_what_it_cannot_count():
    with pytest.raises(ValueError, match="3 labels but 2 predictions"):
        metrics.confusion_matrix([0, 1, 2], [0, 1])
    for odd in (-1, 3, 0.5, np.nan):
        with pytest.raises(ValueError, match="whole numbers from 0 to 2"):
            metrics.confusion_matrix([0, 1], [0, odd])
    assert metrics.confusion_matrix([], []).tolist() == [[0] * 3] * 3
    assert metrics.confusion_matrix([0, 3], [3, 3], classes=4)[3, 3] == 1


def test_rows_are_the_truth():
    assert metrics.confusion_matrix([0, 0, 1], [1, 1, 1]).tolist() == [[0, 2, 0], [0, 1, 0], [0, 0, 0]]


def test_paper_a_printed_matrix_is_neither_of_its_tables():
    scores = metrics.summary(PAPER_A)
    assert (scores["right"], scores["n"]) == (110, 117)
    assert round(100 * scores["accuracy"], 2) == 94.02
    assert round(scores["majority"], 4) == round(66 / 117, 4)


def test_paper_b_interval():
    scores = metrics.summary(PAPER_B)
    assert (scores["right"], scores["n"]) == (141, 157)
    assert round(100 * scores["accuracy_low"], 1) == 84.1 and round(100 * scores["accuracy_high"], 1) == 93.6
    assert metrics.text(scores) == "0.90 [0.84, 0.94], n = 157; majority class 0.57"
    recall = metrics.per_class(PAPER_B, CLASSES)["sensitivity"]
    assert (100 * recall).round(1).tolist() == [97.8, 81.0, 76.9]


def test_a_class_without_images_has_no_score_and_spoils_none():
    table = metrics.per_class([[5, 1, 0], [2, 4, 0], [0, 0, 0]], CLASSES)
    empty = table.loc["normal"]
    assert empty["n"] == 0 and empty["f1"] == 0 and empty["specificity"] == 1
    assert empty[["sensitivity", "sensitivity_low", "sensitivity_high", "precision", "precision_low"]].isna().all()
    two = metrics.averages([[5, 1], [2, 4]])
    assert metrics.averages([[5, 1, 0], [2, 4, 0], [0, 0, 0]]) == pytest.approx(two)
    scores = metrics.summary([[5, 1, 0], [2, 4, 0], [0, 0, 0]])
    assert not any(math.isnan(value) for value in scores.values())


@pytest.mark.parametrize("matrix", [PAPER_A, PAPER_B, [[30, 10, 2], [9, 11, 1], [3, 2, 8]]])
def test_bootstrap_repeats_itself_and_holds_the_estimate(matrix):
    intervals = [metrics.bootstrap(matrix, metrics.accuracy, seed=seed) for seed in (0, 0, 1)]
    assert intervals[0] == intervals[1] != intervals[2]
    low, high = intervals[0]
    assert low < metrics.accuracy(matrix) < high
    # For accuracy the percentile interval must come out near Wilson's.
    right, total = np.trace(matrix), np.sum(matrix)
    assert (low, high) == pytest.approx(metrics.wilson(right, total), abs=0.03)
    scores = metrics.summary(matrix)
    assert scores["macro_f1_low"] < scores["macro_f1"] < scores["macro_f1_high"]


def test_bootstrap_keeps_the_classes_sizes():
    sizes = set()
    metrics.bootstrap(PAPER_A, lambda m: sizes.add(tuple(m.sum(axis=1).tolist())) or 0.0, draws=50)
    assert sizes == {(66, 31, 20)}


def made_predictions(n=90, seed=0):
    """Truth, probabilities (n, 3) that lean to it, and groups of three rows each."""
    rng = np.random.default_rng(seed)
    truth = np.arange(n) % 3
    logits = rng.normal(size=(n, 3)) + 1.2 * np.eye(3)[truth]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return truth, probabilities, np.arange(n) // 3


@pytest.mark.parametrize("seed", range(3))
def test_probability_scores_are_scikit_learns(seed):
    truth, p, _ = made_predictions(seed=seed)
    scores, named = metrics.probability_scores(truth, p), p.argmax(axis=1)
    assert scores["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(truth, named))
    assert scores["macro_f1"] == pytest.approx(sk.f1_score(truth, named, average="macro"))
    assert scores["auc"] == pytest.approx(sk.roc_auc_score(truth, p, multi_class="ovr"))
    assert scores["sensitivity_1"] == pytest.approx(sk.recall_score(truth, named, average=None)[1])


def test_probability_scores_refuse_nan_and_miss_what_is_missing():
    truth, p, _ = made_predictions()
    with pytest.raises(ValueError, match="the model gave NaN"):
        metrics.probability_scores(truth, np.where(p > 0.9, np.nan, p))
    two = truth < 2
    assert math.isnan(metrics.probability_scores(truth[two], p[two])["balanced_accuracy"])


def test_grouped_bootstrap_knows_that_copies_add_nothing():
    truth, p, _ = made_predictions(60)
    right = p.argmax(axis=1) == truth
    once = metrics.grouped_bootstrap(np.mean, np.arange(60), right)
    copied = metrics.grouped_bootstrap(np.mean, np.repeat(np.arange(60), 4), np.repeat(right, 4))
    naive = metrics.grouped_bootstrap(np.mean, np.arange(240), np.repeat(right, 4))
    assert copied == once, "four copies of each image: the same groups, the same interval"
    assert naive[1] - naive[0] < 0.7 * (once[1] - once[0]), "one by one, the copies make it look narrower"


def test_grouped_bootstrap_of_single_images_is_the_binomial_interval():
    right = np.arange(400) % 4 > 0  # 75 %
    low, high = metrics.grouped_bootstrap(np.mean, np.arange(400), right, draws=2000)
    assert (low, high) == pytest.approx(metrics.wilson(300, 400), abs=0.01)


def test_grouped_bootstrap_says_what_is_wrong():
    with pytest.raises(ValueError, match="3 groups but arrays of 2 rows"):
        metrics.grouped_bootstrap(np.mean, [1, 2, 3], [0, 1])
    with pytest.raises(ValueError, match="too few groups of some class"):
        metrics.grouped_bootstrap(lambda x: float("nan"), [1, 2, 3], [0, 1, 1])


def test_intervals_hold_their_values():
    truth, p, groups = made_predictions()
    table = metrics.with_intervals(truth, p, groups, draws=200)
    assert ((table["low"] <= table["value"]) & (table["value"] <= table["high"])).all()
    assert list(table.index) == list(metrics.probability_scores(truth, p))


def test_mean_interval_is_the_paired_t_interval():
    from scipy import stats

    differences = np.array([1.0, 2.0, 4.0, 0.5, 2.5])
    mean, low, high = metrics.mean_interval(differences)
    expected = stats.ttest_1samp(differences, 0).confidence_interval()
    assert (mean, low, high) == pytest.approx((2.0, expected.low, expected.high))
    assert all(math.isnan(x) for x in metrics.mean_interval([3.0])[1:])
    with pytest.raises(ValueError, match="no values"):
        metrics.mean_interval([])


@quick
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=80))
def test_mcnemar_is_statsmodels(pairs):
    from statsmodels.stats.contingency_tables import mcnemar

    first, second = np.array(pairs).T
    found = metrics.mcnemar(np.ones(len(first), int), first, second)
    table = [[sum((first == a) & (second == b)) for b in (1, 0)] for a in (1, 0)]
    assert found["p"] == pytest.approx(mcnemar(table, exact=True).pvalue)
    assert (found["only_first"], found["only_second"]) == (table[0][1], table[1][0])


def test_mcnemar_bounds_hold_every_table_with_these_scores():
    low, high = metrics.mcnemar_bounds(9, 12, 14)
    found = []
    for both in range(10):
        only_first, only_second = 9 - both, 12 - both
        if both + only_first + only_second <= 14:
            found.append(metrics._sign_test(only_first, only_second))
    assert (low, high) == pytest.approx((min(found), max(found)))
    assert metrics.mcnemar_bounds(109, 113, 117)[0] == pytest.approx(0.125)
    with pytest.raises(ValueError, match="impossible"):
        metrics.mcnemar_bounds(9, 15, 14)


def test_calibration_by_hand():
    p = np.array([[0.95, 0.05], [0.92, 0.08], [0.35, 0.65], [0.38, 0.62]])
    table = metrics.calibration([0, 1, 1, 1], p)
    assert table["n"].tolist() == [2, 2] and table["accuracy"].tolist() == [1.0, 0.5]
    assert metrics.calibration_error([0, 1, 1, 1], p) == pytest.approx((abs(0.635 - 1) + abs(0.935 - 0.5)) / 2)
    sure = np.eye(3)[[0, 1, 2]]
    assert metrics.calibration_error([0, 1, 2], sure) == 0


def test_an_operating_point_reaches_its_sensitivity_with_the_highest_threshold():
    rng = np.random.default_rng(0)
    positive = np.arange(200) % 4 == 0
    p = rng.uniform(size=200) + 0.3 * positive
    point = metrics.operating_point(positive, p, 0.95)
    false, true, thresholds = sk.roc_curve(positive, p, drop_intermediate=False)
    expected = thresholds[true >= 0.95 - 1e-9].max()
    assert point["threshold"] == pytest.approx(expected) and point["sensitivity"] >= 0.95
    assert metrics.at_threshold(positive, p, point["threshold"] + 1e-9)["sensitivity"] < 0.95
    with pytest.raises(ValueError, match="needs positives, negatives"):
        metrics.operating_point(np.ones(3), [0.1, 0.2, 0.3])
