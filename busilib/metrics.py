"""Scores with intervals: arrays in, numbers out. What scikit-learn and scipy have is theirs.

Labels and predictions are integer arrays (N,) in class order; a confusion matrix has the truth in its rows and the
prediction in its columns, (K, K), counts. Scores are fractions in [0, 1].
"""

from operator import itemgetter

import numpy as np
import pandas as pd
import sklearn.metrics as sk
from scipy import stats
from sklearn.utils import assert_all_finite, check_consistent_length

from busilib.errors import DataError


def confusion_matrix(truth, predicted, classes=3):
    """Count (K, K): row = truth, column = prediction. ``classes`` is K.

    Raises ValueError for a label that is not a whole number from 0 to K - 1.
    """
    # Labels outside the list are dropped by scikit-learn without a word.
    if not np.isin(np.append(truth, predicted), range(classes)).all():
        raise ValueError(f"labels and predictions must be whole numbers from 0 to {classes - 1}")
    return sk.confusion_matrix(truth, predicted, labels=range(classes))


def wilson(right, total, level=0.95):
    """Return the Wilson score interval (low, high) of ``right`` successes in ``total`` trials.

    Source: E. B. Wilson, JASA 22 (1927) 209. Unlike p ± 1.96 se it stays inside [0, 1] and holds for small counts.
    ``total == 0`` gives (nan, nan): there is nothing to say. Raises ValueError when right > total.
    """
    if right == total == 0:
        return float("nan"), float("nan")
    return tuple(map(float, stats.binomtest(right, total).proportion_ci(level, method="wilson")))


def accuracy(matrix):
    """Return the share that is right: the diagonal's."""
    return float(np.trace(matrix) / np.sum(matrix))


def per_class(matrix, classes):
    """Return one row per class: n, sensitivity, specificity, precision, F1; sensitivity and precision with intervals.

    A class that was never predicted has no precision (NaN), and F1 0, as in scikit-learn with ``zero_division=0``.
    """
    counts = np.diag(matrix), np.sum(matrix, axis=1), np.sum(matrix, axis=0)
    hits, actual, named = (pd.Series(values, pd.Index(classes, name="class")) for values in counts)
    rest = actual.sum() - actual
    table = pd.DataFrame({"n": actual, "sensitivity": hits / actual})
    table[["sensitivity_low", "sensitivity_high"]] = [wilson(*pair) for pair in zip(hits, actual, strict=True)]
    table = table.assign(specificity=(rest - named + hits) / rest, precision=hits / named)
    table[["precision_low", "precision_high"]] = [wilson(*pair) for pair in zip(hits, named, strict=True)]
    return table.assign(f1=(2 * hits / (actual + named)).fillna(0))


def averages(matrix):
    """Return accuracy and the weighted and macro averages of precision, recall and F1, as a dict.

    Weighted = by the number of images of each class; macro = every class counts the same, also one that was predicted
    and does not exist (F1 0). Weighted recall always equals accuracy, which is why a table of weighted averages shows
    it twice.
    """
    images = np.repeat(np.indices(np.shape(matrix)).reshape(2, -1), np.ravel(matrix), axis=1)  # truth, prediction
    report = sk.classification_report(*images, output_dict=True, zero_division=0)
    names = {"precision": "precision", "recall": "recall", "f1": "f1-score"}.items()
    scores = {f"{by}_{name}": report[f"{by} avg"][key] for name, key in names for by in ("weighted", "macro")}
    return {"accuracy": accuracy(matrix)} | scores


def summary(matrix):
    """Return n, right, accuracy with its 95 % Wilson interval, majority, and the averages, as a dict.

    ``majority`` is the accuracy of always naming the most frequent class: what any model must beat. The macro F1 has a
    95 % interval from `bootstrap`.
    """
    right, total, largest = int(np.trace(matrix)), int(np.sum(matrix)), int(np.sum(matrix, axis=1).max())
    ends = *wilson(right, total), *bootstrap(matrix, _macro_f1)
    ends = dict(zip(("accuracy_low", "accuracy_high", "macro_f1_low", "macro_f1_high"), ends, strict=True))
    return {"n": total, "right": right, "majority": largest / total} | averages(matrix) | ends


def bootstrap(matrix, score, draws=500, level=0.95, seed=0):
    """Return the percentile interval (low, high) of ``score(matrix)``, resampling images within each true class.

    Stratified, so that a rare class is in every draw. With classes fixed, one draw of n images of a class is one
    multinomial draw of its row: the images themselves are not needed.
    """
    rng = np.random.default_rng(seed)
    drawn = [rng.multinomial(sum(row), np.divide(row, max(sum(row), 1)), size=draws) for row in matrix]
    return _percentiles([score(m) for m in np.stack(drawn, axis=1)], level)


def probability_scores(truth, probabilities):
    """Return the clean protocol's scores as a dict: accuracy, balanced_accuracy, macro_f1, auc and sensitivity_0, …

    ``truth`` int (N,), ``probabilities`` (N, K). The balanced accuracy is the mean of the classes' sensitivities; the
    AUC the mean over the classes, each against the rest (Provost & Domingos 2001, unweighted). Both are over the
    classes in ``truth``: another has sensitivity NaN, and naming it is a mistake. With one class there is no AUC (NaN).
    Raises ValueError for a probability that is not finite: the model gave NaN.
    """
    truth, probabilities = np.asarray(truth), np.asarray(probabilities, dtype=float)
    assert_all_finite(probabilities, input_name="probabilities")
    k = probabilities.shape[1]
    # A bootstrap asks for all this hundreds of times, and scikit-learn's functions take about ten times as long.
    matrix = np.bincount(k * truth + probabilities.argmax(axis=1), minlength=k * k).reshape(k, k)
    actual = matrix.sum(axis=1)
    sensitivity = np.where(actual > 0, np.diag(matrix) / np.maximum(actual, 1), np.nan)
    there = np.flatnonzero(actual)
    area = _auc(truth, probabilities, there) if len(there) > 1 else np.nan
    balanced = sensitivity[there].mean()
    scores = {"accuracy": accuracy(matrix), "balanced_accuracy": balanced, "macro_f1": _macro_f1(matrix)}
    scores |= {"auc": area} | {f"sensitivity_{i}": value for i, value in enumerate(sensitivity)}
    return {name: float(value) for name, value in scores.items()}


def with_intervals(truth, probabilities, groups, draws=500, level=0.95, seed=0):
    """Return `probability_scores` as a table: index score; columns value, low, high and draws.

    The intervals are those of `grouped_bootstrap`. A draw that lacks a class of ``truth`` is left out of all of them;
    ``draws`` is the number of those that count. Raises DataError when fewer than half do.
    """
    values = pd.Series(probability_scores(truth, probabilities))
    scored = values.dropna().index  # a class that is nowhere in the truth has no score in any draw either
    score = lambda *rows: itemgetter(*scored)(probability_scores(*rows))  # noqa: E731
    drawn = _draw(score, groups, (truth, probabilities), draws, seed)
    low, high = (pd.Series(ends, scored) for ends in _percentiles(drawn, level))
    return pd.DataFrame({"value": values, "low": low, "high": high}, values.index).assign(draws=len(drawn))


def grouped_bootstrap(score, groups, *arrays, draws=500, level=0.95, seed=0):
    """Return the percentile interval (low, high) of ``score(*arrays)``, resampling whole groups of rows.

    Near-identical scans are not independent: an interval that draws images one by one is too narrow. Here a draw takes
    as many groups as there are, with replacement, and each group with all its rows. ``groups`` (N,) names the group of
    each row; ``arrays`` have N rows each. A paired difference is one more score:
    ``lambda truth, a, b: np.mean(b == truth) - np.mean(a == truth)``. A draw whose score cannot be computed (a class
    is missing from it) must give NaN, and is left out. Source: Davison & Hinkley, Bootstrap Methods (1997), 3.8.
    Raises ValueError when the lengths differ, DataError when fewer than half of the draws have a score.
    """
    return _percentiles(_draw(score, groups, arrays, draws, seed), level)


def corrected_interval(values, n_train, n_test, level=0.95):
    """Return (mean, low, high) of measurements (n,) on n random splits of one data set, by a corrected t interval.

    Such splits share most of their training images, so their results vary together and Student's t is too narrow. Its
    variance times 1/n is replaced by the variance times (1/n + n_test/n_train). Source: C. Nadeau & Y. Bengio,
    Machine Learning 52 (2003) 239. ``n_train``, ``n_test``: how many images, one number or one per split. With
    (1, 0), for independent measurements such as one per weight seed, it is Student's t; of paired differences, the
    paired t interval. NaN values do not count. With one value the interval is unknown: NaN.
    """
    values = pd.Series(values, dtype=float).dropna()
    factor = 1 / values.size + np.mean(np.divide(n_test, n_train))
    half = stats.t.ppf(0.5 + level / 2, values.size - 1) * values.std() * np.sqrt(factor)
    return tuple(map(float, (values.mean(), values.mean() - half, values.mean() + half)))


def mcnemar(truth, first, second):
    """Compare two models on the same images: return a dict with only_first, only_second (counts) and p.

    Only images that one model has right and the other wrong say anything. p is the exact two-sided binomial value.
    Source: Q. McNemar, Psychometrika 12 (1947) 153.
    """
    first, second = (np.asarray(predicted) == np.asarray(truth) for predicted in (first, second))
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    p = float(stats.binomtest(only_first, only_first + only_second).pvalue) if only_first + only_second else 1.0
    return {"only_first": only_first, "only_second": only_second, "p": p}


def calibration_error(truth, probabilities, bins=10):
    """Return the expected calibration error: the gap between confidence and accuracy, averaged over the images.

    ``truth`` (N,) class numbers; ``probabilities`` (N, K). The confidence is the highest probability of an image, and
    the gaps are those of bins of equal width. A well-calibrated model is right on 70 % of the images on which its
    confidence is 0.7. Source: Naeini, Cooper & Hauskrecht, AAAI 2015. 0 is perfect; it says nothing about the accuracy
    itself.
    """
    truth, probabilities = np.asarray(truth), np.asarray(probabilities, dtype=float)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    rows = pd.DataFrame({"confidence": confidence, "right": right}).groupby(which)
    return float(np.average((rows["confidence"].mean() - rows["right"].mean()).abs(), weights=rows.size()))


def text(summary):
    """Return a summary's accuracy as one line: "0.84 [0.71, 0.92], n = 45; majority class 0.56"."""
    line = "{accuracy:.2f} [{accuracy_low:.2f}, {accuracy_high:.2f}], n = {n}; majority class {majority:.2f}"
    return line.format(**summary)


def _draw(score, groups, arrays, draws, seed):
    """Return the scores of the valid draws of whole groups: (n,) or, of several scores, (n, scores)."""
    arrays = [np.asarray(array) for array in arrays]
    check_consistent_length(groups, *arrays)
    if missing := pd.isna(np.asarray(groups)).sum():
        raise DataError(f"{missing} rows have no group, so they would be left out: name a group for each")
    rows = list(pd.Series(np.asarray(groups)).groupby(np.asarray(groups)).indices.values())
    if not rows:
        raise DataError("no scan is left to be tested: more patients are needed")
    chosen = np.random.default_rng(seed).integers(len(rows), size=(draws, len(rows)))
    samples = (np.concatenate([rows[i] for i in groups]) for groups in chosen)
    values = np.array([score(*(array[sample] for array in arrays)) for sample in samples], dtype=float)
    valid = values[np.isfinite(values.reshape(draws, -1)).all(axis=1)]
    if len(valid) < draws / 2:
        raise DataError(f"only {len(valid)} of {draws} draws have a score: there are too few groups of some class")
    return valid


def _percentiles(values, level):
    """Return (low, high), of several scores a list each."""
    return tuple(np.quantile(values, [0.5 - level / 2, 0.5 + level / 2], axis=0).tolist())


def _macro_f1(matrix):
    counts = np.sum(matrix, axis=0) + np.sum(matrix, axis=1)
    return float((2 * np.diag(matrix)[counts > 0] / counts[counts > 0]).mean())


def _auc(truth, probabilities, classes):
    """Return the mean over ``classes`` of the share of (one of the class, another) pairs in the right order."""
    of_class = classes == truth[:, None]
    n, ranks = of_class.sum(axis=0), stats.rankdata(probabilities[:, classes], axis=0)
    return float((((ranks * of_class).sum(axis=0) - n * (n + 1) / 2) / (n * (len(truth) - n))).mean())
