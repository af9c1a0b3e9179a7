"""metrics: against statsmodels, scipy and scikit-learn, and the papers' own matrices."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from busilib import metrics
from busilib.errors import DataError

PAPER_A = [[63, 3, 0], [4, 27, 0], [0, 0, 20]]
PAPER_B = [[87, 2, 0], [8, 34, 0], [6, 0, 20]]
CLASSES = ("benign", "malignant", "normal")
labels = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=60)
quick = settings(max_examples=40, deadline=None)


@quick
@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.sampled_from([0.9, 0.95]))
def test_wilson_is_statsmodels_and_holds_the_share(counts, level):
    low, high = metrics.wilson(*counts, level)
    assert (low, high) == pytest.approx(proportion_confint(*counts, 1 - level, method="wilson"), abs=1e-9)
    assert low <= counts[0] / counts[1] <= high


def test_wilson_of_nothing_and_of_the_impossible():
    assert all(math.isnan(value) for value in metrics.wilson(0, 0))
    for right in (5, -1):
        with pytest.raises(ValueError):
            metrics.wilson(right, 4)


@quick
@given(labels)
def test_scores_are_scikit_learns(pairs):
    truth, predicted = np.array(pairs).T
    matrix = metrics.confusion_matrix(truth, predicted)
    table, scores = metrics.per_class(matrix, CLASSES), metrics.averages(matrix)
    precision, recall, f1, n = sk.precision_recall_fscore_support(
        truth, predicted, labels=[0, 1, 2], zero_division=np.nan
    )
    specificity = [sk.recall_score(truth != k, predicted != k, zero_division=np.nan) for k in range(3)]
    expected = np.transpose([n, recall, specificity, precision, np.nan_to_num(f1)])
    np.testing.assert_allclose(table[["n", "sensitivity", "specificity", "precision", "f1"]], expected)
    for average in ("weighted", "macro"):
        expected = sk.precision_recall_fscore_support(truth, predicted, average=average, zero_division=0)
        assert [scores[f"{average}_{name}"] for name in ("precision", "recall", "f1")] == pytest.approx(expected[:3])
    assert scores["weighted_recall"] == pytest.approx(scores["accuracy"])
    assert metrics.summary(matrix)["majority"] == pytest.approx(np.bincount(truth).max() / len(truth))


def test_confusion_matrix_has_the_truth_in_rows_and_refuses_what_it_cannot_count():
    assert metrics.confusion_matrix([0, 0, 1], [1, 1, 1]).tolist() == [[0, 2, 0], [0, 1, 0], [0, 0, 0]]
    for odd in ([0, -1], [0, 3], [0, 0.5], [0, np.nan], [0]):
        with pytest.raises(ValueError):
            metrics.confusion_matrix([0, 1], odd)


def test_the_papers_matrices():
    a, b = metrics.summary(PAPER_A), metrics.summary(PAPER_B)
    assert (a["right"], a["n"], round(100 * a["accuracy"], 2)) == (110, 117, 94.02)
    assert metrics.text(b) == "0.90 [0.84, 0.94], n = 157; majority class 0.57"
    assert b["macro_f1_low"] < b["macro_f1"] < b["macro_f1_high"]
    assert (100 * metrics.per_class(PAPER_B, CLASSES)["sensitivity"]).round(1).tolist() == [97.8, 81.0, 76.9]


def test_a_class_without_images_has_no_score_and_spoils_none():
    matrix = [[5, 1, 0], [2, 4, 0], [0, 0, 0]]
    empty = metrics.per_class(matrix, CLASSES).loc["normal"]
    assert empty["n"] == 0 and empty["f1"] == 0 and empty["specificity"] == 1
    assert empty[["sensitivity", "sensitivity_low", "sensitivity_high", "precision", "precision_low"]].isna().all()
    assert metrics.averages(matrix) == pytest.approx(metrics.averages([[5, 1], [2, 4]]))
    assert not any(math.isnan(value) for value in metrics.summary(matrix).values())


def test_a_class_that_was_predicted_and_does_not_exist_counts_in_macro_f1():
    truth, p = np.array([0, 0, 1, 1]), np.eye(3)[[0, 0, 1, 2]]
    expected = sk.f1_score(truth, p.argmax(axis=1), average="macro", zero_division=0)
    assert metrics.probability_scores(truth, p)["macro_f1"] == pytest.approx(expected) == (1 + 2 / 3 + 0) / 3
    assert metrics.averages([[2, 0, 0], [0, 1, 1], [0, 0, 0]])["macro_f1"] == pytest.approx(expected)


def test_bootstrap_repeats_itself_keeps_the_classes_sizes_and_comes_near_wilson():
    sizes = set()
    metrics.bootstrap(PAPER_B, lambda m: sizes.add(tuple(m.sum(axis=1).tolist())) or 0.0, draws=50)
    assert sizes == {(89, 42, 26)}
    first, again, other = (metrics.bootstrap(PAPER_B, metrics.accuracy, seed=seed) for seed in (0, 0, 1))
    assert first == again != other and first == pytest.approx(metrics.wilson(141, 157), abs=0.03)


def made_predictions(n=90, seed=0):
    """Truth, probabilities (n, 3) that lean to it, and groups of three rows each."""
    rng = np.random.default_rng(seed)
    truth = np.arange(n) % 3
    logits = rng.normal(size=(n, 3)) + 1.2 * np.eye(3)[truth]
    return truth, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), np.arange(n) // 3


@pytest.mark.parametrize("places", [1, 15])  # 1: many ties
def test_probability_scores_are_scikit_learns(places):
    truth, p, _ = made_predictions()
    p = p.round(places)
    scores, predicted = metrics.probability_scores(truth, p), p.argmax(axis=1)
    assert scores["accuracy"] == pytest.approx(sk.accuracy_score(truth, predicted))
    assert scores["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(truth, predicted))
    assert scores["macro_f1"] == pytest.approx(sk.f1_score(truth, predicted, average="macro"))
    assert scores["auc"] == pytest.approx(sk.roc_auc_score(np.eye(3)[truth], p, average="macro"))
    assert scores["sensitivity_1"] == pytest.approx(sk.recall_score(truth, predicted, average=None)[1])
    for wrong in (truth + 1, truth - 1):
        with pytest.raises(ValueError):
            metrics.probability_scores(wrong, p)
    with pytest.raises(ValueError, match="NaN"):
        metrics.probability_scores(truth, np.where(p > 0.8, np.nan, p))


def test_grouped_bootstrap_sees_that_copies_add_nothing():
    truth, p, _ = made_predictions(60)
    right = p.argmax(axis=1) == truth
    once = metrics.grouped_bootstrap(np.mean, np.arange(60), right)
    copied = metrics.grouped_bootstrap(np.mean, np.repeat(np.arange(60), 4), np.repeat(right, 4))
    naive = metrics.grouped_bootstrap(np.mean, np.arange(240), np.repeat(right, 4))
    assert copied == once, "four copies of each image: the same groups, the same interval"
    assert naive[1] - naive[0] < 0.7 * (once[1] - once[0]), "one by one, the copies make it look narrower"
    assert once == pytest.approx(metrics.wilson(int(right.sum()), 60), abs=0.03)


def test_grouped_bootstrap_says_what_is_wrong():
    with pytest.raises(ValueError, match="3, 2"):
        metrics.grouped_bootstrap(np.mean, [1, 2, 3], [0, 1])
    with pytest.raises(DataError, match="only 0 of 500 draws have a score"):
        metrics.grouped_bootstrap(lambda x: float("nan"), [1, 2, 3], [0, 1, 1])
    with pytest.raises(DataError, match="no scan is left to be tested"):
        metrics.grouped_bootstrap(np.mean, [], [])


def test_a_row_without_a_group_is_refused():
    with pytest.raises(DataError, match="2 rows have no group"):
        metrics.grouped_bootstrap(np.mean, [0, 1, np.nan, None], np.ones(4))


def test_what_was_not_measured_does_not_narrow_an_interval():
    measured = metrics.corrected_interval([0.5, 0.6], 4, 1)
    assert metrics.corrected_interval([0.5, np.nan, 0.6, None], 4, 1) == measured


def test_intervals_hold_their_values():
    table = metrics.with_intervals(*made_predictions(), draws=200)
    assert ((table["low"] <= table["value"]) & (table["value"] <= table["high"]) & (table["draws"] == 200)).all()


def test_draws_that_lack_a_class_are_left_out_of_every_interval_and_counted():
    truth, p, groups = made_predictions()
    groups = np.where(truth == 2, 1000, groups)  # one group has all of a class
    table, rng = metrics.with_intervals(truth, p, groups), np.random.default_rng(0)
    lacking = sum(30 not in rng.integers(31, size=31) for _ in range(500))  # it is the last of 31
    assert 150 < lacking < 220 and (table["draws"] == 500 - lacking).all()
    with pytest.raises(DataError, match="of 500 draws have a score: there are too few groups of some class"):
        metrics.with_intervals(truth, p, np.where(truth > 0, truth, groups))


def test_a_class_that_the_data_do_not_have_leaves_the_other_scores_their_intervals():
    truth, p, groups = (array[np.arange(90) % 3 < 2] for array in made_predictions())
    table = metrics.with_intervals(truth, p, groups, draws=100).drop(columns="draws")
    assert table.loc["sensitivity_2"].isna().all() and table.drop(index="sensitivity_2").notna().all(axis=None)


rows = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 2**16)), min_size=4, max_size=50)


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@quick
@given(rows.filter(lambda pairs: 0 < sum(k for k, _ in pairs) < len(pairs)), st.permutations(range(3)))
def test_scores_are_over_the_classes_that_are_there(pairs, classes):
    """Two classes of three, whichever they are: the scores are scikit-learn's, and the third can only be a mistake."""
    codes, seeds = np.array(pairs).T
    truth = np.array(classes)[codes]
    p = np.array([np.random.default_rng(seed).dirichlet((1, 1, 1)) for seed in seeds])
    scores, predicted = metrics.probability_scores(truth, p), p.argmax(axis=1)
    assert scores["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(truth, predicted))
    assert scores["macro_f1"] == pytest.approx(sk.f1_score(truth, predicted, average="macro", zero_division=0))
    areas = [sk.roc_auc_score(truth == k, p[:, k]) for k in classes[:2]]
    assert scores["auc"] == pytest.approx(np.mean(areas))
    assert math.isnan(scores[f"sensitivity_{classes[2]}"])
    other = metrics.probability_scores(codes, p[:, classes])
    assert [scores[name] for name in ("accuracy", "balanced_accuracy", "macro_f1", "auc")] == pytest.approx(
        [other[name] for name in ("accuracy", "balanced_accuracy", "macro_f1", "auc")]
    ), "no class is special"


def test_one_class_alone_has_no_auc():
    scores = metrics.probability_scores(np.ones(4, int), np.eye(3)[[1, 1, 1, 2]])
    assert scores["balanced_accuracy"] == scores["accuracy"] == 0.75 and math.isnan(scores["auc"])


def test_without_a_correction_it_is_the_paired_t_interval():
    differences = np.array([1.0, 2.0, 4.0, 0.5, 2.5])
    expected = stats.ttest_1samp(differences, 0).confidence_interval()
    assert metrics.corrected_interval(differences, 1, 0) == pytest.approx((2.0, expected.low, expected.high))
    assert all(math.isnan(x) for x in metrics.corrected_interval([3.0], 1, 0)[1:])


several = st.lists(st.floats(-50, 50), min_size=2, max_size=12).filter(lambda values: np.std(values) > 1e-3)


@quick
@given(several, st.integers(20, 900), st.integers(5, 300))
def test_corrected_interval_is_nadeau_and_bengios(values, n_train, n_test):
    corrected, plain = metrics.corrected_interval(values, n_train, n_test), metrics.corrected_interval(values, 1, 0)
    standard_error = np.sqrt((1 / len(values) + n_test / n_train) * np.var(values, ddof=1))
    expected = stats.t(len(values) - 1, np.mean(values), standard_error).interval(0.95)
    assert corrected == pytest.approx((np.mean(values), *expected))
    assert corrected[1] < plain[1] and plain[2] < corrected[2], "wider than independent splits would give"
    assert metrics.corrected_interval(values, 100, 0) == plain
    sizes = [n_train] * len(values), [n_test] * len(values)
    assert metrics.corrected_interval(values, *sizes) == pytest.approx(corrected), "one size for all or one per split"


def test_corrected_interval_holds_the_truth_where_students_does_not():
    """Five random test sets of 30 out of 150 images, again and again: how often is the true score in the interval?"""
    rng, hits = np.random.default_rng(0), np.zeros(2)
    for _ in range(300):
        images = rng.normal(size=150)
        scores = [rng.permutation(images)[:30].mean() for _ in range(5)]
        intervals = metrics.corrected_interval(scores, 1, 0), metrics.corrected_interval(scores, 120, 30)
        hits += [low <= 0 <= high for _, low, high in intervals]
    assert hits[0] / 300 < 0.9 and hits[1] / 300 == pytest.approx(0.95, abs=0.03)


@quick
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=80))
def test_mcnemar_is_statsmodels(pairs):
    first, second = np.array(pairs).T
    compared = metrics.mcnemar(np.ones(len(first), int), first, second)
    table = [[sum((first == a) & (second == b)) for b in (1, 0)] for a in (1, 0)]
    assert compared["p"] == pytest.approx(mcnemar(table, exact=True).pvalue)
    assert (compared["only_first"], compared["only_second"]) == (table[0][1], table[1][0])


def test_the_calibration_error_by_hand():
    p = np.array([[0.95, 0.05], [0.92, 0.08], [0.35, 0.65], [0.38, 0.62]])
    assert metrics.calibration_error([0, 1, 1, 1], p) == pytest.approx((abs(0.635 - 1) + abs(0.935 - 0.5)) / 2)
